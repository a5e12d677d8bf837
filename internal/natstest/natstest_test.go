package natstest_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/natstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFilesSurviveARestartAndARollbackForgets(t *testing.T) {
	s := natstest.Start(t)
	js, err := jetstream.New(s.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "a", Subjects: []string{"a.>"}}); err != nil {
		t.Fatal(err)
	}
	publish := func() {
		t.Helper()
		if _, err := js.Publish(ctx, "a.b", []byte("x"), jetstream.WithRetryAttempts(100), jetstream.WithRetryWait(50*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	last := func() uint64 {
		t.Helper()
		// A server of this process that has just come back.
		nc, err := nats.Connect(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		js, _ := jetstream.New(nc)
		st, err := js.Stream(ctx, "a")
		if err != nil {
			t.Fatal(err)
		}
		return st.CachedInfo().State.LastSeq
	}
	publish()
	s.Restart()
	if n := last(); n != 1 {
		t.Fatalf("after a restart the stream ends at %d, want 1", n)
	}
	before := s.Snapshot()
	js2, _ := jetstream.New(s.Conn(t))
	if _, err := js2.Publish(ctx, "a.b", []byte("y")); err != nil {
		t.Fatal(err)
	}
	s.Rollback(before)
	if n := last(); n != 1 {
		t.Fatalf("after a rollback the stream ends at %d, want 1", n)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	urls := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		done <- natstest.Serve(ctx, natstest.Config{Addr: "127.0.0.1:0", Dir: t.TempDir()}, func(url string) { urls <- url })
	}()
	nc, err := nats.Connect(<-urls)
	if err != nil {
		t.Fatal(err)
	}
	nc.Close()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
