package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// A takes its id first and commits last. A reader with an id cursor loses it; one
// with an xmin fence stalls. The relay does neither, across its own restart too.
func TestTheLateCommitterIsNeitherLostNorWaitedFor(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b, early := newOutbox(t, db), memevents.New(nil), beside("late", "early")
	stop := start(t, db, ob, b, nil)

	late, err := db.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback() }()
	if err := ob.Append(t.Context(), late, event("late", 1)); err != nil {
		t.Fatal(err)
	}
	add(t, db, ob, event(early, 1))
	published(t, b, early+"-1")
	backlog := func() outbox.Backlog {
		t.Helper()
		bl, err := outbox.ReadBacklog(t.Context(), db)
		if err != nil {
			t.Fatal(err)
		}
		return bl
	}
	eventually(t, "the hole is recorded", func() bool { return backlog().OpenHoles == 1 })
	stop() // the hole outlives its finder
	start(t, db, ob, b, nil)
	add(t, db, ob, event(early, 2))
	published(t, b, early+"-2")
	if slices.Contains(ids(b.Events("orders")), "late-1") {
		t.Fatal("an event was published before its commit")
	}
	if err := late.Commit(); err != nil {
		t.Fatal(err)
	}
	published(t, b, "late-1")
	eventually(t, "the hole is forgotten", func() bool { return backlog().Empty() })
}

// A writer whose xid is above the latest completed one may fill a hole whose
// neighbours all have lower xids: the bound must lie above it.
func TestAHoleOutlivesEveryWriterThatMayFillIt(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	ob, b := newOutbox(t, db), memevents.New(nil)
	one, other := beside("second", "first"), beside("second", "other")
	begin := func() (tx interface {
		Commit() error
		Rollback() error
		sqldb.Execer
	}) {
		tx, err := db.Write.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = tx.Rollback() })
		return tx
	}
	// The relay leads before, and its lease is long: its own transactions do not
	// complete in between, which would hide a bound that is too low.
	start(t, db, ob, b, &outbox.RelayConfig{Poll: 5 * time.Millisecond, LeaseTTL: time.Minute})
	add(t, db, ob, event("warm", 1))
	published(t, b, "warm-1")
	eventually(t, "the relay is idle", func() bool {
		bl, err := outbox.ReadBacklog(t.Context(), db)
		return err == nil && bl.Empty()
	})
	first := begin() // takes the lower xid
	if _, err := first.ExecContext(t.Context(), `SELECT pg_current_xact_id()`); err != nil {
		t.Fatal(err)
	}
	second := begin() // the higher xid, and the lower id
	if err := ob.Append(t.Context(), second, event("second", 1)); err != nil {
		t.Fatal(err)
	}
	if err := ob.Append(t.Context(), first, event(one, 1)); err != nil {
		t.Fatal(err)
	}
	if err := first.Commit(); err != nil {
		t.Fatal(err)
	}
	published(t, b, one+"-1")
	for i := range 5 { // passes that might forget the hole
		add(t, db, ob, event(other, i+1))
		published(t, b, fmt.Sprintf("%s-%d", other, i+1))
	}
	if err := second.Commit(); err != nil {
		t.Fatal(err)
	}
	published(t, b, "second-1")
}

func TestATransactionInAnotherDatabaseStallsNothing(t *testing.T) {
	db, other := migrated(t, pgtest.DB(t)), pgtest.DB(t)
	ob, b := newOutbox(t, db), memevents.New(nil)
	old, err := other.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Rollback() }()
	if _, err := old.ExecContext(t.Context(), `CREATE TABLE x (y int)`); err != nil { // a write: it holds an xid
		t.Fatal(err)
	}
	start(t, db, ob, b, nil)
	for i := 1; i <= 20; i++ {
		add(t, db, ob, event("a", i))
	}
	published(t, b, "a-1", "a-20")
}

