package e2e

import (
	"context"
	"os"
	"testing"
	"time"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/shoptest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	shoptest.Clean()
	os.Exit(code)
}

// openStore runs a whole store in this process until the test ends.
func openStore(t *testing.T, o shop.Options) (*shop.Store, target) {
	t.Helper()
	o.Listen, o.Console = "127.0.0.1:0", "127.0.0.1:0"
	if o.Data == "" {
		o.Data = t.TempDir()
	}
	store, err := shop.Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("the store did not stop in order: %v", err)
			}
		case <-time.After(60 * time.Second):
			t.Error("the store did not stop within a minute")
		}
	})
	tg := target{base: store.PublicURL()}
	for _, a := range store.Accounts() {
		if a.What == "operator" {
			tg.adminEmail, tg.adminPassword = a.Email, a.Password
		} else {
			tg.demoEmail, tg.demoPassword = a.Email, a.Password
		}
	}
	return store, tg
}

// TestOneProcess runs the suite against the store in one process, on SQLite and the embedded broker, and
// then looks at the books.
func TestOneProcess(t *testing.T) {
	data := t.TempDir()
	_, tg := openStore(t, shop.Options{Data: data, Logs: logFile(t)})
	s := newSuite(t, tg)
	t.Run("suite", s.run)
	r, err := shop.Check(t.Context(), shop.CheckOptions{Data: data, Wait: 60 * time.Second}, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if r.Breaches() > 0 || !r.Quiescent() {
		r.Print(t.Output())
		t.Errorf("%d breaches, waiting for %v", r.Breaches(), r.Waiting)
	}
}

// logFile keeps the store's log for a failed test.
func logFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp("", "shop-e2e-*.log")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if t.Failed() {
			t.Logf("the store's log is in %s", f.Name())
			return
		}
		os.Remove(f.Name())
	})
	return f
}
