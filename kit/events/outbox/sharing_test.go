package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// holding counts the blocks that a relay holds.
type holding struct{ n, took atomic.Int32 }

func (h *holding) hooks() outbox.RelayHooks {
	return outbox.RelayHooks{Holding: func(_ context.Context, _ events.Block, held bool) {
		if held {
			h.n.Add(1)
			h.took.Add(1)
		} else {
			h.n.Add(-1)
		}
	}}
}

func TestRelaysShareTheBlocksEvenly(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b := newOutbox(t, db), memevents.New(nil)
	var one, two holding
	cfg := outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: 3 * time.Second, Hooks: one.hooks()}
	start(t, db, ob, b, &cfg)
	eventually(t, "the first holds all", func() bool { return one.n.Load() == 8 })
	cfg.Hooks = two.hooks()
	stop := start(t, db, ob, b, &cfg)
	eventually(t, "each holds half", func() bool { return one.n.Load() == 4 && two.n.Load() == 4 })
	for i := 1; i <= 20; i++ {
		for k := range 10 {
			add(t, db, ob, event(fmt.Sprint("k", k), i))
		}
	}
	idle(t, db)
	stop()
	eventually(t, "the first holds all again", func() bool { return one.n.Load() == 8 && two.n.Load() == 0 })
	inOrder(t, b.Events("orders"))
	if n := len(b.Events("orders")); n < 200 {
		t.Errorf("%d events published", n)
	}
}

// A relay that was paused while another took one of its blocks over records
// nothing there, and goes on in the others.
func TestAPausedRelayIsFencedPerBlock(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b := newOutbox(t, db), memevents.New(nil)
	var lost, taken atomic.Int32
	var once sync.Once
	hooks := outbox.RelayHooks{
		BeforeCursor: func(_ context.Context, passed int64) {
			if passed == 0 {
				return
			}
			once.Do(func() { // as a successor's takeover would
				if _, err := db.Write.ExecContext(context.Background(), `UPDATE napkin_outbox_block SET epoch = epoch + 1 WHERE first = 0`); err != nil {
					t.Error(err)
				}
			})
		},
		Holding: func(_ context.Context, _ events.Block, held bool) {
			if held {
				taken.Add(1)
			} else {
				lost.Add(1)
			}
		},
	}
	evs := make([]events.Event, 0, 200)
	for i := range cap(evs) {
		evs = append(evs, event(fmt.Sprint("k", i), 1))
	}
	stop := start(t, db, ob, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: time.Minute, Hooks: hooks})
	eventually(t, "the relay holds all blocks", func() bool { return taken.Load() == 8 })
	add(t, db, ob, evs...)
	eventually(t, "a block is lost", func() bool { return lost.Load() == 1 })
	left := 0
	for _, e := range evs {
		if e.Partition() < 8 {
			left++
		}
	}
	eventually(t, "the other blocks are recorded", func() bool {
		bl, err := outbox.ReadBacklog(t.Context(), db)
		return err == nil && bl.Unpublished == left
	})
	stop()
	start(t, db, ob, b, nil)
	idle(t, db)
	inOrder(t, b.Events("orders"))
}

// Progress survives a change of the number of blocks.
func TestBlocksCanBeCutAnew(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b := newOutbox(t, db), memevents.New(nil)
	n := 0
	for _, blocks := range []int{8, 2, 16, 1} {
		stop := start(t, db, ob, b, &outbox.RelayConfig{Poll: 20 * time.Millisecond, Blocks: blocks})
		for range 5 {
			n++
			add(t, db, ob, event("a", n), event("b", n), event("c", n))
		}
		idle(t, db)
		stop()
	}
	if got := len(b.Events("orders")); got != 3*n {
		t.Errorf("%d publications of %d events", got, 3*n)
	}
	inOrder(t, b.Events("orders"))
}