func TestTwoRelaysKeepTheOrderWhileLeadersChange(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		var leaders atomic.Int32
		cfg := &outbox.RelayConfig{Poll: 10 * time.Millisecond, LeaseTTL: 300 * time.Millisecond, BatchSize: 7, Hooks: outbox.RelayHooks{
			Holding: func(_ context.Context, _ events.Block, held bool) {
				if held {
					leaders.Add(1)
				}
			},
		}}
		stopA := start(t, db, ob, b, cfg)
		start(t, db, ob, b, cfg)
		n := 0
		write := func(k int) {
			for range k {
				n++
				add(t, db, ob, event("a", n), event("b", n))
			}
		}
		some := 50
		if testing.Short() {
			some = 15
		}
		write(some)
		stopA()
		write(some)
		stopC := start(t, db, ob, b, cfg)
		write(some / 2)
		published(t, b, fmt.Sprintf("a-%d", n), fmt.Sprintf("b-%d", n))
		stopC()
		inOrder(t, b.Events("orders"))
		if leaders.Load() == 0 {
			t.Error("nobody led")
		}
	})
}

// inOrder checks that the first copies of each key's events are in order and
// complete. A later copy of an earlier event is one that inboxes drop.
func inOrder(t *testing.T, evs []events.Event) {
	t.Helper()
	next := map[string]int64{}
	for _, e := range evs {
		if e.KeySeq > next[e.Key]+1 {
			t.Errorf("key %s: event %d came before event %d", e.Key, e.KeySeq, next[e.Key]+1)
		}
		next[e.Key] = max(next[e.Key], e.KeySeq)
	}
}

func TestARefusedEventStopsItsKeyOnly(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		var now atomic.Int64 // skips the waits between tries
		now.Store(time.Now().UnixNano())
		b.Fail(func(e events.Event) error {
			if e.ID == "bad-1" {
				return fmt.Errorf("%w: no", events.ErrRejected)
			}
			return nil
		})
		start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, Now: func() time.Time {
			return time.Unix(0, now.Add(int64(100*time.Millisecond)))
		}})
		add(t, db, ob, event("bad", 1), event("good", 1))
		add(t, db, ob, event("bad", 2), event("good", 2))
		published(t, b, "good-1", "good-2")
		var list []outbox.StalledEvent
		eventually(t, "both events of the key are listed", func() bool {
			var err error
			list, err = outbox.ReadStalled(t.Context(), db, 10)
			if err != nil {
				t.Fatal(err)
			}
			return len(list) == 2 && list[0].Attempts > 1
		})
		if list[0].EventID != "bad-1" || list[0].Cause == "" || list[0].Type != "test.v1.Happened" || list[1].Attempts != 0 {
			t.Errorf("stalled: %+v", list)
		}
		if err := outbox.DiscardStalled(t.Context(), db, list[1].RowID); !errors.Is(err, outbox.ErrNotStalled) {
			t.Errorf("an event that only waits was discarded: %v", err)
		}
		if err := outbox.DiscardStalled(t.Context(), db, list[0].RowID); err != nil {
			t.Fatal(err)
		}
		add(t, db, ob, event("bad", 3))
		published(t, b, "bad-2", "bad-3")
		got := ids(b.Events("orders"))
		if slices.Contains(got, "bad-1") || slices.Index(got, "bad-2") > slices.Index(got, "bad-3") {
			t.Errorf("published %v", got)
		}
	})
}

func TestAnOutageLosesNothing(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		var down atomic.Bool
		var refused atomic.Int32
		down.Store(true)
		b.Fail(func(events.Event) error {
			if down.Load() {
				refused.Add(1)
				return errors.New("connection refused")
			}
			return nil
		})
		start(t, db, ob, b, nil)
		for i := 1; i <= 10; i++ {
			add(t, db, ob, event("a", i), event("b", i))
		}
		eventually(t, "several attempts", func() bool { return refused.Load() > 5 })
		bl, err := outbox.ReadBacklog(t.Context(), db)
		if err != nil || bl.Unpublished != 20 || bl.Stalled != 0 || bl.Oldest.IsZero() {
			t.Errorf("backlog %+v, %v; want 20 unpublished, none stalled", bl, err)
		}
		down.Store(false)
		published(t, b, "a-10", "b-10")
		inOrder(t, b.Events("orders"))
	})
}

