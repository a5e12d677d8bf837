package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// A failure among events that share a transaction counts against the one that has
// it, once for each attempt that it had alone; the others have their effect once.
func TestAFailureInABatchCountsForItsOwn(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		keys := names(30)
		for i := 1; i <= 3; i++ {
			for _, k := range keys {
				publish(t, b, event(k, i))
			}
		}
		var counted atomic.Int32
		var acks sync.Map
		start(t, db, b, inbox.ConsumerConfig{MaxAttempts: 3, Hooks: inbox.Hooks{
			Failed: func(_ context.Context, _ string, _ events.Event, _ error, counts bool) {
				if counts {
					counted.Add(1)
				}
			},
			AfterAck: func(_ context.Context, _ string, e events.Event) { acks.Store(e.ID, true) },
		}}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if err := effect(ctx, tx, e); err != nil {
				return err
			}
			if e.ID == "key7-2" {
				return errors.New("poison")
			}
			return nil
		})
		happen(t, db, 30*3-2)
		drained(t, b)
		got := effects(t, db)
		inOrder(t, slices.DeleteFunc(got, func(s string) bool { return s == "key7-1" }), slices.DeleteFunc(keys, func(k string) bool { return k == "key7" }), 3)
		l := letters(t, db)
		if counted.Load() != 3 || len(l) != 2 || l[0].Event.ID != "key7-2" || l[0].Attempts != 3 || len(l[0].History) != 3 {
			t.Errorf("%d failures counted, letters %+v", counted.Load(), l)
		}
		for _, f := range l[0].History {
			if f.Cause != "poison" || f.At.IsZero() {
				t.Errorf("history %+v", l[0].History)
			}
		}
		eventually(t, "every event is acknowledged", func() bool {
			n := 0
			acks.Range(func(any, any) bool { n++; return true })
			return n == 90
		})
	})
}

// A batch handler is given several events, those of one key in order among the
// ones of other types, and the failing one alone in the end.
func TestHandleBatch(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		const other = "test.v1.HappenedToo"
		keys := names(20)
		for i := 1; i <= 6; i++ {
			for _, k := range keys {
				e := event(k, i)
				if i%3 == 0 {
					e.Type = other
				}
				publish(t, b, e)
			}
		}
		var most atomic.Int32
		c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), b, &inbox.ConsumerConfig{Backoff: time.Millisecond, MaxAttempts: 2, LeaseTTL: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		c.HandleBatch("orders", happened, func(ctx context.Context, tx *sql.Tx, evs []events.Event) error {
			for n := int32(len(evs)); n > most.Load(); {
				most.Store(n)
			}
			for _, e := range evs {
				if err := effect(ctx, tx, e); err != nil {
					return err
				}
				if e.ID == "key3-2" {
					return errors.New("poison")
				}
			}
			return nil
		})
		c.Handle("orders", other, func(ctx context.Context, tx *sql.Tx, e events.Event) error { return effect(ctx, tx, e) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		happen(t, db, 20*6-5)
		drained(t, b)
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		got := effects(t, db)
		inOrder(t, slices.DeleteFunc(slices.Clone(got), func(s string) bool { return s == "key3-1" }), slices.DeleteFunc(keys, func(k string) bool { return k == "key3" }), 6)
		if most.Load() < 2 {
			t.Error("a batch handler was never given two events")
		}
		if l := letters(t, db); len(l) != 5 || l[0].Event.ID != "key3-2" {
			t.Errorf("letters %+v", l)
		}
	})
}

// Copies within one transaction, and of what was handled before it.
func TestCopiesInABatch(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		for i := 1; i <= 50; i++ {
			for range 3 {
				publish(t, b, event("k"+strconv.Itoa(i%7), i))
			}
		}
		var copies atomic.Int32
		start(t, db, b, inbox.ConsumerConfig{Hooks: inbox.Hooks{Duplicate: func(context.Context, string, events.Event) { copies.Add(1) }}}, nil)
		happen(t, db, 50)
		drained(t, b)
		if got := effects(t, db); len(got) != 50 || copies.Load() != 100 {
			t.Errorf("%d effects, %d copies; want 50 and 100", len(got), copies.Load())
		}
	})
}