// A hot key in every partition's way: a topic that does not answer, and one that is
// full, with more events than a pass reads, hold up no other.
func TestASlowTopicHoldsUpNoOther(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		answer := make(chan struct{})
		p := publisher(func(ctx context.Context, evs ...events.Event) error {
			var failed []events.FailedEvent
			for i, e := range evs {
				switch e.Topic {
				case "slow":
					select {
					case <-answer:
					case <-ctx.Done():
						return ctx.Err()
					}
				case "full":
					select {
					case <-answer:
					default:
						failed = append(failed, events.FailedEvent{Index: i, ID: e.ID, Err: errors.New("the stream is full")})
					}
				}
			}
			if failed != nil {
				return &events.PublishError{Failed: failed}
			}
			return b.Publish(ctx, evs...)
		})
		var evs []events.Event
		for i := range 300 {
			for _, topic := range []string{"slow", "full"} {
				e := event(fmt.Sprint("k", i%50), i/50+1)
				e.ID, e.Topic = topic+e.ID, topic
				evs = append(evs, e)
			}
		}
		add(t, db, ob, evs...)
		start(t, db, ob, p, &outbox.RelayConfig{Poll: 10 * time.Millisecond, BatchSize: 32, SlowTopic: 20 * time.Millisecond,
			MaxBackoff: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
		for i := 1; i <= 5; i++ {
			add(t, db, ob, event("a", i))
			published(t, b, fmt.Sprintf("a-%d", i))
		}
		bl, err := outbox.ReadBacklog(t.Context(), db)
		if err != nil || bl.Unpublished < 600 || bl.Unpublished > 605 || bl.Stalled != 0 {
			t.Errorf("backlog %+v, %v; want the 600 events of the two topics", bl, err)
		}
		close(answer)
		idle(t, db)
		for _, topic := range []string{"slow", "full"} {
			seen := map[string]bool{}
			for _, e := range b.Events(topic) {
				seen[e.ID] = true
			}
			if len(seen) != 300 {
				t.Errorf("%d events of topic %s are published, want 300", len(seen), topic)
			}
			inOrder(t, b.Events(topic))
		}
	})
}

type publisher func(ctx context.Context, evs ...events.Event) error

func (p publisher) Publish(ctx context.Context, evs ...events.Event) error { return p(ctx, evs...) }

// What one process commits, the relay of another hears of, however long its poll.
func TestOtherProcessesAreNotified(t *testing.T) {
	url := pgtest.URL(t)
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db)
	relays, writes, b := newOutbox(t, db), newOutbox(t, db), memevents.New(nil)
	start(t, db, relays, b, &outbox.RelayConfig{Poll: time.Hour, Listen: pgxdb.Listen(url)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- writes.Notify(ctx, db, 0) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	listening := func() bool {
		var n int
		err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`).Scan(&n)
		return err == nil && n == 1
	}
	eventually(t, "the relay listens", listening)
	for i := 1; i <= 5; i++ {
		add(t, db, writes, event("a", i))
		published(t, b, fmt.Sprintf("a-%d", i))
	}
	// The connection is lost: the relay looks once it is back.
	if _, err := db.Write.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`); err != nil {
		t.Fatal(err)
	}
	add(t, db, writes, event("a", 6))
	published(t, b, "a-6")
}

// However often its own process wakes a relay, it finds what others commit.
func TestWakeUpsDoNotStarveThePoll(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, elsewhere, b := newOutbox(t, db), newOutbox(t, db), memevents.New(nil)
	start(t, db, ob, b, &outbox.RelayConfig{Poll: 50 * time.Millisecond})
	busy, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 1; busy.Err() == nil; n++ {
			add(t, db, ob, event("busy", n))
		}
	})
	for i := 1; i <= 3; i++ {
		add(t, db, elsewhere, event("a", i))
		published(t, b, fmt.Sprintf("a-%d", i))
	}
	stop()
	wg.Wait()
}