func TestWhatTheBrokerLostIsPublishedAgain(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		var republished atomic.Int32
		start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, StreamCheck: 20 * time.Millisecond, CheckpointEvery: time.Millisecond,
			Hooks: outbox.RelayHooks{Republish: func(context.Context, string, events.Block) { republished.Add(1) }}})
		for i := 1; i <= 10; i++ {
			add(t, db, ob, event("a", i))
		}
		published(t, b, "a-10")
		b.LoseTail("orders", 4)
		published(t, b, "a-7", "a-8", "a-9", "a-10")
		inOrder(t, b.Events("orders"))
		b.Recreate("orders")
		published(t, b, "a-1", "a-10")
		inOrder(t, b.Events("orders"))
		// A tail lost and overgrown before anybody looks: the receipts tell.
		for i := 11; i <= 15; i++ {
			b.LoseTail("orders", 1)
			add(t, db, ob, event("a", i))
			published(t, b, fmt.Sprintf("a-%d", i-1), fmt.Sprintf("a-%d", i))
		}
		if republished.Load() < 2 {
			t.Errorf("went back %d times, want at least 2", republished.Load())
		}
	})
}

func TestPublishedRowsAreTrimmedAfterTheirRetention(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		var ahead atomic.Int64
		now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		ob, err := outbox.New(db.Dialect, "order", &outbox.Config{Retention: time.Hour, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		b := memevents.New(nil)
		b.Fail(func(e events.Event) error {
			if e.Key == "bad" {
				return events.ErrRejected
			}
			return nil
		})
		start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, TrimEvery: time.Millisecond, Now: now})
		count := func() (n int) {
			if err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM napkin_outbox`).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n
		}
		noted := func() bool {
			var n int
			err := db.Read.QueryRowContext(t.Context(), `SELECT count(*) FROM napkin_outbox_segment WHERE published > 0`).Scan(&n)
			return err == nil && n > 0
		}
		for i := 1; i <= 30; i++ {
			add(t, db, ob, event("a", i))
		}
		published(t, b, "a-30")
		eventually(t, "it is noted that they are published", noted)
		ahead.Store(int64(31 * time.Minute)) // on PostgreSQL, the next segment
		add(t, db, ob, event("bad", 1), event("a", 31))
		published(t, b, "a-31")
		idle := func() bool { bl, err := outbox.ReadBacklog(t.Context(), db); return err == nil && bl.Stalled == 1 }
		eventually(t, "the refused event is listed", idle)
		if n := count(); n != 32 {
			t.Fatalf("%d rows before the retention, want 32", n)
		}
		ahead.Store(int64(92 * time.Minute))
		eventually(t, "the first rows are gone", func() bool { return count() <= 2 })
		ahead.Store(int64(5 * time.Hour))
		add(t, db, ob, event("a", 32))
		published(t, b, "a-32")
		if n := count(); n == 0 {
			t.Error("a refused event was trimmed")
		}
		if bl, err := outbox.ReadBacklog(t.Context(), db); err != nil || bl.Trimmed.IsZero() || bl.Stalled != 1 {
			t.Errorf("backlog %+v, %v", bl, err)
		}
	})
}

func TestJetStreamThatForgetsIsMadeWhole(t *testing.T) {
	db := migrated(t, sqlite(t))
	ob, srv := newOutbox(t, db), natstest.Start(t)
	b, err := natsevents.Connect(t.Context(), srv.Conn(t), &natsevents.Config{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, StreamCheck: 50 * time.Millisecond, CheckpointEvery: time.Millisecond})
	var mu sync.Mutex
	seen := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Subscribe(ctx, events.Subscription{Group: "g", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
			mu.Lock()
			seen[d.Event().ID]++
			mu.Unlock()
			_ = d.Ack(ctx)
		})
	}()
	defer func() { cancel(); <-done }()
	has := func(id string) func() bool {
		return func() bool { mu.Lock(); defer mu.Unlock(); return seen[id] > 0 }
	}
	last := func() uint64 {
		st, err := b.StreamState(t.Context(), "orders")
		if err != nil {
			return 0
		}
		return st.LastSeq
	}
	for i := 1; i <= 5; i++ {
		add(t, db, ob, event("a", i))
	}
	eventually(t, "a-5 delivered", has("a-5"))
	snapshot := srv.Snapshot()
	for i := 6; i <= 10; i++ {
		add(t, db, ob, event("a", i))
	}
	eventually(t, "a-10 delivered", has("a-10"))
	srv.Rollback(snapshot)
	eventually(t, "the stream holds ten events again", func() bool { return last() >= 10 })

	// The stream itself is deleted: made anew, with everything retained.
	js := natsStreams(t, srv)
	if err := js.DeleteStream(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	add(t, db, ob, event("a", 11))
	eventually(t, "a-11 delivered", has("a-11"))
	eventually(t, "the new stream holds all eleven", func() bool { return last() >= 11 })
}
