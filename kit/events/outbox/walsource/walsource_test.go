package walsource_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/events/outbox/outboxtest"
	"github.com/napkin-kit/napkin/kit/events/outbox/walsource"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

const relayDatabase = "NAPKIN_TEST_WALSOURCE_DATABASE" // set in the processes of TestASuccessorOfAKilledRelay

func TestMain(m *testing.M) {
	if url := os.Getenv(relayDatabase); url != "" {
		fmt.Fprintln(os.Stderr, runRelay(url))
		os.Exit(1)
	}
	goleak.VerifyTestMain(pgtest.Main(m))
}

var quiet = slog.New(slog.DiscardHandler)

// open returns a database with the outbox's tables, and without a slot once the
// test has ended.
func open(t testing.TB) (*sqldb.DB, string) {
	t.Helper()
	at := pgtest.URL(t)
	db, err := pgxdb.Open(t.Context(), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		for ; ; time.Sleep(20 * time.Millisecond) { // the server notices soon that the reader has gone
			if err := walsource.Drop(ctx, db, nil); err == nil {
				return
			} else if ctx.Err() != nil {
				t.Error(err)
				return
			}
		}
	})
	if err := migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	return db, at
}

func newOutbox(t testing.TB, db *sqldb.DB) *outbox.Outbox {
	t.Helper()
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		t.Fatal(err)
	}
	return ob
}

// watched notes what a source tells.
type watched struct {
	on      atomic.Int32 // 1 while it streams
	began   atomic.Int32
	lag     atomic.Int64
	alarms  atomic.Int32
	alarmed atomic.Int64
}

func (w *watched) hooks() walsource.Hooks {
	return walsource.Hooks{
		Streaming: func(_ context.Context, on bool) {
			if on {
				w.on.Add(1)
				w.began.Add(1)
			} else {
				w.on.Add(-1)
			}
		},
		Lag:   func(_ context.Context, n int64) { w.lag.Store(n) },
		Alarm: func(_ context.Context, n int64) { w.alarmed.Store(n); w.alarms.Add(1) },
	}
}

// start runs a relay with a source until the test or the returned func ends it.
func start(t testing.TB, db *sqldb.DB, at string, p events.Publisher, w *watched, src *walsource.Config, cfg *outbox.RelayConfig) (stop func()) {
	t.Helper()
	if src == nil {
		src = &walsource.Config{}
	}
	src.Hooks, src.Logger = w.hooks(), quiet
	s, err := walsource.New(db, at, src)
	if err != nil {
		t.Fatal(err)
	}
	if cfg == nil {
		cfg = &outbox.RelayConfig{Poll: time.Hour}
	}
	cfg.Source, cfg.Logger = s, quiet
	return run(t, db, p, cfg)
}

func run(t testing.TB, db *sqldb.DB, p events.Publisher, cfg *outbox.RelayConfig) (stop func()) {
	t.Helper()
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = time.Second
	}
	cfg.MaxBackoff = 50 * time.Millisecond
	r, err := outbox.NewRelay(db, newOutbox(t, db), p, cfg)
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

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(60 * time.Second)
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

func event(key string, n int) events.Event {
	return events.Event{ID: fmt.Sprintf("%s-%d", key, n), Type: "test.v1.Happened", Topic: "orders", Key: key, Data: fmt.Appendf(nil, "%d", n)}
}

// add commits events as another process does: no relay is woken.
func add(t testing.TB, db *sqldb.DB, evs ...events.Event) {
	t.Helper()
	ob := newOutbox(t, db)
	if err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error { return ob.Append(ctx, tx, evs...) }); err != nil {
		t.Fatal(err)
	}
}

func published(t testing.TB, b *memevents.Broker, ids ...string) {
	t.Helper()
	for _, id := range ids {
		eventually(t, id+" is published", func() bool {
			return slices.ContainsFunc(b.Events("orders"), func(e events.Event) bool { return e.ID == id })
		})
	}
}

// inOrder fails where the first publication of an event came before that of an
// earlier one of its key, or where one is missing.
func inOrder(t testing.TB, b *memevents.Broker) {
	t.Helper()
	next := map[string]int64{}
	for _, e := range b.Events("orders") {
		if e.KeySeq > next[e.Key]+1 {
			t.Errorf("key %s: event %d was published before event %d", e.Key, e.KeySeq, next[e.Key]+1)
		}
		next[e.Key] = max(next[e.Key], e.KeySeq)
	}
}

