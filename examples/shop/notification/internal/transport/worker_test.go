package transport_test

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/transport"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func onBoth(t *testing.T, test func(*testing.T, *sqldb.DB)) {
	t.Run("SQLite", func(t *testing.T) { test(t, sqlite(t, "notification.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, pgtest.DB(t)) })
}

func sqlite(t *testing.T, name string) *sqldb.DB {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), name), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// rig is the service's inside with a real mail server and gateway to talk to.
type rig struct {
	*store.Store
	db   *sqldb.DB
	sink *sink.Sink
	out  *transport.Outgoing
	wake chan struct{}
}

func newRig(t *testing.T, db *sqldb.DB) *rig {
	if err := migrate.Up(t.Context(), db, "notification", store.Migrations()); err != nil {
		t.Fatal(err)
	}
	s, err := sink.New(t.Context(), sqlite(t, "sink.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := s.SMTP()
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	t.Cleanup(func() { srv.Close(); <-done })
	h := httptest.NewServer(s.Handler())
	t.Cleanup(h.Close)
	r := &rig{db: db, sink: s, wake: make(chan struct{}, 1)}
	if r.out, err = transport.NewOutgoing(l.Addr().String(), "orders@shop.test", h.URL); err != nil {
		t.Fatal(err)
	}
	r.Store, err = store.New(db, make([]byte, 32), func() {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) in(t *testing.T, fn func(context.Context, *sql.Tx) error) {
	t.Helper()
	if err := sqldb.InTx(t.Context(), r.db, fn); err != nil {
		t.Fatal(err)
	}
}

// work runs a worker until ok holds.
func (r *rig) work(t *testing.T, point transport.Point, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	w := transport.NewWorker(r.Store, r.out, r.wake, point, slog.New(slog.DiscardHandler))
	go func() { done <- w.Run(ctx) }()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Error("not within 20 s")
			cancel()
			<-done
			return
		case <-tick.C:
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func (r *rig) received(t *testing.T) []sink.Message {
	t.Helper()
	m, err := r.sink.Messages(context.Background(), "", "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var (
	ada     = domain.Contact{UserID: "usr_1", Email: "ada@example.test", Name: "Ada", Phone: "+491", WantEmail: true, WantSMS: true}
	outcome = domain.Outcome{OrderID: "ord_1", UserID: "usr_1", Kind: domain.Confirmed, TotalMinor: 1999, Currency: "EUR"}
)

func TestAnOutcomeIsToldOnceByEachChannel(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutContact(ctx, tx, ada) })
		for range 2 {
			r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutOutcome(ctx, tx, outcome) })
		}
		var settled atomic.Int32
		r.work(t, func(_ context.Context, where string, _ domain.Notification) {
			if where == "after-mark" {
				settled.Add(1)
			}
		}, func() bool { return settled.Load() == 2 })
		got := r.received(t)
		if len(got) != 2 {
			t.Fatalf("%+v", got)
		}
		list, err := r.List(t.Context(), "ord_1", store.Place{}, 10)
		if err != nil || len(list) != 2 || list[0].Status != domain.Sent || list[1].Status != domain.Sent {
			t.Errorf("%+v, %v", list, err)
		}
		if page, err := r.List(t.Context(), "", store.Place{CreatedAt: list[0].CreatedAt.UnixMicro(), ID: list[0].ID}, 10); err != nil || len(page) != 1 || page[0].ID != list[1].ID {
			t.Errorf("second page: %+v, %v", page, err)
		}
	})
}

func TestAnOutcomeWaitsForItsContact(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutOutcome(ctx, tx, outcome) })
		r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutContact(ctx, tx, ada) })
		r.work(t, nil, func() bool { return len(r.received(t)) == 2 })
	})
}

func TestADeadWorkersNotificationIsSentAgainUnderItsID(t *testing.T) {
	onBoth(t, func(t *testing.T, db *sqldb.DB) {
		r := newRig(t, db)
		r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutContact(ctx, tx, ada) })
		r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutOutcome(ctx, tx, outcome) })
		// One worker takes it, hands it over and dies before it could say so.
		n, ok, err := r.Claim(t.Context(), 0)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if err := r.out.Send(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		r.work(t, nil, func() bool { return len(r.received(t)) == 3 })
		ids := map[string]int{}
		for _, m := range r.received(t) {
			ids[m.ID]++
		}
		if len(ids) != 2 {
			t.Errorf("two notifications, one handed over twice under one id: %v", ids)
		}
	})
}

func TestRefusedForGoodIsUndeliverable(t *testing.T) {
	r := newRig(t, sqlite(t, "n.db"))
	nowhere, err := transport.NewOutgoing("127.0.0.1:1", "orders@shop.test", "")
	if err != nil {
		t.Fatal(err)
	}
	err = nowhere.Send(t.Context(), domain.Notification{ID: "ntf_1", Channel: domain.SMS, To: "+491"})
	if !errors.Is(err, transport.ErrRefused) {
		t.Errorf("no gateway: %v", err)
	}
	err = nowhere.Send(t.Context(), domain.Notification{ID: "ntf_1", Channel: domain.Email, To: "a@example.test"})
	if err == nil || errors.Is(err, transport.ErrRefused) {
		t.Errorf("a mail server that is down is no refusal: %v", err)
	}
	err = r.out.Send(t.Context(), domain.Notification{ID: "ntf_1", Channel: domain.Email, To: "not an address"})
	if !errors.Is(err, transport.ErrRefused) {
		t.Errorf("a nonsense address: %v", err)
	}
}

func TestPersonalDataIsSealedAtRest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n.db")
	db, err := sqlitedb.Open(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, db)
	r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutContact(ctx, tx, ada) })
	r.in(t, func(ctx context.Context, tx *sql.Tx) error { return r.PutOutcome(ctx, tx, outcome) })
	db.Close()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{ada.Email, "Hello Ada"} {
		if containsBytes(raw, secret) {
			t.Errorf("%q stands in clear in the database file", secret)
		}
	}
	if _, err := store.New(db, make([]byte, 31), func() {}, time.Now); err == nil {
		t.Error("a short key was taken")
	}
}

func containsBytes(raw []byte, s string) bool {
	for i := 0; i+len(s) <= len(raw); i++ {
		if string(raw[i:i+len(s)]) == s {
			return true
		}
	}
	return false
}
