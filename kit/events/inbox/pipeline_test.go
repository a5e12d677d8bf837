package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

func connect(t testing.TB, s *natstest.Server) *natsevents.Broker {
	t.Helper()
	b, err := natsevents.Connect(t.Context(), s.Conn(t), &natsevents.Config{AckWait: 2 * time.Second, Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// Outbox to JetStream to inbox, whose handler appends to the outbox itself; the
// broker's server is restarted meanwhile, and the consumer and relay too.
func TestEachEffectOnceInOrderOverRestarts(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		if err := migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
			t.Fatal(err)
		}
		ob, err := outbox.New(db.Dialect, "order", nil)
		if err != nil {
			t.Fatal(err)
		}
		srv := natstest.Start(t)
		b := connect(t, srv)
		if err := b.EnsureTopics(t.Context(), "orders", "replies"); err != nil {
			t.Fatal(err)
		}
		relay := func() (stop func()) {
			r, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: 500 * time.Millisecond, MaxBackoff: 100 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		h := func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if err := effect(ctx, tx, e); err != nil {
				return err
			}
			return ob.Append(ctx, tx, events.Event{Type: "test.v1.Replied", Topic: "replies", Key: e.Key})
		}
		n := 0
		write := func(k int) {
			for range k {
				n++
				err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					return ob.Append(ctx, tx, event("a", n), event("b", n))
				})
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		stopRelay := relay()
		_, stopConsumer := start(t, db, b, inbox.ConsumerConfig{}, h)
		write(20)
		happen(t, db, 10)
		srv.Restart()
		write(20)
		stopConsumer()
		stopRelay()
		stopRelay = relay()
		defer func() { stopRelay() }()
		start(t, db, b, inbox.ConsumerConfig{}, h)
		write(10)
		happen(t, db, 2*n)
		drained(t, b)
		got := effects(t, db)
		for _, k := range []string{"a", "b"} {
			for i, s := range of(k, got) {
				if s != fmt.Sprintf("%s-%d", k, i+1) {
					t.Fatalf("key %s: %v", k, of(k, got))
				}
			}
		}
		if len(got) != 2*n {
			t.Errorf("%d effects, want %d", len(got), 2*n)
		}
		eventually(t, "every reply is published", func() bool {
			bl, err := outbox.ReadBacklog(t.Context(), db)
			st, err2 := b.StreamState(t.Context(), "replies")
			return errors.Join(err, err2) == nil && bl.Empty() && int(st.LastSeq) >= 2*n
		})
	})
}

func TestWhatDoesNotDecodeIsDeadLettered(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		srv := natstest.Start(t)
		b := connect(t, srv)
		if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
			t.Fatal(err)
		}
		js, err := jetstream.New(srv.Conn(t))
		if err != nil {
			t.Fatal(err)
		}
		raw := func(h nats.Header, data string) {
			if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "orders.0." + happened, Header: h, Data: []byte(data)}); err != nil {
				t.Fatal(err)
			}
		}
		raw(nil, "not an event")
		raw(nil, "not an event") // the same again: one letter
		raw(nats.Header{"ce-specversion": {"2.0"}, "ce-id": {"%00%ff"}, "ce-partitionkey": {"%00"}}, "\x00\xff")
		raw(nats.Header{"ce-specversion": {"1.0"}, "ce-id": {"x%"}}, "bad escape")
		publish(t, b, event("a", 1))
		start(t, db, b, inbox.ConsumerConfig{}, nil)
		happen(t, db, 1)
		drained(t, b)
		l := letters(t, db)
		if len(l) != 3 {
			t.Fatalf("%d letters, want 3: %+v", len(l), l)
		}
		for _, x := range l {
			if x.State != inbox.Dead || x.Cause == "" || len(x.Event.Data) == 0 {
				t.Errorf("letter %+v", x)
			}
		}
	})
}

// PostgreSQL is restarted under a consumer: it pauses, counts nothing, goes on.
func TestADatabaseThatIsRestarted(t *testing.T) {
	if _, err := pgtest.Find(); err != nil {
		pgtest.URL(t) // skips, or fails where PostgreSQL is required
	}
	srv, err := pgtest.Start("", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	db := openPostgres(t, srv.URL("postgres"))
	migrated(t, db)
	b := connect(t, natstest.Start(t))
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	start(t, db, b, inbox.ConsumerConfig{MaxAttempts: 1}, nil)
	for i := 1; i <= 10; i++ {
		publish(t, b, event("a", i))
	}
	happen(t, db, 1)
	if err := srv.Restart(); err != nil {
		t.Fatal(err)
	}
	for i := 11; i <= 20; i++ {
		publish(t, b, event("a", i))
	}
	var got []string
	eventually(t, "twenty effects", func() bool {
		var n int
		if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM effect`).Scan(&n); err != nil || n < 20 {
			return false
		}
		got = effects(t, db)
		return true
	})
	var want []string
	for i := 1; i <= 20; i++ {
		want = append(want, fmt.Sprintf("a-%d", i))
	}
	if !slices.Equal(got, want) {
		t.Errorf("effects %v", got)
	}
	if l := letters(t, db); len(l) != 0 {
		t.Errorf("letters %+v", l)
	}
}