func idle(t testing.TB, db *sqldb.DB) {
	t.Helper()
	eventually(t, "nothing is left to publish", func() bool {
		bl, err := outbox.ReadBacklog(t.Context(), db)
		return err == nil && bl.Unpublished == 0
	})
}

func TestOutboxPasses(t *testing.T) {
	outboxtest.TestOutbox(t, func(t testing.TB) outboxtest.Harness {
		db, at := open(t)
		ob := newOutbox(t, db)
		other, _ := open(t)
		return outboxtest.Harness{DB: db, Other: other, Append: ob.Append, Relay: func(ctx context.Context, p events.Publisher) error {
			s, err := walsource.New(db, at, &walsource.Config{Logger: quiet})
			if err != nil {
				return err
			}
			r, err := outbox.NewRelay(db, ob, p, &outbox.RelayConfig{Poll: 100 * time.Millisecond, LeaseTTL: 15 * time.Second,
				MaxBackoff: 100 * time.Millisecond, Source: s, Logger: quiet})
			if err != nil {
				return err
			}
			return r.Run(ctx)
		}}
	})
}

// With the poll an hour away, all comes through the slot: late committers, a large
// transaction, every shape of row.
func TestWhatIsCommittedArrives(t *testing.T) {
	db, at := open(t)
	b, w := memevents.New(nil), &watched{}
	add(t, db, event("a", 1), event("b", 1)) // before there is a slot
	start(t, db, at, b, w, nil, nil)
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	late, err := db.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback() }() // a no-op after the commit
	ob := newOutbox(t, db)
	if err := ob.Append(t.Context(), late, event("late", 1)); err != nil {
		t.Fatal(err)
	}
	odd := events.Event{ID: "odd", Type: "test.v1.Happened", Topic: "orders", Data: []byte{0, 0xff, '\\', 'x', 0}}
	empty := events.Event{ID: "empty", Type: "test.v1.Happened", Topic: "orders", Key: "ключ"}
	add(t, db, event("a", 2), odd, empty)
	published(t, b, "a-2", "odd", "empty")
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	published(t, b, "late-1")
	evs := make([]events.Event, 3000)
	for i := range evs {
		evs[i] = event(fmt.Sprint("k", i%7), i/7+1)
		evs[i].Data = make([]byte, 10_000) // 30 MB, out of line
	}
	add(t, db, evs...)
	idle(t, db)
	inOrder(t, b)
	var got events.Event
	for _, e := range b.Events("orders") {
		if e.ID == "odd" {
			got = e
		}
	}
	if string(got.Data) != string(odd.Data) {
		t.Errorf("data %q arrived as %q", odd.Data, got.Data)
	}
	eventually(t, "the slot follows", func() bool { return confirmed(t, db) >= current(t, db)-1<<20 })
	if n := len(b.Events("orders")); n != 3006 {
		t.Errorf("%d publications of 3006 events", n)
	}
}

