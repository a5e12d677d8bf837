package inbox

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// errGoexit is a handler's runtime.Goexit, as t.FailNow does, panicError its panic;
// both count like any failure.
var errGoexit = errors.New("inbox: the handler ended its goroutine instead of returning")

type panicError struct {
	value any
	stack []byte // for the log, once; not for the dead letter
}

func (e *panicError) Error() string { return fmt.Sprintf("inbox: the handler panicked: %v", e.value) }

// verdict is what is to be done with an event after an attempt.
type verdict int

const (
	done     verdict = iota // acknowledge it
	again                   // back off, then try again
	held                    // wait for the event that is missing before it
	paused                  // the consumer pauses, then try again
	released                // shutting down: leave it to the next
)

// answerTimeout is how long the database may take to show that it is there.
const answerTimeout = 2 * time.Second

// handle makes one attempt at an event, alone: mark, effect and outgoing events in
// one transaction. wait is before the next.
func (c *Consumer[T]) handle(ctx context.Context, it *item) (_ verdict, wait time.Duration) {
	e := it.event
	if it.bad != nil {
		return c.bury(ctx, storable(e), Permanent(it.bad), 1, c.failure(nil, it.bad))
	}
	u := c.unit(it)
	if u == nil {
		return done, 0
	}
	actx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	handling, err := c.apply(actx, [][]*unit[T]{{u}})
	if err == nil {
		return done, 0
	}
	it.tries++
	ectx := c.context(ctx, e)
	switch {
	case ctx.Err() != nil:
		return released, 0
	case errors.Is(err, errGap):
		return c.gap(ectx, it, err)
	case c.isInfrastructure(err):
		c.failed(ectx, e, err, false)
		return paused, 0
	case sqldb.IsRetryable(err) && !IsPermanent(err):
		c.failed(ectx, e, err, false)
		return again, c.backoff(it.tries)
	case isTimeout(err) && !IsPermanent(err):
		// Whose fault it was the database says: the event's only where it answers.
		if !c.answers(ctx) {
			c.failed(ectx, e, err, false)
			return paused, 0
		}
		if !handling { // it waited for another transaction's lock
			c.failed(ectx, e, err, false)
			return again, c.backoff(it.tries)
		}
		if actx.Err() != nil {
			err = fmt.Errorf("inbox: the handler took longer than its HandlerTimeout of %v: %w", c.cfg.HandlerTimeout, err)
		}
	}
	c.failed(ectx, e, err, true)
	n, history, cerr := c.count(ctx, e.ID, err)
	if cerr != nil {
		if ctx.Err() != nil {
			return released, 0
		}
		c.cfg.Logger.WarnContext(ctx, "inbox: a failure was not counted", "consumer", c.name, "event_id", e.ID, "error", cerr)
		return paused, 0
	}
	if n == 1 {
		c.logPanic(ctx, e, err)
	}
	if IsPermanent(err) || n >= c.cfg.MaxAttempts {
		return c.bury(ectx, e, err, n, history)
	}
	c.cfg.Logger.WarnContext(ctx, "inbox: handling an event failed, trying again", "consumer", c.name, "event_id", e.ID, "type", e.Type, "attempts", n, "error", err)
	return again, c.backoff(max(n, it.tries))
}

// gap holds an event back whose predecessor is missing, until that comes or its
// time is over.
func (c *Consumer[T]) gap(ctx context.Context, it *item, err error) (verdict, time.Duration) {
	now := c.inbox.cfg.Now()
	if it.held.IsZero() {
		it.held = now
		c.cfg.Logger.WarnContext(ctx, "inbox: an event waits for one that is missing before it", "consumer", c.name, "event_id", it.event.ID, "key", it.event.Key, "error", err)
	}
	if left := it.held.Add(c.cfg.GapTimeout).Sub(now); left > 0 {
		return held, left
	}
	gap, ok := errors.AsType[*gapError](err)
	if ok && gap.want == 1 { // nothing is known of the key: it begins here
		return again, 0
	}
	c.failed(ctx, it.event, err, true)
	return c.bury(ctx, it.event, err, 1, c.failure(nil, err))
}

// answers tells whether the database is there.
func (c *Consumer[T]) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	return c.db.Read.PingContext(ctx) == nil
}

// storable makes the names of an event that did not decode fit for the tables.
func storable(e events.Event) events.Event {
	fits := func(s string) bool {
		return len(s) <= events.MaxNameLength && utf8.ValidString(s) && !strings.ContainsRune(s, 0)
	}
	if e.ID == "" || !fits(e.ID) {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %v %s", e.Topic, e.Attributes(), e.Data))
		e.ID = "undecodable-" + hex.EncodeToString(sum[:16]) // the same at each delivery
	}
	if !fits(e.Key) {
		e.Key = ""
	}
	return e
}

// context returns the context of an event's handling: its trace and its
// identifiers, with the event as the cause of what follows.
func (c *Consumer[T]) context(ctx context.Context, e events.Event) context.Context {
	ctx = correlation.With(ctx, correlation.IDs{CorrelationID: e.CorrelationID, CausationID: e.ID, UserID: e.UserID})
	return c.cfg.EventHooks.ExtractFrom(ctx, e)
}

