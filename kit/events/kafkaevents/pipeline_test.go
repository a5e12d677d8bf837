package kafkaevents_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/kafkaevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// Outbox to Kafka to inbox, in blocks; the cluster, the relay and the consumer are
// restarted meanwhile. Each effect once, in the order of its key.
func TestEachEffectOnceInOrderOverRestarts(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "line.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		pipeline(t, db)
	})
	if testing.Short() {
		return
	}
	t.Run("postgres", func(t *testing.T) { pipeline(t, pgtest.DB(t)) })
}

func pipeline(t *testing.T, db *sqldb.DB) {
	id := "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
	if db.Dialect == sqldb.SQLite {
		id = "INTEGER PRIMARY KEY AUTOINCREMENT"
	}
	if err := migrate.Up(t.Context(), db, "napkin_inbox", inbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	if err := migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE effect (n `+id+`, event TEXT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t)
	b := c.connect(kafkaevents.Config{AckWait: 2 * time.Second, Timeout: time.Second})
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	running := func(run func(context.Context) error) (stop func()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- run(ctx) }()
		stopped := false
		stop = func() {
			if stopped {
				return
			}
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		t.Cleanup(stop)
		return stop
	}
	relay := func() func() {
		r, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: 500 * time.Millisecond, MaxBackoff: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return running(r.Run)
	}
	consumer := func() func() {
		k, err := inbox.NewConsumer("mail", db, sqldb.Std(db), b, &inbox.ConsumerConfig{LeaseTTL: 500 * time.Millisecond, Backoff: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		k.Handle("orders", "test.v1.Happened", func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			_, err := tx.ExecContext(ctx, `INSERT INTO effect (event) VALUES ($1)`, fmt.Sprintf("%s-%d", e.Key, e.KeySeq))
			return err
		})
		return running(k.Run)
	}
	keys := []string{"a", "b", "c", "d", "e"}
	n := 0
	write := func(k int) {
		for range k {
			n++
			var evs []events.Event
			for _, key := range keys {
				evs = append(evs, events.Event{Type: "test.v1.Happened", Topic: "orders", Key: key})
			}
			err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return ob.Append(ctx, tx, evs...) })
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	effects := func() []string {
		rows, err := db.Read.QueryContext(t.Context(), `SELECT event FROM effect ORDER BY n`)
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		var out []string
		for rows.Next() {
			var s string
			if err := rows.Scan(&s); err != nil {
				t.Fatal(err)
			}
			out = append(out, s)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	await := func(want int) {
		t.Helper()
		deadline := time.Now().Add(90 * time.Second)
		for len(effects()) < want {
			if time.Now().After(deadline) {
				t.Fatalf("%d effects in time, want %d", len(effects()), want)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	stopRelay, stopConsumer := relay(), consumer()
	write(20)
	await(20)
	c.Close()
	write(10)
	c.again()
	write(10)
	stopConsumer()
	stopRelay()
	relay()
	consumer()
	write(10)
	await(n * len(keys))
	got := effects()
	if len(got) != n*len(keys) {
		t.Errorf("%d effects of %d events", len(got), n*len(keys))
	}
	for _, key := range keys {
		var of, want []string
		for _, s := range got {
			if strings.HasPrefix(s, key+"-") {
				of = append(of, s)
			}
		}
		for i := range n {
			want = append(want, fmt.Sprintf("%s-%d", key, i+1))
		}
		if !slices.Equal(of, want) {
			t.Errorf("key %s: %v", key, of)
		}
	}
}