func lsn(t testing.TB, db *sqldb.DB, query string) int64 {
	t.Helper()
	var n sql.NullInt64
	if err := db.Write.QueryRowContext(t.Context(), `SELECT (`+query+`)::pg_lsn - '0/0'::pg_lsn`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n.Int64
}

func current(t testing.TB, db *sqldb.DB) int64 { return lsn(t, db, `pg_current_wal_lsn()`) }

func confirmed(t testing.TB, db *sqldb.DB) int64 {
	return lsn(t, db, `SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()`)
}

// The slot does not move past what the broker has not taken, and then does.
func TestThePositionFollowsWhatIsRecorded(t *testing.T) {
	db, at := open(t)
	b, w := memevents.New(nil), &watched{}
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	p := publisher(func(ctx context.Context, evs ...events.Event) error {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
		return b.Publish(ctx, evs...)
	})
	start(t, db, at, p, w, nil, &outbox.RelayConfig{Poll: time.Hour, SlowTopic: time.Hour, PublishTimeout: time.Hour})
	t.Cleanup(release)
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	before := current(t, db)
	add(t, db, event("a", 1))
	after := current(t, db)
	// Another status is sent, and with it a keepalive answered.
	eventually(t, "the server has heard from the source", func() bool {
		return lsn(t, db, `SELECT write_lsn FROM pg_stat_replication s JOIN pg_replication_slots ON active_pid = pid WHERE database = current_database()`) >= after
	})
	if at := confirmed(t, db); at > after {
		t.Errorf("the slot is at %d, beyond an event that is not published (%d to %d)", at, before, after)
	}
	release()
	eventually(t, "the slot follows", func() bool { return confirmed(t, db) >= after })
}

type publisher func(ctx context.Context, evs ...events.Event) error

func (p publisher) Publish(ctx context.Context, evs ...events.Event) error { return p(ctx, evs...) }

// What others write does not pile up behind an outbox that has nothing to say.
func TestAnIdleOutboxHoldsNoLogBack(t *testing.T) {
	db, at := open(t)
	other := pgtest.DB(t)
	w := &watched{}
	start(t, db, at, memevents.New(nil), w, nil, nil)
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	if _, err := other.Write.ExecContext(t.Context(), `CREATE TABLE x AS SELECT repeat('x', 100) FROM generate_series(1, 20000)`); err != nil {
		t.Fatal(err)
	}
	end := current(t, db)
	eventually(t, "the slot follows", func() bool { return confirmed(t, db) >= end })
	eventually(t, "the log is let go of", func() bool {
		// The server notes its running transactions now and then; a checkpoint does too.
		if _, err := other.Write.ExecContext(t.Context(), `CHECKPOINT`); err != nil {
			t.Fatal(err)
		}
		return lsn(t, db, `SELECT restart_lsn FROM pg_replication_slots WHERE database = current_database()`) >= end
	})
	bl, err := outbox.ReadBacklog(t.Context(), db)
	if err != nil || bl.SlotLag <= 0 || bl.SlotLag > 1<<30 {
		t.Errorf("SlotLag %d, %v", bl.SlotLag, err)
	}
}

// A relay that is stuck does not let the log grow for ever: the alarm is raised, the
// slot made anew, and nothing is lost.
func TestALagThatIsTooLarge(t *testing.T) {
	db, at := open(t)
	b, w := memevents.New(nil), &watched{}
	hold := make(chan struct{})
	release := sync.OnceFunc(func() { close(hold) })
	p := publisher(func(ctx context.Context, evs ...events.Event) error {
		select {
		case <-hold:
		case <-ctx.Done():
			return ctx.Err()
		}
		return b.Publish(ctx, evs...)
	})
	start(t, db, at, p, w, &walsource.Config{MaxLag: 4 << 20, CheckEvery: 20 * time.Millisecond},
		&outbox.RelayConfig{Poll: time.Hour, SlowTopic: time.Hour, PublishTimeout: time.Hour})
	t.Cleanup(release)
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	const n = 600
	noise := rand.NewChaCha8([32]byte{1}) // it does not compress
	for i := 1; i <= n; i += 20 {
		var evs []events.Event
		for j := i; j < i+20; j++ {
			e := event("a", j)
			e.Data = make([]byte, 10_000)
			_, _ = noise.Read(e.Data) // it never fails
			evs = append(evs, e)
		}
		add(t, db, evs...)
	}
	eventually(t, "the alarm is raised", func() bool { return w.alarms.Load() > 0 && w.alarmed.Load() > 4<<20 })
	release()
	published(t, b, fmt.Sprintf("a-%d", n))
	idle(t, db)
	inOrder(t, b)
	eventually(t, "the source streams again", func() bool { return w.on.Load() == 1 && w.began.Load() > 1 })
	add(t, db, event("a", n+1))
	published(t, b, fmt.Sprintf("a-%d", n+1))
}

// A slot or a publication that is dropped under the source is made anew, without a
// loss and in order.
func TestADroppedSlotIsMadeAnew(t *testing.T) {
	for name, drop := range map[string]string{
		"slot":        `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()`,
		"publication": `DROP PUBLICATION napkin_outbox`,
	} {
		t.Run(name, func(t *testing.T) {
			db, at := open(t)
			b, w := memevents.New(nil), &watched{}
			start(t, db, at, b, w, nil, &outbox.RelayConfig{Poll: 100 * time.Millisecond})
			n := 0
			for range 3 {
				eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
				for range 10 {
					n++
					add(t, db, event("a", n), event("b", n))
				}
				eventually(t, "it is dropped", func() bool {
					_, err := db.Write.ExecContext(t.Context(), `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()`)
					if err == nil {
						_, err = db.Write.ExecContext(t.Context(), drop)
					}
					return err == nil
				})
				for range 10 {
					n++
					add(t, db, event("a", n), event("b", n))
				}
			}
			idle(t, db)
			eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
			inOrder(t, b)
			published(t, b, fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n))
		})
	}
}

