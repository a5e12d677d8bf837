package outbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) {
	if url := os.Getenv(relayDatabase); url != "" {
		if err := runRelay(url, os.Getenv(relayBroker)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(pgtest.Main(m))
}

// both runs a test on each dialect, with the tables in place.
func both(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) { test(t, migrated(t, sqlite(t))) })
	t.Run("postgres", func(t *testing.T) { test(t, migrated(t, pgtest.DB(t))) })
}

func sqlite(t testing.TB) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "outbox.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func migrated(t testing.TB, db *sqldb.DB) *sqldb.DB {
	t.Helper()
	if err := migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	return db
}

func newOutbox(t testing.TB, db *sqldb.DB) *outbox.Outbox {
	t.Helper()
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ob
}

func event(key string, n int) events.Event {
	return events.Event{ID: fmt.Sprintf("%s-%d", key, n), Type: "test.v1.Happened", Topic: "orders", Key: key, Data: fmt.Appendf(nil, "%d", n)}
}

// beside returns a key that begins with name and shares its partition with key.
func beside(key, name string) string {
	for i := 0; ; i++ {
		if k := fmt.Sprintf("%s%d", name, i); events.Partition(k) == events.Partition(key) {
			return k
		}
	}
}

func add(t testing.TB, db *sqldb.DB, ob *outbox.Outbox, evs ...events.Event) {
	t.Helper()
	err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return ob.Append(ctx, tx, evs...) })
	if err != nil {
		t.Fatal(err)
	}
}

// start runs a relay until the test or the returned func ends it.
func start(t testing.TB, db *sqldb.DB, ob *outbox.Outbox, p events.Publisher, cfg *outbox.RelayConfig) (stop func()) {
	t.Helper()
	c := outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: time.Second, MaxBackoff: 100 * time.Millisecond}
	if cfg != nil {
		c = *cfg
	}
	r, err := outbox.NewRelay(db, ob, p, &c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s", what)
		}
	}
}

func ids(evs []events.Event) []string {
	var out []string
	for _, e := range evs {
		out = append(out, e.ID)
	}
	return out
}

func published(t testing.TB, b *memevents.Broker, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v published", want), func() bool {
		got := ids(b.Events("orders"))
		for _, w := range want {
			if !slices.Contains(got, w) {
				return false
			}
		}
		return true
	})
}

func TestAnEventIsPublishedIfItsTransactionCommits(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		start(t, db, ob, b, nil)
		boom := errors.New("boom")
		err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
			if err := ob.Append(ctx, tx, event("rolled", 1)); err != nil {
				return err
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Fatal(err)
		}
		ctx := correlation.With(t.Context(), correlation.IDs{RequestID: "req", CorrelationID: "corr", CausationID: "cause", UserID: "u1"})
		err = sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			return ob.Append(ctx, tx, event("a", 1), event("a", 2), event("b", 1))
		})
		if err != nil {
			t.Fatal(err)
		}
		published(t, b, "a-1", "a-2", "b-1")
		got := b.Events("orders")
		if slices.Contains(ids(got), "rolled-1") {
			t.Error("an event of a transaction that rolled back was published")
		}
		for _, e := range got {
			if e.Source != "order" || e.CorrelationID != "corr" || e.CausationID != "cause" || e.UserID != "u1" || e.Time.IsZero() {
				t.Errorf("not stamped: %+v", e)
			}
			if want := string(e.Data); fmt.Sprint(e.KeySeq) != want {
				t.Errorf("KeySeq of %s is %d, want %s", e.ID, e.KeySeq, want)
			}
		}
		eventually(t, "an empty backlog", func() bool {
			bl, err := outbox.ReadBacklog(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			return bl.Empty() && bl.Oldest.IsZero()
		})
	})
}

