package outbox_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

func idle(t testing.TB, db *sqldb.DB) {
	t.Helper()
	eventually(t, "everything is published", func() bool {
		bl, err := outbox.ReadBacklog(t.Context(), db)
		return err == nil && bl.Empty()
	})
}

// stamped is what the outbox made of a test's event.
func stamped(key string, n int) events.Event {
	e := event(key, n)
	e.Source, e.KeySeq, e.Time = "order", int64(n), time.Now()
	return e
}

// A relay dies between publishing and recording it. Its successor's copies are
// recognised by the broker; their receipts must still count as stored, or a tail
// that the broker loses afterwards is not missed.
func TestCopiesThatTheBrokerRecognisesCountAsStored(t *testing.T) {
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
	cfg := &outbox.RelayConfig{Poll: 10 * time.Millisecond, StreamCheck: 50 * time.Millisecond, CheckpointEvery: time.Millisecond}
	stop := start(t, db, ob, b, cfg)
	add(t, db, ob, event("a", 1))
	idle(t, db)
	stop()
	snapshot := srv.Snapshot()
	for i := 2; i <= 5; i++ {
		add(t, db, ob, event("a", i))
		eventually(t, "the relay that died has published", func() bool { return b.Publish(t.Context(), stamped("a", i)) == nil })
	}
	start(t, db, ob, b, cfg)
	idle(t, db)
	srv.Rollback(snapshot)
	eventually(t, "what was lost is published again", func() bool {
		st, err := b.StreamState(t.Context(), "orders")
		return err == nil && st.LastSeq >= 5
	})
}

// A topic whose stream is gone for good, or was never made, holds up its own
// events only.
func TestATopicWithoutItsStreamHoldsUpNoOther(t *testing.T) {
	db := migrated(t, sqlite(t))
	ob, srv := newOutbox(t, db), natstest.Start(t)
	connect := func(topics ...string) *natsevents.Broker {
		b, err := natsevents.Connect(t.Context(), srv.Conn(t), &natsevents.Config{Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close() })
		if err := b.EnsureTopics(t.Context(), topics...); err != nil {
			t.Fatal(err)
		}
		return b
	}
	cfg := &outbox.RelayConfig{Poll: 10 * time.Millisecond, StreamCheck: 20 * time.Millisecond, MaxBackoff: 50 * time.Millisecond}
	to := func(topic string, n int) events.Event {
		e := event("a", n)
		e.ID += " of " + topic
		e.Topic = topic
		return e
	}
	stop := start(t, db, ob, connect("orders", "retired"), cfg)
	add(t, db, ob, to("orders", 1), to("retired", 1))
	idle(t, db)
	stop()
	if err := natsStreams(t, srv).DeleteStream(t.Context(), "retired"); err != nil {
		t.Fatal(err)
	}
	b := connect("orders") // the next release no longer knows the other topic
	start(t, db, ob, b, cfg)
	add(t, db, ob, to("orders", 2), to("never-made", 1), to("retired", 2))
	eventually(t, "the topic that is well goes on", func() bool {
		st, err := b.StreamState(t.Context(), "orders")
		return err == nil && st.LastSeq == 2
	})
	add(t, db, ob, to("orders", 3))
	eventually(t, "and on", func() bool {
		st, err := b.StreamState(t.Context(), "orders")
		return err == nil && st.LastSeq == 3
	})
	// What it held up is published once the streams are there.
	connect("never-made", "retired")
	eventually(t, "the held-up events are published", func() bool {
		for _, topic := range []string{"never-made", "retired"} {
			st, err := b.StreamState(context.WithoutCancel(t.Context()), topic)
			if err != nil || st.LastSeq == 0 {
				return false
			}
		}
		return true
	})
	idle(t, db)
}

// What an operator gave up stays given up when the relay goes back.
func TestADiscardedEventIsNotPublishedAgain(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		var heals atomic.Bool
		b.Fail(func(e events.Event) error {
			if e.ID == "bad-1" && !heals.Load() {
				return events.ErrRejected
			}
			return nil
		})
		start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, StreamCheck: 20 * time.Millisecond})
		add(t, db, ob, event("a", 1), event("bad", 1), event("bad", 2))
		var stalled []outbox.StalledEvent
		eventually(t, "the refused event is listed", func() bool {
			var err error
			stalled, err = outbox.ReadStalled(t.Context(), db, 10)
			return err == nil && len(stalled) == 2
		})
		if err := outbox.DiscardStalled(t.Context(), db, stalled[0].RowID); err != nil {
			t.Fatal(err)
		}
		published(t, b, "a-1", "bad-2")
		idle(t, db)
		heals.Store(true)
		b.Recreate("orders")
		published(t, b, "a-1", "bad-2")
		idle(t, db)
		if slices.Contains(ids(b.Events("orders")), "bad-1") {
			t.Error("a discarded event was published")
		}
	})
}

// A database that takes no writes, as with a full disk or after a failover to a
// standby that is read only, is waited for; nothing is lost or reordered.
func TestADatabaseThatRefusesWritesIsSurvived(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		exec := func(queries ...string) {
			t.Helper()
			for _, q := range queries {
				if _, err := db.Write.ExecContext(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
		}
		refuse := func(state string) {
			if db.Dialect == sqldb.SQLite {
				exec(`CREATE TRIGGER refuse BEFORE UPDATE ON napkin_outbox_block BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END`)
				return
			}
			exec(`CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused' USING ERRCODE = '`+state+`'; END $$`,
				`CREATE TRIGGER refuse BEFORE UPDATE ON napkin_outbox_block FOR EACH ROW EXECUTE FUNCTION refuse()`)
		}
		accept := func() {
			if db.Dialect == sqldb.SQLite {
				exec(`DROP TRIGGER refuse`)
				return
			}
			exec(`DROP TRIGGER refuse ON napkin_outbox_block`)
		}
		ob, b := newOutbox(t, db), memevents.New(nil)
		start(t, db, ob, b, nil)
		add(t, db, ob, event("a", 1))
		idle(t, db)
		for i, state := range []string{"53100", "25006"} { // disk full, read only
			refuse(state)
			add(t, db, ob, event("a", 3*i+2), event("b", 3*i+1))
			add(t, db, ob, event("a", 3*i+3), event("b", 3*i+2))
			accept()
			add(t, db, ob, event("a", 3*i+4), event("b", 3*i+3))
			idle(t, db)
		}
		published(t, b, "a-7", "b-6")
		inOrder(t, b.Events("orders"))
	})
}

// A topic that catches up meets an event that is refused: what is read next of the
// same key waits behind it.
func TestCatchingUpKeepsTheOrderBehindARefusedEvent(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		ob, b := newOutbox(t, db), memevents.New(nil)
		var away, heals atomic.Bool
		away.Store(true)
		b.Fail(func(e events.Event) error {
			switch {
			case away.Swap(false):
				return errors.New("away")
			case e.ID == "a-2" && !heals.Load():
				return events.ErrRejected
			}
			return nil
		})
		add(t, db, ob, event("a", 1), event("a", 2), event("a", 3), event("a", 4), event("a", 5), event("a", 6))
		start(t, db, ob, b, &outbox.RelayConfig{Poll: 10 * time.Millisecond, BatchSize: 2})
		eventually(t, "the others wait behind the refused event", func() bool {
			stalled, err := outbox.ReadStalled(t.Context(), db, 10)
			return err == nil && len(stalled) == 5
		})
		heals.Store(true)
		idle(t, db)
		if got := ids(b.Events("orders")); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4", "a-5", "a-6"}) {
			t.Errorf("published %v", got)
		}
	})
}