// A server that bounds what slots keep takes the log from one that nobody reads.
func TestALostSlotIsMadeAnew(t *testing.T) {
	server, err := pgtest.Start("", 0, "fsync=off", "max_slot_wal_keep_size=1MB", "min_wal_size=32MB", "max_wal_size=32MB")
	if errors.Is(err, pgtest.ErrNotInstalled) && !pgtest.Required("postgres") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	at := server.URL("postgres")
	db, err := pgxdb.Open(t.Context(), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	b, w := memevents.New(nil), &watched{}
	stop := start(t, db, at, b, w, nil, nil)
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	add(t, db, event("a", 1))
	published(t, b, "a-1")
	stop()
	add(t, db, event("a", 2))
	eventually(t, "the slot is lost", func() bool {
		if _, err := db.Write.ExecContext(t.Context(), `SELECT pg_switch_wal()`); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE IF NOT EXISTS x (y int); INSERT INTO x SELECT 1; CHECKPOINT`); err != nil {
			t.Fatal(err)
		}
		var status string
		err := db.Write.QueryRowContext(t.Context(), `SELECT wal_status FROM pg_replication_slots`).Scan(&status)
		return err == nil && status == "lost"
	})
	start(t, db, at, b, w, nil, nil)
	eventually(t, "the source streams again", func() bool { return w.began.Load() == 2 && w.on.Load() == 1 })
	add(t, db, event("a", 3))
	published(t, b, "a-1", "a-2", "a-3")
	inOrder(t, b)
	if w.alarms.Load() != 1 {
		t.Errorf("%d alarms", w.alarms.Load())
	}
}

// A connection that the server still believes in keeps no successor from the slot.
func TestASlotThatIsStillRead(t *testing.T) {
	db, at := open(t)
	b, w := memevents.New(nil), &watched{}
	stop := start(t, db, at, b, w, nil, nil)
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	stop()
	var slot string
	if err := db.Write.QueryRowContext(t.Context(), `SELECT slot_name FROM pg_replication_slots WHERE database = current_database()`).Scan(&slot); err != nil {
		t.Fatal(err)
	}
	ghost, err := pgconn.Connect(t.Context(), at+"&replication=database")
	if err != nil {
		t.Fatal(err)
	}
	defer ghost.Close(context.Background()) //nolint:errcheck // it was ended
	eventually(t, "the predecessor's connection is there", func() bool {
		err := pglogrepl.StartReplication(t.Context(), ghost, slot, 0, pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication,
			PluginArgs: []string{"proto_version '1'", "publication_names 'napkin_outbox'"}})
		if err != nil {
			ghost.Close(t.Context())
			if ghost, err = pgconn.Connect(t.Context(), at+"&replication=database"); err != nil {
				t.Fatal(err)
			}
			return false
		}
		return true
	})
	start(t, db, at, b, w, nil, nil)
	eventually(t, "the successor streams", func() bool { return w.on.Load() == 1 && w.began.Load() == 2 })
	add(t, db, event("a", 1))
	published(t, b, "a-1")
}

// A service goes from the poll to the source and back, while it writes.
func TestTheSourceCanBeChanged(t *testing.T) {
	db, at := open(t)
	b := memevents.New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	var wg sync.WaitGroup
	ob := newOutbox(t, db)
	for w := range 3 {
		wg.Go(func() {
			for i := 1; ctx.Err() == nil; i++ {
				err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					return ob.Append(ctx, tx, event(fmt.Sprint("own", w), i), events.Event{Type: "test.v1.Happened", Topic: "orders", Key: "shared"})
				})
				if err != nil {
					t.Error(err)
					return
				}
				n.Add(2)
			}
		})
	}
	more := func() {
		was := len(b.Events("orders"))
		eventually(t, "more is published", func() bool { return len(b.Events("orders")) > was+100 })
	}
	for range 2 {
		stop := run(t, db, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, Logger: quiet})
		more()
		stop()
		w := &watched{}
		stop = start(t, db, at, b, w, nil, &outbox.RelayConfig{Poll: 200 * time.Millisecond})
		eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
		more()
		stop()
	}
	cancel()
	wg.Wait()
	run(t, db, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, Logger: quiet})
	idle(t, db)
	inOrder(t, b)
	seen := map[string]bool{}
	for _, e := range b.Events("orders") {
		seen[e.ID] = true
	}
	if int64(len(seen)) != n.Load() {
		t.Errorf("%d events are published of %d", len(seen), n.Load())
	}
}

// What the server or the role lacks is said in one error, and events are published
// all the same.
func TestCheckSaysWhatIsMissing(t *testing.T) {
	db, at := open(t)
	if _, err := db.Write.ExecContext(t.Context(), `CREATE ROLE walsource_plain LOGIN`); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = db.Write.ExecContext(context.Background(), `DROP ROLE walsource_plain`) })
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("walsource_plain")
	s, err := walsource.New(db, u.String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), `ALTER ROLE "walsource_plain" REPLICATION`) {
		t.Errorf("got %v", err)
	}
	b := memevents.New(nil)
	start(t, db, u.String(), b, &watched{}, nil, &outbox.RelayConfig{Poll: 20 * time.Millisecond})
	add(t, db, event("a", 1))
	published(t, b, "a-1")
	if s, err = walsource.New(db, at, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err != nil {
		t.Errorf("got %v", err)
	}
	_, err = walsource.New(db, at, &walsource.Config{Name: "Order's"})
	if err == nil || !strings.Contains(err.Error(), "Config.Name") {
		t.Errorf("got %v", err)
	}
}

func TestCheckNamesTheWALLevel(t *testing.T) {
	server, err := pgtest.Start("", 0, "fsync=off", "wal_level=replica")
	if errors.Is(err, pgtest.ErrNotInstalled) && !pgtest.Required("postgres") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	db, err := pgxdb.Open(t.Context(), server.URL("postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	s, err := walsource.New(db, server.URL("postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "SET wal_level = 'logical'") {
		t.Errorf("got %v", err)
	}
}

// A commit that waits for a synchronous standby is in the log, and not visible: it
// is not published. And the source is no standby.
func TestACommitThatWaitsForAStandby(t *testing.T) {
	server, err := pgtest.Start("", 0, "fsync=off")
	if errors.Is(err, pgtest.ErrNotInstalled) && !pgtest.Required("postgres") {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	at := server.URL("postgres") + "&synchronous_commit=local"
	db, err := pgxdb.Open(t.Context(), at, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	standbys := func(names string) {
		t.Helper()
		for _, q := range []string{`ALTER SYSTEM SET synchronous_standby_names = '` + names + `'`, `SELECT pg_reload_conf()`} {
			if _, err := db.Write.ExecContext(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the setting holds", func() bool {
			var now string
			err := db.Write.QueryRowContext(t.Context(), `SHOW synchronous_standby_names`).Scan(&now)
			return err == nil && now == names
		})
	}
	standbys("*")
	s, err := walsource.New(db, at, &walsource.Config{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(t.Context(), new(outbox.Feed)); err == nil || !strings.Contains(err.Error(), "synchronous_standby_names") {
		t.Errorf("got %v", err)
	}
	standbys("nobody")
	b, w := memevents.New(nil), &watched{}
	start(t, db, at, b, w, nil, &outbox.RelayConfig{Poll: 20 * time.Millisecond})
	eventually(t, "the source streams", func() bool { return w.on.Load() == 1 })
	waits, err := pgxdb.Open(t.Context(), server.URL("postgres"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = waits.Close() })
	ob, done := newOutbox(t, db), make(chan error, 1)
	go func() {
		done <- sqldb.InTx(context.WithoutCancel(t.Context()), waits, func(ctx context.Context, tx *sql.Tx) error {
			return ob.Append(ctx, tx, event("late", 1))
		})
	}()
	eventually(t, "the commit waits", func() bool {
		var n int
		err := db.Write.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`).Scan(&n)
		return err == nil && n == 1
	})
	for i := 1; i <= 20; i++ {
		add(t, db, event("a", i))
		published(t, b, fmt.Sprintf("a-%d", i)) // the poll's
	}
	eventually(t, "the source has received it", func() bool {
		return lsn(t, db, `SELECT write_lsn FROM pg_stat_replication`) > lsn(t, db, `SELECT confirmed_flush_lsn FROM pg_replication_slots`)
	})
	for _, e := range b.Events("orders") {
		if e.Key == "late" {
			t.Error("a commit that nobody sees yet is published")
		}
	}
	standbys("")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	published(t, b, "late-1")
	inOrder(t, b)
}