// fed is a source that hands over the rows of the table itself.
type fed struct {
	db       *sqldb.DB
	rows     chan []outbox.Row
	fail     chan error
	before   func()       // called before Begin
	first    []outbox.Row // handed over after it
	began    atomic.Int32
	recorded atomic.Int32
}

func newFed(db *sqldb.DB) *fed {
	return &fed{db: db, rows: make(chan []outbox.Row), fail: make(chan error)}
}

func (f *fed) Run(ctx context.Context, feed *outbox.Feed) error {
	if f.before != nil {
		f.before()
	}
	if err := feed.Begin(ctx); err != nil {
		return err
	}
	f.began.Add(1)
	if f.first != nil {
		if err := feed.Rows(ctx, f.first, func() { f.recorded.Add(1) }); err != nil {
			return err
		}
	}
	for {
		select {
		case rows := <-f.rows:
			if err := feed.Rows(ctx, rows, func() { f.recorded.Add(1) }); err != nil {
				return err
			}
		case err := <-f.fail:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *fed) hand(t *testing.T, where string) { f.rows <- f.read(t, where) }

func (f *fed) read(t *testing.T, where string) []outbox.Row {
	rows, err := f.db.Read.QueryContext(t.Context(), `SELECT part, id, topic, key, key_seq, attributes, data FROM napkin_outbox WHERE `+where+` ORDER BY part, id`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out []outbox.Row
	for rows.Next() {
		var r outbox.Row
		if err := rows.Scan(&r.Part, &r.ID, &r.Topic, &r.Key, &r.KeySeq, &r.Attributes, &r.Data); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// A source hands rows over, late ones and known ones among them; the relay
// publishes each once.
func TestARelayTakesWhatASourceHandsOver(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b := newOutbox(t, db), memevents.New(nil)
	f := newFed(db)
	start(t, db, ob, b, &outbox.RelayConfig{Poll: time.Hour, Source: f})
	eventually(t, "the source has begun", func() bool { return f.began.Load() == 1 })
	late, err := db.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback() }() // a no-op after the commit
	if err := ob.Append(t.Context(), late, event("late", 1)); err != nil {
		t.Fatal(err)
	}
	early := beside("late", "early")
	add(t, db, ob, event(early, 1), event("a", 1))
	f.hand(t, "true")
	published(t, b, early+"-1", "a-1")
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	add(t, db, ob, event("a", 2))
	f.hand(t, "true") // all again
	published(t, b, "late-1", "a-2")
	idle(t, db)
	eventually(t, "the source hears of it", func() bool { return f.recorded.Load() == 2 })
	if got := ids(b.Events("orders")); len(got) != 4 {
		t.Errorf("published %v", got)
	}
}

// What was committed before a source begins is published before what it hands over
// then, also where there is more of it than a pass reads.
func TestTheTablesComeBeforeTheSource(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	elsewhere, b := newOutbox(t, db), memevents.New(nil) // its commits do not wake the relay
	f, n := newFed(db), 0
	f.before = func() {
		evs := make([]events.Event, 301)
		for i := range evs {
			n++
			evs[i] = event("a", n)
		}
		add(t, db, elsewhere, evs...)
		f.first = f.read(t, fmt.Sprintf("key_seq = %d", n))
	}
	start(t, db, newOutbox(t, db), b, &outbox.RelayConfig{Poll: time.Hour, BatchSize: 64, MaxBackoff: 10 * time.Millisecond, Source: f, Logger: slog.New(slog.DiscardHandler)})
	for run := range int32(4) {
		eventually(t, "the source has begun", func() bool { return f.began.Load() == run+1 })
		published(t, b, fmt.Sprintf("a-%d", 301*(run+1)))
		idle(t, db)
		inOrder(t, b.Events("orders"))
		if run < 3 {
			f.fail <- errors.New("the connection is lost")
		}
	}
}

// The tables are where the connection's search_path says.
func TestTablesMayLieInAnotherSchema(t *testing.T) {
	url := pgtest.URL(t)
	admin, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Write.ExecContext(t.Context(), `CREATE SCHEMA shop`); err != nil {
		t.Fatal(err)
	}
	db, err := pgxdb.Open(t.Context(), url+"&search_path=shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db)
	ob, b := newOutbox(t, db), memevents.New(nil)
	start(t, db, ob, b, nil)
	add(t, db, ob, event("a", 1), event("b", 1))
	add(t, db, ob, event("a", 2))
	published(t, b, "a-1", "a-2", "b-1")
	idle(t, db)
	var public int
	if err := admin.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname LIKE 'napkin%'`).Scan(&public); err != nil || public != 0 {
		t.Errorf("%d objects in public, %v", public, err)
	}
}

// A row that does not decode stops its key, and an operator can give it up.
func TestAnUndecodableRowStopsItsKeyOnly(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		add(t, db, ob, event("bad", 1), event("good", 1))
		add(t, db, ob, event("bad", 2))
		for _, table := range []string{"napkin_outbox", "napkin_outbox_0", "napkin_outbox_1", "napkin_outbox_2", "napkin_outbox_3"} {
			if (table == "napkin_outbox") == (db.Dialect == sqldb.Postgres) {
				continue
			}
			if _, err := db.Write.ExecContext(t.Context(), `UPDATE `+table+` SET attributes = $1 WHERE event_id = 'bad-1'`, []byte("{")); err != nil {
				t.Fatal(err)
			}
		}
		start(t, db, ob, b, nil)
		published(t, b, "good-1")
		var list []outbox.StalledEvent
		eventually(t, "the key is stalled", func() bool {
			var err error
			list, err = outbox.ReadStalled(t.Context(), db, 10)
			return err == nil && len(list) == 2
		})
		at := slices.IndexFunc(list, func(x outbox.StalledEvent) bool { return x.EventID == "bad-1" })
		if list[at].Cause == "" || list[at].Key != "bad" {
			t.Errorf("%+v", list[at])
		}
		if err := outbox.DiscardStalled(t.Context(), db, list[at].RowID); err != nil {
			t.Fatal(err)
		}
		published(t, b, "bad-2")
		idle(t, db)
	})
}

// The ring is emptied while writers write, and never of what is not published: a
// transaction that began long ago holds its segment, and each with later ids of its
// partition; what it appends is published after its commit.
func TestTheRingIsEmptiedUnderLoad(t *testing.T) {
	// The old transaction is silent for as long as the ring takes.
	db, err := pgxdb.Open(t.Context(), pgtest.URL(t), &pgxdb.Config{IdleInTransaction: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db)
	ob, err := outbox.New(db.Dialect, "order", &outbox.Config{Retention: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	b := memevents.New(nil)
	start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, TrimEvery: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	emptied := func() time.Time {
		bl, err := outbox.ReadBacklog(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		return bl.Trimmed
	}
	n, tried, other := 0, 0, ""
	write := func() {
		n++
		for other = ""; other == "" || events.Partition(other) == events.Partition("old"); tried++ {
			other = fmt.Sprint("k", tried) // what the old transaction does not hold
		}
		add(t, db, ob, event("a", n), event("b", n), event(other, 1))
	}
	eventually(t, "a segment is emptied under load", func() bool { write(); return !emptied().IsZero() })
	old, err := db.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Rollback() }() // a no-op after the commit
	if err := ob.Append(t.Context(), old, event("old", 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		last := emptied()
		eventually(t, "another segment is emptied", func() bool { write(); return emptied().After(last) })
	}
	if err := old.Commit(); err != nil {
		t.Fatal(err)
	}
	published(t, b, "old-1", fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n), other+"-1")
	idle(t, db)
	inOrder(t, b.Events("orders"))
	seen := map[string]bool{}
	for _, e := range b.Events("orders") {
		seen[e.ID] = true
	}
	if len(seen) != 3*n+1 {
		t.Errorf("%d events are published, want %d", len(seen), 3*n+1)
	}
}

const (
	relayDatabase = "OUTBOX_TEST_RELAY_DATABASE"
	relayBroker   = "OUTBOX_TEST_RELAY_BROKER"
)

// runRelay is the process that TestRelaysThatAreKilled runs several of.
func runRelay(database, broker string) error {
	ctx, quiet := context.Background(), slog.New(slog.DiscardHandler)
	db, err := pgxdb.Open(ctx, database, &pgxdb.Config{IdleInTransaction: time.Second})
	if err != nil {
		return err
	}
	defer db.Close()
	nc, err := nats.Connect(broker, natsevents.Options("relay", quiet)...)
	if err != nil {
		return err
	}
	defer nc.Close()
	b, err := natsevents.Connect(ctx, nc, &natsevents.Config{Timeout: time.Second, Logger: quiet})
	if err != nil {
		return err
	}
	ob, err := outbox.New(db.Dialect, "order", nil)
	if err != nil {
		return err
	}
	r, err := outbox.NewRelay(db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, LeaseTTL: 500 * time.Millisecond,
		MaxBackoff: 100 * time.Millisecond, BatchSize: 50, Listen: pgxdb.Listen(database), Logger: quiet})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// Three relays, of which one after another is killed while writers write: nothing
// is lost, and the first publications of each key are in order.
func TestRelaysThatAreKilled(t *testing.T) {
	kills := 8
	if testing.Short() {
		kills = 2
	}
	url := pgtest.URL(t)
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db)
	ob, srv := newOutbox(t, db), natstest.Start(t)
	b, err := natsevents.Connect(t.Context(), srv.Conn(t), &natsevents.Config{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	spawn := func() *exec.Cmd {
		p := exec.Command(os.Args[0], "-test.run=^$")
		p.Env = append(os.Environ(), relayDatabase+"="+url, relayBroker+"="+srv.URL)
		p.Stderr = os.Stderr
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	end := func(p *exec.Cmd) {
		_ = p.Process.Kill()
		_ = p.Wait() // "killed"
	}
	var relays [3]*exec.Cmd
	for i := range relays {
		relays[i] = spawn()
	}
	defer func() {
		for _, p := range relays {
			end(p)
		}
	}()
	writing, stop := context.WithCancel(t.Context())
	defer stop()
	var writers sync.WaitGroup
	for range 3 {
		writers.Go(func() {
			for writing.Err() == nil {
				err := sqldb.InTx(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					for range 3 {
						e := events.Event{Type: "test.v1.Happened", Topic: "orders", Key: fmt.Sprint("k", rand.N(20))}
						if err := ob.Append(ctx, tx, e); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil && !sqldb.IsRetryable(err) { // two that met crosswise
					t.Error(err)
					return
				}
			}
		})
	}
	published := func() uint64 {
		st, err := b.StreamState(t.Context(), "orders")
		if err != nil {
			return 0
		}
		return st.LastSeq
	}
	for range kills {
		at := published()
		eventually(t, "events are published", func() bool { return published() > at+100 })
		i := rand.N(len(relays))
		end(relays[i])
		relays[i] = spawn()
	}
	stop()
	writers.Wait()
	idle(t, db)
	var total int64
	if err := db.Read.QueryRowContext(t.Context(), `SELECT sum(seq) FROM napkin_outbox_key`).Scan(&total); err != nil {
		t.Fatal(err)
	}
	next, seen := map[string]int64{}, int64(0)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	done := make(chan error, 1)
	go func() {
		done <- b.Subscribe(ctx, events.Subscription{Group: "count", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
			e := d.Event()
			mu.Lock()
			defer mu.Unlock()
			switch {
			case e.KeySeq == next[e.Key]+1:
				next[e.Key]++
				seen++
			case e.KeySeq > next[e.Key]:
				t.Errorf("key %s: event %d came before event %d", e.Key, e.KeySeq, next[e.Key]+1)
				next[e.Key] = e.KeySeq
			}
			_ = d.Ack(ctx)
		})
	}()
	eventually(t, "every event is there", func() bool { mu.Lock(); defer mu.Unlock(); return seen >= total })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What is retained costs a pass nothing: it reads as many pages with a million
// rows as with a few.
func TestRetainedRowsCostNothing(t *testing.T) {
	rows := 1_000_000
	if testing.Short() {
		rows = 100_000
	}
	db := migrated(t, pgtest.DB(t))
	pages := func() (n int) {
		t.Helper()
		const read = `EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM napkin_outbox_cursor c,
			napkin_outbox_read(ARRAY[c.part], ARRAY[c.cursor_id + 1], ARRAY[9223372036854775807], 16, '{}', '')`
		for range 2 { // the first plans
			var text string
			if err := db.Read.QueryRowContext(t.Context(), read).Scan(&text); err != nil {
				t.Fatal(err)
			}
			var plan []struct {
				Plan struct {
					Hit  int `json:"Shared Hit Blocks"`
					Disk int `json:"Shared Read Blocks"`
				}
			}
			if err := json.Unmarshal([]byte(text), &plan); err != nil {
				t.Fatal(err)
			}
			n = plan[0].Plan.Hit + plan[0].Plan.Disk
		}
		return n
	}
	few := pages()
	_, err := db.Write.ExecContext(t.Context(), `INSERT INTO napkin_outbox_0
		SELECT n % 64, n / 64 + 1, 'orders', 'k', n, n, '{}', 'x', 0 FROM generate_series(0, $1::bigint - 1) AS n`, rows)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Write.ExecContext(t.Context(), `UPDATE napkin_outbox_block SET cursors = (SELECT json_agg($1::bigint)::text FROM generate_series(1, 64))`, rows/64+1); err != nil {
		t.Fatal(err)
	}
	for _, analyzed := range []bool{false, true} {
		if analyzed {
			if _, err := db.Write.ExecContext(t.Context(), `ANALYZE`); err != nil {
				t.Fatal(err)
			}
		}
		// An index of a million rows has three levels for each of 64 partitions.
		if many := pages(); many > few+64*4 {
			t.Errorf("a pass reads %d pages with %d rows (analyzed: %v), %d with none", many, rows, analyzed, few)
		}
	}
}

// The broker loses what one relay published, and what another publishes takes its
// sequences before the first one looks: the other one tells.
func TestALossThatAnotherRelayOvergrewIsFound(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b := newOutbox(t, db), memevents.New(nil)
	var one, two holding
	cfg := outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: 3 * time.Second, StreamCheck: time.Hour, CheckpointEvery: time.Millisecond, Hooks: one.hooks()}
	start(t, db, ob, b, &cfg)
	eventually(t, "the first holds all", func() bool { return one.n.Load() == 8 })
	cfg.Hooks = two.hooks()
	start(t, db, ob, b, &cfg)
	eventually(t, "each holds half", func() bool { return one.n.Load() == 4 && two.n.Load() == 4 })
	low, high := "", "" // keys of the first and of the second relay's blocks
	for i := 0; low == "" || high == ""; i++ {
		if k := fmt.Sprint("k", i); events.Partition(k) < 8 {
			low = k
		} else if events.Partition(k) >= 56 {
			high = k
		}
	}
	add(t, db, ob, event(low, 1))
	idle(t, db)
	for i := 1; i <= 4; i++ {
		add(t, db, ob, event(high, i))
		idle(t, db)
	}
	b.LoseTail("orders", 3)
	for i := 2; i <= 8; i++ {
		add(t, db, ob, event(low, i))
	}
	published(t, b, high+"-2", high+"-3", high+"-4", low+"-8")
	idle(t, db)
	inOrder(t, b.Events("orders"))
}
