package inbox_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

var errPoison = errors.New("poison")

// A handler that always takes longer than it has fails like any other, and so does
// one whose own deadline always passes.
func TestAHandlerThatIsAlwaysLateFails(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		start(t, db, b, inbox.ConsumerConfig{MaxAttempts: 2, HandlerTimeout: 200 * time.Millisecond}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			switch e.Key {
			case "late":
				<-ctx.Done()
				return ctx.Err()
			case "own":
				return fmt.Errorf("a call: %w", context.DeadlineExceeded)
			}
			return effect(ctx, tx, e)
		})
		publish(t, b, event("late", 1), event("own", 1), event("good", 1))
		happen(t, db, 1)
		drained(t, b)
		l := letters(t, db)
		if len(l) != 2 {
			t.Fatalf("letters %+v", l)
		}
		for _, x := range l {
			if x.Attempts != 2 || len(x.History) != 2 || x.Event.Key == "late" && !strings.Contains(x.Cause, "HandlerTimeout") {
				t.Errorf("letter %+v", x)
			}
		}
	})
}

// An event that waits for another transaction's lock until its time is over has
// not failed.
func TestWaitingForALockCountsForNothing(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		if db.Dialect == sqldb.SQLite {
			return // has one writer, which waits for no lock of its own
		}
		b := memevents.New(nil)
		tx, err := db.Write.BeginTx(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = tx.Rollback() }() // a no-op after the first
		if _, err := inbox.New(db.Dialect, nil).Mark(t.Context(), tx, "mail", "a-1"); err != nil {
			t.Fatal(err)
		}
		var failed, counted atomic.Int32
		start(t, db, b, inbox.ConsumerConfig{MaxAttempts: 1, HandlerTimeout: 100 * time.Millisecond, Hooks: inbox.Hooks{
			Failed: func(_ context.Context, _ string, _ events.Event, _ error, counts bool) {
				if failed.Add(1); counts {
					counted.Add(1)
				}
			},
		}}, nil)
		publish(t, b, event("a", 1), event("b", 1))
		happen(t, db, 1) // another key goes on
		eventually(t, "it was tried", func() bool { return failed.Load() > 1 })
		if err := tx.Rollback(); err != nil {
			t.Fatal(err)
		}
		happen(t, db, 2)
		if counted.Load() != 0 || len(letters(t, db)) != 0 {
			t.Errorf("%d failures counted, letters %+v", counted.Load(), letters(t, db))
		}
	})
}

// The history keeps the last failures only, across attempts and redrives.
func TestTheHistoryIsBounded(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		var n atomic.Int32
		c, _ := start(t, db, b, inbox.ConsumerConfig{MaxAttempts: 12, MaxBackoff: time.Millisecond, Backoff: time.Millisecond}, func(context.Context, *sql.Tx, events.Event) error {
			return fmt.Errorf("failure %d%s", n.Add(1), strings.Repeat("!", 600))
		})
		publish(t, b, event("a", 1))
		eventually(t, "one letter", func() bool { return len(letters(t, db)) == 1 })
		if err := c.Redrive(t.Context(), letters(t, db)[0].ID); err != nil {
			t.Fatal(err)
		}
		eventually(t, "dead again", func() bool { return letters(t, db)[0].Attempts == 24 })
		h := letters(t, db)[0].History
		if len(h) != 16 || !strings.HasPrefix(h[0].Cause, "failure 9!") || !strings.HasPrefix(h[15].Cause, "failure 24!") || len(h[0].Cause) > 510 {
			t.Errorf("history %+v", h)
		}
	})
}

// spoiled gives some deliveries as a broker does that could not decode them.
type spoiled struct{ *memevents.Broker }

type spoiledDelivery struct{ events.Delivery }

func (d spoiledDelivery) Err() error {
	if d.Event().Key == "version" {
		m := d.Event().Attributes()
		m["specversion"] = "2.0"
		_, err := events.FromAttributes("orders", m, nil)
		return err
	}
	return nil
}

func (s spoiled) Subscribe(ctx context.Context, sub events.Subscription, deliver func(context.Context, events.Delivery)) error {
	return s.Broker.Subscribe(ctx, sub, func(ctx context.Context, d events.Delivery) { deliver(ctx, spoiledDelivery{d}) })
}

// What a handler cannot read is dead-lettered at once with its cause, whatever its
// size, and other keys go on.
func TestBadInputIsDeadLetteredWithItsCause(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		start(t, db, spoiled{b}, inbox.ConsumerConfig{}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			if err := protoevents.Decode(e, &wrapperspb.StringValue{}); err != nil {
				return inbox.Permanent(err)
			}
			return effect(ctx, tx, e)
		})
		good, err := protoevents.New("", "orders", "good", wrapperspb.String("a text of some length"))
		if err != nil {
			t.Fatal(err)
		}
		as := func(key string, change func(*events.Event)) events.Event {
			e := good
			e.ID, e.Key, e.Source, e.Type = key+"-1", key, "test", happened
			change(&e)
			return e
		}
		publish(t, b,
			as("big", func(e *events.Event) { e.Data = bytes.Repeat([]byte{0xff}, 10<<20) }),
			as("truncated", func(e *events.Event) { e.Data = e.Data[:len(e.Data)/2] }),
			as("type", func(e *events.Event) { e.DataContentType = "text/plain" }),
			as("version", func(*events.Event) {}),
			as("good", func(*events.Event) {}))
		happen(t, db, 1)
		drained(t, b)
		l := letters(t, db)
		if len(l) != 4 {
			t.Fatalf("%d letters", len(l))
		}
		for _, x := range l {
			if x.Attempts != 1 || x.Cause == "" || len(x.Cause) > 5000 || len(x.History) != 1 {
				t.Errorf("%s: cause %q, history %v", x.Event.Key, x.Cause, x.History)
			}
			if x.Event.Key == "big" && len(x.Event.Data) != 10<<20 {
				t.Errorf("the big one kept %d bytes", len(x.Event.Data))
			}
		}
	})
}