// runRelay is the process of a relay that notes what it publishes in a table.
func runRelay(at string) error {
	ctx := context.Background()
	db, err := pgxdb.Open(ctx, at, nil)
	if err != nil {
		return err
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		return err
	}
	s, err := walsource.New(db, at, &walsource.Config{Logger: quiet})
	if err != nil {
		return err
	}
	p := publisher(func(ctx context.Context, evs ...events.Event) error {
		for _, e := range evs {
			if _, err := db.Write.ExecContext(ctx, `INSERT INTO broker (key, seq) VALUES ($1, $2)`, e.Key, e.KeySeq); err != nil {
				return err
			}
		}
		return nil
	})
	r, err := outbox.NewRelay(db, ob, p, &outbox.RelayConfig{Poll: time.Second, LeaseTTL: 500 * time.Millisecond, MaxBackoff: 100 * time.Millisecond, Source: s, Logger: quiet})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// Three relays share a slot, and the one that reads it is killed again and again
// while writers write.
func TestASuccessorOfAKilledRelay(t *testing.T) {
	kills := 5
	if testing.Short() {
		kills = 2
	}
	db, at := open(t)
	if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE broker (n bigserial PRIMARY KEY, key text, seq bigint)`); err != nil {
		t.Fatal(err)
	}
	spawn := func() *exec.Cmd {
		p := exec.Command(os.Args[0], "-test.run=^$")
		p.Env = append(os.Environ(), relayDatabase+"="+at)
		p.Stderr = os.Stderr
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	relays := []*exec.Cmd{spawn(), spawn(), spawn()}
	end := func(p *exec.Cmd) {
		_ = p.Process.Kill()
		_ = p.Wait() // "killed"
	}
	defer func() {
		for _, p := range relays {
			end(p)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	ob := newOutbox(t, db)
	for w := range 2 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					return ob.Append(ctx, tx, events.Event{Type: "test.v1.Happened", Topic: "orders", Key: fmt.Sprint("k", w, i%5)},
						events.Event{Type: "test.v1.Happened", Topic: "orders", Key: "shared"})
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	streaming := func() bool {
		var on bool
		err := db.Write.QueryRowContext(t.Context(), `SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE database = current_database()`).Scan(&on)
		return err == nil && on
	}
	count := func() (n int) {
		if err := db.Write.QueryRowContext(t.Context(), `SELECT count(*) FROM broker`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for range kills {
		eventually(t, "the slot is read", streaming)
		was := count()
		eventually(t, "more is published", func() bool { return count() > was+50 })
		// The holder's name is not known here: all are killed but one.
		for i := range 2 {
			end(relays[i])
		}
		relays = []*exec.Cmd{relays[2], spawn(), spawn()}
	}
	cancel()
	wg.Wait()
	idle(t, db)
	rows, err := db.Write.QueryContext(t.Context(), `SELECT key, seq FROM broker ORDER BY n`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	next := map[string]int64{}
	for rows.Next() {
		var key string
		var seq int64
		if err := rows.Scan(&key, &seq); err != nil {
			t.Fatal(err)
		}
		if seq > next[key]+1 {
			t.Errorf("key %s: event %d was published before event %d", key, seq, next[key]+1)
		}
		next[key] = max(next[key], seq)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	var total, got int64
	if err := db.Write.QueryRowContext(t.Context(), `SELECT sum(seq) FROM napkin_outbox_key`).Scan(&total); err != nil {
		t.Fatal(err)
	}
	for _, n := range next {
		got += n
	}
	if got != total {
		t.Errorf("%d events are published of %d", got, total)
	}
}