func TestAppendRefusesWhatCannotBePublished(t *testing.T) {
	db := migrated(t, sqlite(t))
	ob := newOutbox(t, db)
	for name, e := range map[string]events.Event{
		"no type":   {Topic: "orders", Key: "a"},
		"no topic":  {Type: "a.b", Key: "a"},
		"bad topic": {Type: "a.b", Topic: "a.b"},
		"too large": {Type: "a.b", Topic: "orders", Data: make([]byte, 1<<20)},
		"control":   {Type: "a.b", Topic: "orders", Key: "a\nb"},
	} {
		err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return ob.Append(ctx, tx, e) })
		if !errors.Is(err, events.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}

// The order of one key holds and nothing is lost, whatever order transactions
// commit in and whoever rolls back.
func TestConcurrentWriters(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		start(t, db, ob, b, nil)
		writers, each := 8, 40
		if testing.Short() {
			each = 10
		}
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for i := 1; i <= each; i++ {
					rollback := errors.New("roll back")
					err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
						err := ob.Append(ctx, tx, event(fmt.Sprintf("own%d", w), i), events.Event{Type: "a.b", Topic: "orders", Key: fmt.Sprintf("shared%d", i%3)})
						if err == nil && (w+i)%5 == 0 {
							err = rollback
						}
						return err
					})
					if err != nil && !errors.Is(err, rollback) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		eventually(t, "an empty backlog", func() bool {
			bl, err := outbox.ReadBacklog(t.Context(), db)
			return err == nil && bl.Empty()
		})
		last := map[string]int64{}
		for _, e := range b.Events("orders") {
			if e.KeySeq != last[e.Key]+1 {
				t.Errorf("key %s: event %d after %d", e.Key, e.KeySeq, last[e.Key])
			}
			last[e.Key] = e.KeySeq
		}
		if n := len(b.Events("orders")); n != writers*each*2*4/5 {
			t.Errorf("%d events published, want %d", n, writers*each*2*4/5)
		}
	})
}

func TestMigrationsGoUpAndDownAndUp(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		m := outbox.Migrations(db.Dialect)
		if err := migrate.Down(t.Context(), db, "napkin_outbox", m); err != nil {
			t.Fatal(err)
		}
		if err := migrate.Up(t.Context(), db, "napkin_outbox", m); err != nil {
			t.Fatal(err)
		}
		add(t, db, newOutbox(t, db), event("a", 1))
	})
}

// The lease tables are internal/lease's, made by whichever package comes first.
func TestLeaseTablesAreThoseOfTheLeasePackage(t *testing.T) {
	for _, d := range []sqldb.Dialect{sqldb.Postgres, sqldb.SQLite} {
		table := func(fsys fs.FS) string {
			text, err := fs.ReadFile(fsys, "00001_leases.sql")
			if err != nil {
				t.Fatal(err)
			}
			up, _, _ := strings.Cut(string(text), "-- +goose Down")
			_, up, _ = strings.Cut(up, "CREATE")
			return strings.TrimSpace(strings.ReplaceAll(up, "IF NOT EXISTS ", ""))
		}
		if ours, theirs := table(outbox.Migrations(d)), table(lease.Migrations(d)); ours != theirs {
			t.Errorf("%v:\n%s\n-- differs from internal/lease:\n%s", d, ours, theirs)
		}
	}
}

// An event that commits by itself is published even where its effect is rolled back.
func TestAppendRefusesADatabase(t *testing.T) {
	db := migrated(t, sqlite(t))
	err := newOutbox(t, db).Append(t.Context(), db.Write, event("a", 1))
	if err == nil || !strings.Contains(err.Error(), "pass its *sql.Tx") {
		t.Errorf("got %v", err)
	}
	if b, err := outbox.ReadBacklog(t.Context(), db); err != nil || !b.Empty() {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestRunNamesTheMissingMigration(t *testing.T) {
	for name, db := range map[string]func(*testing.T) *sqldb.DB{"sqlite": func(t *testing.T) *sqldb.DB { return sqlite(t) }, "postgres": func(t *testing.T) *sqldb.DB { return pgtest.DB(t) }} {
		t.Run(name, func(t *testing.T) {
			db := db(t)
			r, err := outbox.NewRelay(db, newOutbox(t, db), memevents.New(nil), nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "outbox.Set, outbox.Migrations") {
				t.Errorf("got %v", err)
			}
		})
	}
}
