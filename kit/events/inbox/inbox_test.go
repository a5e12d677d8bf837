package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) {
	if database := os.Getenv(replicaDatabase); database != "" { // this process is a part of a test
		if err := replica(database, os.Getenv(replicaBroker)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(pgtest.Main(m))
}

const happened = "test.v1.Happened"

func both(t *testing.T, test func(t *testing.T, db *sqldb.DB)) {
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "inbox.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		test(t, migrated(t, db))
	})
	t.Run("postgres", func(t *testing.T) { test(t, migrated(t, pgtest.DB(t))) })
}

// migrated makes the tables, and one that holds the handlers' effects.
func migrated(t testing.TB, db *sqldb.DB) *sqldb.DB {
	t.Helper()
	if err := migrate.Up(t.Context(), db, "napkin_inbox", inbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	id := "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
	if db.Dialect == sqldb.SQLite {
		id = "INTEGER PRIMARY KEY AUTOINCREMENT"
	}
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE effect (n `+id+`, k TEXT NOT NULL, seq BIGINT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	return db
}

func event(key string, n int) events.Event {
	return events.Event{ID: fmt.Sprintf("%s-%d", key, n), Source: "test", Type: happened, Topic: "orders", Key: key, KeySeq: int64(n), CorrelationID: "corr", UserID: "u1"}
}

func publish(t testing.TB, b events.Publisher, evs ...events.Event) {
	t.Helper()
	for _, e := range evs {
		if err := b.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
}

// effect is what handlers do: one row for each event.
func effect(ctx context.Context, tx sqldb.Execer, e events.Event) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO effect (k, seq) VALUES ($1, $2)`, e.Key, e.KeySeq)
	return err
}

// effects lists them as "key-seq", in the order of their commits for one key.
func effects(t testing.TB, db *sqldb.DB) []string {
	t.Helper()
	rows, err := db.Read.QueryContext(t.Context(), `SELECT k, seq FROM effect ORDER BY n`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var k string
		var n int
		if err := rows.Scan(&k, &n); err != nil {
			t.Fatal(err)
		}
		out = append(out, k+"-"+strconv.Itoa(n))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func of(key string, list []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return len(s) < len(key) || s[:len(key)] != key })
}

type handler = inbox.Handler[*sql.Tx]

// start runs a consumer until the test or the returned func ends it.
func start(t testing.TB, db *sqldb.DB, b events.Subscriber, cfg inbox.ConsumerConfig, h handler) (c *inbox.Consumer[*sql.Tx], stop func()) {
	t.Helper()
	if cfg.Backoff == 0 {
		cfg.Backoff, cfg.MaxBackoff = time.Millisecond, 20*time.Millisecond
	}
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 500 * time.Millisecond
	}
	cfg.RedrivePoll = 20 * time.Millisecond
	c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), b, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	if h == nil {
		h = func(ctx context.Context, tx *sql.Tx, e events.Event) error { return effect(ctx, tx, e) }
	}
	c.Handle("orders", happened, h)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

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

func drained(t testing.TB, b events.Broker) {
	t.Helper()
	eventually(t, "nothing pending", func() bool {
		n, err := b.Pending(t.Context(), "mail")
		return err == nil && n == 0
	})
}

func happen(t testing.TB, db *sqldb.DB, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d effects", n), func() bool { return len(effects(t, db)) >= n })
}

func letters(t testing.TB, db *sqldb.DB) []inbox.DeadLetter {
	t.Helper()
	l, err := inbox.ReadDeadLetters(t.Context(), db, "mail")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCopiesHaveNoEffect(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		var ids correlation.IDs
		var mu sync.Mutex
		start(t, db, b, inbox.ConsumerConfig{}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			mu.Lock()
			ids = correlation.From(ctx)
			mu.Unlock()
			return effect(ctx, tx, e)
		})
		publish(t, b, event("a", 1), event("a", 1), event("a", 2), event("a", 1), event("a", 2))
		happen(t, db, 2)
		drained(t, b)
		if got := effects(t, db); !slices.Equal(got, []string{"a-1", "a-2"}) {
			t.Errorf("effects %v", got)
		}
		mu.Lock()
		defer mu.Unlock()
		if ids.CorrelationID != "corr" || ids.CausationID != "a-2" || ids.UserID != "u1" {
			t.Errorf("identifiers in the handler: %+v", ids)
		}
	})
}

// mute loses acknowledgements, as a process does that is killed between its
// commit and its ack.
type mute struct {
	*memevents.Broker
	on atomic.Bool
}

type muteDelivery struct {
	events.Delivery
	m *mute
}

func (d muteDelivery) Ack(ctx context.Context) error {
	if d.m.on.Load() {
		return errors.New("killed before the ack")
	}
	return d.Delivery.Ack(ctx)
}

func (m *mute) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	return m.Broker.Subscribe(ctx, s, func(ctx context.Context, d events.Delivery) { deliver(ctx, muteDelivery{d, m}) })
}

func TestKilledBetweenCommitAndAck(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := &mute{Broker: memevents.New(nil)}
		b.on.Store(true)
		_, stop := start(t, db, b, inbox.ConsumerConfig{}, nil)
		publish(t, b, event("a", 1), event("b", 1))
		happen(t, db, 2)
		stop()
		if n, _ := b.Pending(t.Context(), "mail"); n != 2 {
			t.Fatalf("%d pending, want both", n)
		}
		b.on.Store(false)
		var again atomic.Int32
		start(t, db, b, inbox.ConsumerConfig{Hooks: inbox.Hooks{Duplicate: func(context.Context, string, events.Event) { again.Add(1) }}}, nil)
		publish(t, b, event("a", 2))
		happen(t, db, 3)
		drained(t, b)
		if got := effects(t, db); len(got) != 3 || again.Load() != 2 {
			t.Errorf("effects %v, %d copies recognised; want each once and 2", got, again.Load())
		}
	})
}

func TestKilledBeforeTheCommit(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		reached := make(chan struct{}, 1)
		_, stop := start(t, db, b, inbox.ConsumerConfig{DrainTimeout: time.Millisecond}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if err := effect(ctx, tx, e); err != nil {
				return err
			}
			select {
			case reached <- struct{}{}:
			default:
			}
			<-ctx.Done() // never gets to commit
			return ctx.Err()
		})
		publish(t, b, event("a", 1), event("a", 2))
		<-reached
		stop()
		if got := effects(t, db); len(got) != 0 {
			t.Fatalf("effects of a handler that never committed: %v", got)
		}
		start(t, db, b, inbox.ConsumerConfig{}, nil)
		happen(t, db, 2)
		drained(t, b)
		if got := effects(t, db); !slices.Equal(got, []string{"a-1", "a-2"}) {
			t.Errorf("effects %v", got)
		}
	})
}

func TestAPoisonEventParksItsKeyOnly(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		var poisoned atomic.Bool
		poisoned.Store(true)
		var counted, parked, redriven atomic.Int32
		var replied atomic.Int32
		c, _ := start(t, db, b, inbox.ConsumerConfig{
			MaxAttempts: 3, Concurrency: 2,
			OnDeadLetter: func(ctx context.Context, tx sqldb.Tx, e events.Event, cause error) error {
				replied.Add(1)
				return effect(ctx, tx, events.Event{Key: "reply"})
			},
			Hooks: inbox.Hooks{
				Failed: func(_ context.Context, _ string, _ events.Event, _ error, counts bool) {
					if counts {
						counted.Add(1)
					}
				},
				Parked:   func(context.Context, string, events.Event) { parked.Add(1) },
				Redriven: func(context.Context, string, events.Event) { redriven.Add(1) },
			},
		}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if e.ID == "bad-2" && poisoned.Load() {
				panic("poison")
			}
			return effect(ctx, tx, e)
		})
		for i := 1; i <= 5; i++ {
			publish(t, b, event("bad", i), event("good", i))
		}
		happen(t, db, 7)
		drained(t, b)
		got := effects(t, db)
		if g := of("good", got); len(g) != 5 || len(of("bad", got)) != 1 || len(of("reply", got)) != 1 || replied.Load() != 1 {
			t.Fatalf("effects %v; want five good ones, one bad one and one reply", got)
		}
		if counted.Load() != 3 || parked.Load() != 3 {
			t.Errorf("%d failures counted, %d events parked; want 3 and 3", counted.Load(), parked.Load())
		}
		l := letters(t, db)
		if len(l) != 4 || l[0].State != inbox.Dead || l[0].Event.ID != "bad-2" || l[0].Attempts != 3 || l[0].Cause == "" || l[3].State != inbox.Parked {
			t.Fatalf("dead letters: %+v", l)
		}
		if err := c.Redrive(t.Context(), l[1].ID); !errors.Is(err, inbox.ErrNotDead) {
			t.Errorf("redrive of a parked event: %v", err)
		}
		// Still poison: it is dead again, and everything stays in place.
		if err := c.Redrive(t.Context(), l[0].ID); err != nil {
			t.Fatal(err)
		}
		eventually(t, "dead again", func() bool { x := letters(t, db); return len(x) == 4 && x[0].Attempts == 6 })
		poisoned.Store(false)
		if err := c.Redrive(t.Context(), l[0].ID); err != nil {
			t.Fatal(err)
		}
		publish(t, b, event("bad", 6))
		eventually(t, "all of the key handled", func() bool { return len(of("bad", effects(t, db))) == 6 })
		if got := of("bad", effects(t, db)); !slices.Equal(got, []string{"bad-1", "bad-2", "bad-3", "bad-4", "bad-5", "bad-6"}) {
			t.Errorf("order after the redrive: %v", got)
		}
		eventually(t, "no letter left", func() bool { return len(letters(t, db)) == 0 })
		if redriven.Load() < 4 {
			t.Errorf("%d redriven, want at least 4", redriven.Load())
		}
	})
}

func TestDropLetsTheKeyGoOn(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		c, _ := start(t, db, b, inbox.ConsumerConfig{}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if e.ID == "bad-1" || e.ID == "-9" {
				return inbox.Permanent(errors.New("cannot be"))
			}
			return effect(ctx, tx, e)
		})
		keyless := event("", 9)
		publish(t, b, event("bad", 1), event("bad", 2), event("bad", 3), keyless)
		eventually(t, "four letters", func() bool { return len(letters(t, db)) == 4 })
		if l := letters(t, db); l[0].Attempts != 1 {
			t.Errorf("a permanent failure took %d attempts", l[0].Attempts)
		}
		for _, l := range letters(t, db) {
			if l.State == inbox.Dead {
				if err := c.Drop(t.Context(), l.ID); err != nil {
					t.Fatal(err)
				}
				if err := c.Drop(t.Context(), l.ID); !errors.Is(err, inbox.ErrNotDead) {
					t.Errorf("dropped twice: %v", err)
				}
			}
		}
		happen(t, db, 2)
		eventually(t, "no letter left", func() bool { return len(letters(t, db)) == 0 })
		if got := effects(t, db); !slices.Equal(got, []string{"bad-2", "bad-3"}) {
			t.Errorf("effects %v", got)
		}
	})
}

func TestInfrastructureFailuresPauseAndCountForNothing(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		var down atomic.Bool
		var tries, counted atomic.Int32
		down.Store(true)
		open := errors.New("breaker open")
		start(t, db, b, inbox.ConsumerConfig{
			MaxAttempts:      2,
			IsInfrastructure: func(err error) bool { return errors.Is(err, open) },
			Hooks: inbox.Hooks{Failed: func(_ context.Context, _ string, _ events.Event, _ error, counts bool) {
				if counts {
					counted.Add(1)
				}
			}},
		}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if down.Load() {
				if n := tries.Add(1); n%2 == 0 {
					return fmt.Errorf("call: %w", open)
				}
				return inbox.Infrastructure(errors.New("no database"))
			}
			return effect(ctx, tx, e)
		})
		publish(t, b, event("a", 1), event("a", 2), event("b", 1))
		eventually(t, "many tries", func() bool { return tries.Load() > 10 })
		down.Store(false)
		happen(t, db, 3)
		drained(t, b)
		if counted.Load() != 0 || len(letters(t, db)) != 0 {
			t.Errorf("%d counted, letters %v; want none", counted.Load(), letters(t, db))
		}
	})
}

func TestOrderOfEachKeyUnderFailures(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(&memevents.Config{AckWait: 50 * time.Millisecond}) // redelivers while they wait
		var n atomic.Int32
		start(t, db, b, inbox.ConsumerConfig{MaxAttempts: 1000}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if n.Add(1)%4 == 0 {
				return errors.New("now and then")
			}
			return effect(ctx, tx, e)
		})
		for i := 1; i <= 30; i++ {
			for k := range 5 {
				publish(t, b, event("k"+strconv.Itoa(k), i))
			}
		}
		happen(t, db, 150)
		drained(t, b)
		got := effects(t, db)
		for k := range 5 {
			list := of("k"+strconv.Itoa(k), got)
			for i, s := range list {
				if s != fmt.Sprintf("k%d-%d", k, i+1) {
					t.Fatalf("order of k%d: %v", k, list)
				}
			}
		}
		if len(got) != 150 {
			t.Errorf("%d effects, want 150", len(got))
		}
	})
}

func TestReplicasTakeTurns(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		var both, most atomic.Int32
		h := func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			n := both.Add(1)
			defer both.Add(-1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			return effect(ctx, tx, e)
		}
		one := inbox.ConsumerConfig{Concurrency: 1}
		_, stop := start(t, db, b, one, h)
		start(t, db, b, one, h)
		for i := 1; i <= 20; i++ {
			publish(t, b, event("a", i))
		}
		happen(t, db, 20)
		stop()
		for i := 21; i <= 40; i++ {
			publish(t, b, event("a", i))
		}
		happen(t, db, 40)
		drained(t, b)
		for i, s := range effects(t, db) {
			if s != fmt.Sprintf("a-%d", i+1) {
				t.Fatalf("effects %v", effects(t, db))
			}
		}
		if db.Dialect == sqldb.Postgres && most.Load() > 1 {
			t.Errorf("%d handlers of one-worker replicas at once", most.Load())
		}
	})
}

func TestOnPgx(t *testing.T) {
	url := pgtest.URL(t)
	pool, err := pgxpool.New(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	db := pgxdb.DB(pool)
	defer db.Close()
	migrated(t, db)
	b := memevents.New(nil)
	c, err := inbox.NewConsumer("mail", db, pgxdb.Pool(pool), b, &inbox.ConsumerConfig{Backoff: time.Millisecond, MaxAttempts: 2, LeaseTTL: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	c.Handle("orders", happened, func(ctx context.Context, tx pgx.Tx, e events.Event) error {
		if e.Key == "bad" {
			return errors.New("no")
		}
		return effect(ctx, pgxdb.Tx(tx), e)
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	publish(t, b, event("a", 1), event("a", 1), event("bad", 1), event("bad", 2), event("a", 2))
	happen(t, db, 2)
	drained(t, b)
	if l := letters(t, db); len(l) != 2 {
		t.Errorf("letters %+v", l)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestMarksAreTrimmedAfterTheirRetention(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		old := inbox.New(db.Dialect, &inbox.Config{Now: func() time.Time { return time.Now().Add(-100 * 24 * time.Hour) }})
		for i := range 1500 {
			if first, err := old.Mark(t.Context(), db.Write, "mail", strconv.Itoa(i)); err != nil || !first {
				t.Fatal(first, err)
			}
		}
		b := memevents.New(nil)
		start(t, db, b, inbox.ConsumerConfig{TrimEvery: 20 * time.Millisecond}, nil)
		publish(t, b, event("a", 1))
		eventually(t, "only the new mark is left", func() bool {
			var n int
			err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM napkin_inbox`).Scan(&n)
			return err == nil && n == 1
		})
	})
}