// guard turns a handler's panic into an error, so that one event does not end
// the process and with it the handling of all others, and a runtime.Goexit too.
// That ends the goroutine, so the handler has one of its own: else the worker
// would be gone, and its key held for ever.
func guard(h func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() {
			if p := recover(); p != nil {
				err = &panicError{p, debug.Stack()}
			}
			ended <- err
		}()
		err = h()
	}()
	return <-ended
}

// logPanic writes the stack of a panic to the log; of other errors nothing.
func (c *Consumer[T]) logPanic(ctx context.Context, e events.Event, err error) {
	if p, ok := errors.AsType[*panicError](err); ok {
		c.cfg.Logger.ErrorContext(ctx, "inbox: the handler panicked", "consumer", c.name, "event_id", e.ID, "type", e.Type, "error", err, "stack", string(p.stack))
	}
}

func (c *Consumer[T]) isInfrastructure(err error) bool {
	if IsPermanent(err) {
		return false
	}
	return IsInfrastructure(err) || c.cfg.IsInfrastructure != nil && c.cfg.IsInfrastructure(err)
}

func (c *Consumer[T]) failed(ctx context.Context, e events.Event, err error, counts bool) {
	if f := c.cfg.Hooks.Failed; f != nil {
		f(ctx, c.name, e, err, counts)
	}
	if !counts {
		c.cfg.Logger.WarnContext(ctx, "inbox: handling an event had to wait", "consumer", c.name, "event_id", e.ID, "type", e.Type, "error", err)
	}
}

// count adds one to the event's failures and returns their number and history.
func (c *Consumer[T]) count(ctx context.Context, eventID string, cause error) (n int, history []Failure, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	err = c.runner.InTx(ctx, func(ctx context.Context, tx T) error {
		w := c.runner.Wrap(tx)
		var stored string
		err := w.QueryRow(ctx, `SELECT attempts, history FROM napkin_inbox_attempt WHERE consumer = $1 AND event_id = $2`+c.db.Dialect.ForUpdate(),
			c.name, eventID).Scan(&n, &stored)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		n++
		history = c.failure(readHistory(stored), cause)
		_, err = w.ExecContext(ctx, `INSERT INTO napkin_inbox_attempt (consumer, event_id, attempts, cause, history) VALUES ($1, $2, 1, $3, $4)
			ON CONFLICT (consumer, event_id) DO UPDATE SET attempts = napkin_inbox_attempt.attempts + 1, cause = excluded.cause, history = excluded.history`,
			c.name, eventID, clip(cause.Error(), maxCause), writeHistory(history))
		return err
	})
	return n, history, err
}

// clip bounds a stored cause.
func clip(s string, most int) string {
	if len(s) > most {
		s = s[:most] + "…"
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?") // what a text column takes
}

// backoff is the wait before attempt n+1, with jitter of half of it.
func (c *Consumer[T]) backoff(n int) time.Duration {
	d := min(c.cfg.Backoff<<min(max(n-1, 0), 20), c.cfg.MaxBackoff)
	return d/2 + rand.N(d/2+1)
}

// bury dead-letters an event, and its key parks behind it.
func (c *Consumer[T]) bury(ctx context.Context, e events.Event, cause error, attempts int, history []Failure) (verdict, time.Duration) {
	tctx, cancel := context.WithTimeout(ctx, c.cfg.HandlerTimeout)
	defer cancel()
	first := false
	err := c.runner.InTx(tctx, func(ctx context.Context, tx T) error {
		w := c.runner.Wrap(tx)
		var err error
		if first, err = c.inbox.Mark(ctx, w, c.name, e.ID); err != nil || !first {
			return err
		}
		if err := c.store(ctx, w, e, stateDead, cause.Error(), attempts, history); err != nil {
			return err
		}
		if err := c.noteKey(ctx, w, e); err != nil {
			return err
		}
		if e.Key != "" {
			gap := int64(0)
			if errors.Is(cause, errGap) {
				gap = e.KeySeq
			}
			_, err := w.ExecContext(ctx, `INSERT INTO napkin_parked_key (consumer, topic, key, draining, since, gap) VALUES ($1, $2, $3, 0, $4, $5) ON CONFLICT DO NOTHING`,
				c.name, e.Topic, e.Key, sqldb.Micros(c.inbox.cfg.Now()), gap)
			if err != nil {
				return err
			}
		}
		if _, err := w.ExecContext(ctx, `DELETE FROM napkin_inbox_attempt WHERE consumer = $1 AND event_id = $2`, c.name, e.ID); err != nil {
			return err
		}
		if f := c.cfg.OnDeadLetter; f != nil {
			return f(ctx, w, e, cause)
		}
		return nil
	})
	if err != nil {
		if ctx.Err() != nil {
			return released, 0
		}
		c.cfg.Logger.ErrorContext(ctx, "inbox: an event could not be dead-lettered, trying again", "consumer", c.name, "event_id", e.ID, "error", err)
		if c.isInfrastructure(err) || isTimeout(err) && !c.answers(ctx) {
			return paused, 0
		}
		return again, c.backoff(attempts) // OnDeadLetter failed: that is this key's trouble only
	}
	if first {
		c.cfg.Logger.ErrorContext(ctx, "inbox: event dead-lettered; its key waits for redrive or drop", "consumer", c.name, "event_id", e.ID, "type", e.Type, "topic", e.Topic, "attempts", attempts, "error", cause)
		c.deadLettered(ctx, e, cause)
	}
	return done, 0
}
