package inbox_test

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

func sequence(s inbox.Sequence) map[string]inbox.Sequence {
	return map[string]inbox.Sequence{"orders": s}
}

func TestStrictWaitsForWhatIsMissing(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		start(t, db, b, inbox.ConsumerConfig{Sequences: sequence(inbox.Strict), GapTimeout: time.Hour}, nil)
		publish(t, b, event("a", 2), event("a", 1), event("b", 1), event("a", 5), event("a", 4), event("b", 2))
		happen(t, db, 4)
		filtered := event("a", 3)
		filtered.Type = "test.v1.Nobodys" // without a handler it counts all the same
		publish(t, b, filtered)
		happen(t, db, 6)
		drained(t, b)
		got := effects(t, db)
		if a := of("a", got); !slices.Equal(a, []string{"a-1", "a-2", "a-4", "a-5"}) || len(of("b", got)) != 2 {
			t.Errorf("effects %v", got)
		}
		// What was handled is a copy, not late.
		publish(t, b, event("a", 2), event("a", 6))
		happen(t, db, 7)
		drained(t, b)
		if l := letters(t, db); len(l) != 0 {
			t.Errorf("letters %+v", l)
		}
	})
}

func TestStrictGivesUpAndIsFilled(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		c, _ := start(t, db, b, inbox.ConsumerConfig{Sequences: sequence(inbox.Strict), GapTimeout: 50 * time.Millisecond}, nil)
		publish(t, b, event("a", 1), event("a", 4), event("a", 5), event("b", 1))
		eventually(t, "two letters", func() bool { return len(letters(t, db)) == 2 })
		if l := letters(t, db); l[0].Event.ID != "a-4" || !strings.Contains(l[0].Cause, "event 2 of the key is missing") || l[1].State != inbox.Parked {
			t.Errorf("letters %+v", l)
		}
		// What is missing comes after all: the key goes on by itself, in order.
		publish(t, b, event("a", 2), event("a", 6), event("a", 3))
		happen(t, db, 7)
		drained(t, b)
		if got := of("a", effects(t, db)); !slices.Equal(got, []string{"a-1", "a-2", "a-3", "a-4", "a-5", "a-6"}) {
			t.Errorf("effects %v", got)
		}
		// An operator goes on without it; what comes too late is told.
		publish(t, b, event("a", 9), event("a", 10))
		eventually(t, "two letters again", func() bool { return len(letters(t, db)) == 2 })
		if err := c.Redrive(t.Context(), letters(t, db)[0].ID); err != nil {
			t.Fatal(err)
		}
		happen(t, db, 9)
		eventually(t, "no letter", func() bool { return len(letters(t, db)) == 0 })
		publish(t, b, event("a", 8))
		eventually(t, "one letter", func() bool { return len(letters(t, db)) == 1 })
		if l := letters(t, db); !strings.Contains(l[0].Cause, "came after event 10") {
			t.Errorf("letters %+v", l)
		}
		// Dropped, it leaves no gap.
		if err := c.Drop(t.Context(), letters(t, db)[0].ID); err != nil {
			t.Fatal(err)
		}
		publish(t, b, event("a", 11))
		happen(t, db, 10)
	})
}

func TestADroppedEventLeavesNoGap(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		c, _ := start(t, db, b, inbox.ConsumerConfig{Sequences: sequence(inbox.Strict), GapTimeout: time.Hour}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if e.ID == "a-2" || e.ID == "b-1" {
				return inbox.Permanent(errPoison)
			}
			return effect(ctx, tx, e)
		})
		publish(t, b, event("a", 1), event("a", 2), event("b", 1))
		eventually(t, "two letters", func() bool { return len(letters(t, db)) == 2 })
		for _, l := range letters(t, db) {
			if err := c.Drop(t.Context(), l.ID); err != nil {
				t.Fatal(err)
			}
		}
		publish(t, b, event("a", 3), event("b", 2))
		happen(t, db, 3)
	})
}

// A key of which nothing is known begins, after a wait, with what is there.
func TestStrictBeginsInTheMiddle(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		start(t, db, b, inbox.ConsumerConfig{Sequences: sequence(inbox.Strict), GapTimeout: 20 * time.Millisecond}, nil)
		publish(t, b, event("a", 7), event("a", 8))
		happen(t, db, 2)
		if l := letters(t, db); len(l) != 0 {
			t.Errorf("letters %+v", l)
		}
	})
}

func TestLatestPassesOverWhatIsOlder(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		var older atomic.Int32
		start(t, db, b, inbox.ConsumerConfig{Sequences: sequence(inbox.Latest), Hooks: inbox.Hooks{
			Superseded: func(context.Context, string, events.Event) { older.Add(1) },
		}}, nil)
		publish(t, b, event("a", 1), event("a", 4), event("a", 2), event("a", 3), event("b", 9), event("a", 5))
		happen(t, db, 4)
		drained(t, b)
		if got := effects(t, db); !slices.Equal(of("a", got), []string{"a-1", "a-4", "a-5"}) || older.Load() != 2 {
			t.Errorf("effects %v, %d passed over", got, older.Load())
		}
	})
}

func TestSequencesOfAnUnknownTopicAreRefused(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		c, err := inbox.NewConsumer("mail", db, sqldb.Std(db), memevents.New(nil), &inbox.ConsumerConfig{Sequences: map[string]inbox.Sequence{"order": inbox.Strict}})
		if err != nil {
			t.Fatal(err)
		}
		c.Handle("orders", happened, func(context.Context, *sql.Tx, events.Event) error { return nil })
		if err := c.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `"order"`) {
			t.Errorf("Run: %v", err)
		}
	})
}
