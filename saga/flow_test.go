package saga_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

type stdTx = *sql.Tx

type state struct {
	Order string   `json:"order"`
	Seen  []string `json:"seen,omitempty"`
	A     string   `json:"a,omitempty"`
	B     string   `json:"b,omitempty"`
}

func cmd(typ string) func(*state) (events.Event, error) {
	return func(*state) (events.Event, error) { return events.Event{Topic: "orders", Type: typ}, nil }
}

func seen(s *state, e events.Event) error {
	s.Seen = append(s.Seen, string(e.Data))
	return nil
}

func setStatus(status string) func(context.Context, sqldb.Tx, *state) error {
	return func(ctx context.Context, tx sqldb.Tx, s *state) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO orders (id, status) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET status = $2`, s.Order, status)
		return err
	}
}

func (e *env) order(id string) string {
	e.t.Helper()
	var status string
	err := e.db.Read.QueryRowContext(e.t.Context(), `SELECT status FROM orders WHERE id = $1`, id).Scan(&status)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		e.t.Fatal(err)
	}
	return status
}

// checkout is two commands in a group, a pivot and a retriable local step.
func checkout() saga.Definition[state] {
	return saga.Definition[state]{
		Name: "checkout", Deadline: time.Minute,
		Steps: []saga.Step[state]{
			saga.Parallel[state]("prepare",
				&saga.Command[state]{Name: "reserve", Do: cmd("Reserve"), Undo: cmd("Release"), OnReply: seen},
				&saga.Command[state]{Name: "authorize", Do: cmd("Authorize"), Undo: cmd("Void"), OnReply: seen},
			),
			&saga.Command[state]{Name: "capture", Kind: saga.Pivot, Do: cmd("Capture"), ReplyTimeout: 5 * time.Second},
			&saga.Local[state]{Name: "confirm", Kind: saga.Retriable, Do: setStatus("confirming")},
		},
		OnCompleted: setStatus("confirmed"),
		OnCompensated: func(ctx context.Context, tx sqldb.Tx, s *state, c saga.Cause) error {
			return setStatus(string(c.Kind)+": "+c.Reason)(ctx, tx, s)
		},
	}
}

func types(evs []events.Event) string {
	var out []string
	for _, e := range evs {
		out = append(out, e.Type)
	}
	return strings.Join(out, " ")
}

func TestASagaCompletes(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		ctx := correlation.With(t.Context(), correlation.IDs{CorrelationID: "corr-1"})
		if err := sqldb.InTx(ctx, e.db, func(ctx context.Context, tx *sql.Tx) error {
			return h.Start(ctx, tx, "o1", state{Order: "o1"})
		}); err != nil {
			t.Fatal(err)
		}
		first := e.take()
		if got := types(first); got != "Reserve Authorize" {
			t.Fatalf("Start sent %q", got)
		}
		if k := first[0].Extension(saga.ExtStep); k != "checkout/o1/reserve" {
			t.Errorf("step key %q", k)
		}
		if x := first[0].Extension(saga.ExtExpires); x != e.now().Add(time.Minute).Format(time.RFC3339Nano) {
			t.Errorf("expires %q", x)
		}
		// Replies in the other order: folded in definition order.
		e.answer(c, first[1], "ok", "")
		e.answer(c, first[0], "ok", "")
		e.answer(c, first[0], "ok", "") // a duplicate
		capture := e.take()
		if got := types(capture); got != "Capture" {
			t.Fatalf("then %q was sent", got)
		}
		e.answer(c, capture[0], "ok", "")
		e.run(c)
		in := e.expect(c, "o1", saga.StatusCompleted)
		if in.IDs.CorrelationID != "corr-1" {
			t.Errorf("correlation %q", in.IDs.CorrelationID)
		}
		_, s, err := h.Get(t.Context(), "o1")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.Seen, []string{"Reserve", "Authorize"}) {
			t.Errorf("results were folded as %v", s.Seen)
		}
		if got := e.order("o1"); got != "confirmed" {
			t.Errorf("the order is %q", got)
		}
	})
}

func TestStartIsInTheCallersTransaction(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		boom := errors.New("boom")
		if err := e.try(func(ctx context.Context, tx sqldb.Tx) error {
			if err := h.Start(ctx, tx, "o1", state{}); err != nil {
				return err
			}
			return boom
		}); !errors.Is(err, boom) {
			t.Fatal(err)
		}
		if _, err := c.Get(t.Context(), "o1"); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("after a rollback: %v", err)
		}
		start(e, h, "o1", state{})
		e.take()
		e.tx(func(ctx context.Context, tx sqldb.Tx) error {
			if err := h.Start(ctx, tx, "o1", state{}); !errors.Is(err, saga.ErrExists) {
				t.Errorf("a second start: %v", err)
			}
			return setStatus("usable")(ctx, tx, &state{Order: "x"}) // the transaction goes on
		})
		if sent := e.take(); len(sent) != 0 {
			t.Errorf("a second start sent %s", types(sent))
		}
		if err := e.try(func(ctx context.Context, tx sqldb.Tx) error { return h.Start(ctx, tx, "bad id", state{}) }); err == nil {
			t.Error("an id with a space was taken")
		}
	})
}

func TestARefusalCompensatesInReverse(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		for _, m := range e.take() {
			e.answer(c, m, "ok", "")
		}
		e.answer(c, e.take()[0], "refused", "no funds")
		undo := e.take()
		if got := types(undo); got != "Release Void" {
			t.Fatalf("undone by %q", got)
		}
		if undo[0].Extension(saga.ExtStep) != "checkout/o1/reserve" || undo[0].Extension(saga.ExtPhase) != "undo" || undo[0].Extension(saga.ExtExpires) != "" {
			t.Errorf("the undo carries %v", undo[0].Extensions)
		}
		e.answer(c, undo[1], "ok", "")
		e.expect(c, "o1", saga.StatusCompensating)
		e.answer(c, undo[0], "ok", "")
		e.run(c)
		e.expect(c, "o1", saga.StatusCompensated)
		if got := e.order("o1"); got != "refused: no funds" {
			t.Errorf("the order is %q", got)
		}
	})
}

// A branch whose answer is outstanding owes its undo; the refused one does not.
func TestUndoIsOwedFromTheAttempt(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		do := e.take()
		e.answer(c, do[0], "refused", "sold out")
		undo := e.take()
		if got := types(undo); got != "Void" {
			t.Fatalf("undone by %q", got)
		}
		e.answer(c, do[1], "ok", "") // late
		e.expect(c, "o1", saga.StatusCompensating)
		e.answer(c, undo[0], "ok", "")
		e.run(c)
		e.expect(c, "o1", saga.StatusCompensated)
		if !slices.Contains(e.kinds(c, "o1"), "late reply authorize") {
			t.Errorf("history %v", e.kinds(c, "o1"))
		}
	})
}

func TestACommandIsSentAgainUnderTheSameStepKey(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		first := e.take()
		e.pass(15 * time.Second)
		e.run(c)
		again := e.take()
		if got := types(again); got != "Reserve Authorize" {
			t.Fatalf("sent again: %q", got)
		}
		if again[0].ID == first[0].ID || again[0].Extension(saga.ExtStep) != first[0].Extension(saga.ExtStep) {
			t.Errorf("event %q after %q, step %q after %q", again[0].ID, first[0].ID, again[0].Extension(saga.ExtStep), first[0].Extension(saga.ExtStep))
		}
	})
}

func TestTheDeadlineCompensatesBeforeThePivot(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		e.take()
		e.pass(time.Minute)
		e.run(c)
		if got := types(e.take()); got != "Release Void" {
			t.Fatalf("at the deadline %q", got)
		}
		if in := e.expect(c, "o1", saga.StatusCompensating); in.Cause.Kind != saga.CauseDeadline {
			t.Errorf("cause %v", in.Cause)
		}
	})
}

// From the attempt of the pivot the deadline and a cancellation only flag.
func TestThePivotInDoubtIsDecidedFirst(t *testing.T) {
	for _, outcome := range []string{"ok", "refused"} {
		t.Run(outcome, func(t *testing.T) {
			dialects(t, func(t *testing.T, e *env) {
				var cancelled string
				var c *saga.Coordinator
				var refunds *saga.Handle[state]
				d := checkout()
				d.OnCompleted = func(ctx context.Context, tx sqldb.Tx, s *state) error {
					if reason, ok := saga.CancelRequested(ctx); ok {
						cancelled = reason
						return refunds.Start(ctx, tx, "refund-"+s.Order, *s)
					}
					return nil
				}
				c = e.coordinator()
				h := register(t, c, d)
				refunds = register(t, c, saga.Definition[state]{Name: "refund", Steps: []saga.Step[state]{
					&saga.Command[state]{Name: "refund-payment", Kind: saga.Retriable, Do: cmd("Refund")},
				}})
				start(e, h, "o1", state{Order: "o1"})
				for _, m := range e.take() {
					e.answer(c, m, "ok", "")
				}
				capture := e.take()[0]
				e.pass(2 * time.Minute)
				e.tx(func(ctx context.Context, tx sqldb.Tx) error {
					r, err := h.Cancel(ctx, tx, "o1", "changed my mind")
					if r != saga.CancelFlagged {
						t.Errorf("Cancel: %v", r)
					}
					return err
				})
				e.run(c)
				if got := types(e.take()); got != "Capture" {
					t.Fatalf("after the deadline %q", got)
				}
				e.expect(c, "o1", saga.StatusRunning)
				e.answer(c, capture, outcome, "expired")
				e.run(c)
				if outcome == "refused" {
					if in := e.expect(c, "o1", saga.StatusCompensating); in.Cause.Kind != saga.CauseRefused {
						t.Errorf("cause %v", in.Cause)
					}
					if cancelled != "" {
						t.Error("OnCompleted ran")
					}
					return
				}
				e.expect(c, "o1", saga.StatusCompleted)
				if cancelled != "changed my mind" {
					t.Errorf("OnCompleted was told %q", cancelled)
				}
				e.expect(c, "refund-o1", saga.StatusRunning)
				if got := types(e.take()); got != "Refund" {
					t.Errorf("sent %q", got)
				}
			})
		})
	}
}

func TestCancel(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		cancel := func(want saga.CancelResult) {
			t.Helper()
			e.tx(func(ctx context.Context, tx sqldb.Tx) error {
				got, err := h.Cancel(ctx, tx, "o1", "too slow")
				if got != want {
					t.Errorf("Cancel: %v, want %v", got, want)
				}
				return err
			})
		}
		e.take()
		cancel(saga.CancelCompensating)
		undo := e.take()
		cancel(saga.CancelCompensating)
		for _, m := range undo {
			e.answer(c, m, "ok", "")
		}
		e.run(c)
		cancel(saga.CancelEndedCompensated)
		if got := e.order("o1"); got != "cancelled: too slow" {
			t.Errorf("the order is %q", got)
		}
		if err := e.try(func(ctx context.Context, tx sqldb.Tx) error {
			_, err := h.Cancel(ctx, tx, "nobody", "")
			return err
		}); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("an unknown id: %v", err)
		}
	})
}

func TestAReplyThatIsNotOursIsIgnored(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	c := e.coordinator()
	h := register(t, c, checkout())
	start(e, h, "o1", state{Order: "o1"})
	first := e.take()[0]
	for name, ext := range map[string]map[string]string{
		"no attributes": {},
		"a command":     first.Extensions,
		"unknown id":    {saga.ExtID: "zz", saga.ExtStep: "checkout/zz/reserve", saga.ExtOutcome: "ok", saga.ExtPhase: "do"},
		"foreign saga":  {saga.ExtID: "o1", saga.ExtStep: "other/o1/reserve", saga.ExtOutcome: "ok", saga.ExtPhase: "do"},
		"unknown step":  {saga.ExtID: "o1", saga.ExtStep: "checkout/o1/nothing", saga.ExtOutcome: "ok", saga.ExtPhase: "do"},
	} {
		e.tx(func(ctx context.Context, tx sqldb.Tx) error {
			if err := c.HandleReply(ctx, tx, events.Event{ID: "x", Extensions: ext}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			return nil
		})
	}
	if in := e.expect(c, "o1", saga.StatusRunning); in.Steps["reserve"].Status != saga.StepAttempted {
		t.Errorf("the step is %s", in.Steps["reserve"].Status)
	}
}

func TestCallsCarryTheStepKey(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		var keys []string
		note := func(ctx context.Context, _ *state) error {
			k, _ := idempotency.KeyFrom(ctx)
			keys = append(keys, k, saga.DoKey(ctx))
			if k != saga.StepKey(ctx) {
				t.Errorf("idempotency key %q, step key %q", k, saga.StepKey(ctx))
			}
			if sqldb.Running(ctx) {
				t.Error("a call was made inside a transaction")
			}
			return nil
		}
		h := register(t, c, saga.Definition[state]{Name: "calls", Steps: []saga.Step[state]{
			&saga.Call[state]{Name: "first", Do: note, Undo: note},
			&saga.Call[state]{Name: "second", Kind: saga.Pivot, Do: func(context.Context, *state) error { return saga.Refuse("no") }},
		}})
		start(e, h, "x", state{})
		e.run(c)
		e.expect(c, "x", saga.StatusCompensated)
		want := []string{"calls/x/first", "calls/x/first", "calls/x/first/undo", "calls/x/first"}
		if !slices.Equal(keys, want) {
			t.Errorf("keys %v, want %v", keys, want)
		}
	})
}