func TestMigrationsGoUpAndDownAndUp(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		m := inbox.Migrations(db.Dialect)
		if err := migrate.Down(t.Context(), db, "napkin_inbox", m); err != nil {
			t.Fatal(err)
		}
		if err := migrate.Up(t.Context(), db, "napkin_inbox", m); err != nil {
			t.Fatal(err)
		}
		first, err := inbox.New(db.Dialect, nil).Mark(t.Context(), db.Write, "a", "1")
		again, err2 := inbox.New(db.Dialect, nil).Mark(t.Context(), db.Write, "a", "1")
		other, err3 := inbox.New(db.Dialect, nil).Mark(t.Context(), db.Write, "b", "1")
		if !first || again || !other || errors.Join(err, err2, err3) != nil {
			t.Errorf("marks %v %v %v, %v", first, again, other, errors.Join(err, err2, err3))
		}
	})
}

func TestRunSaysWhatIsMissing(t *testing.T) {
	test := func(t *testing.T, db *sqldb.DB) {
		c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), memevents.New(nil), nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "call Handle before Run") {
			t.Errorf("without a handler: %v", err)
		}
		c.Handle("orders", happened, func(context.Context, *sql.Tx, events.Event) error { return nil })
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "inbox.Set, inbox.Migrations") {
			t.Errorf("without tables: %v", err)
		}
	}
	t.Run("sqlite", func(t *testing.T) {
		db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "inbox.db"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		test(t, db)
	})
	t.Run("postgres", func(t *testing.T) { test(t, pgtest.DB(t)) })
}
