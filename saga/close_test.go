package saga_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// A closing callback that fails in the transaction that takes a reply, a signal or
// a cancellation is the saga's trouble, not the message's: that is recorded, and
// the callback is tried again until it is stuck.
func TestAClosingCallbackThatFailsDoesNotRefuseTheMessage(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		broken, after := true, 0
		c := e.coordinator()
		closing := func(ctx context.Context, tx sqldb.Tx, s *state) error {
			sqldb.AfterCommit(ctx, func() { after++ })
			if err := setStatus("closed")(ctx, tx, s); err != nil {
				return err
			}
			if broken {
				_, err := tx.ExecContext(ctx, `INSERT INTO no_such_table VALUES (1)`) // PostgreSQL refuses what follows
				return errors.Join(errors.New("not yet"), err)
			}
			return nil
		}
		h := register(t, c, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
			&saga.Signal[state]{Name: "go"},
			&saga.Command[state]{Name: "ask", Kind: saga.Pivot, Do: cmd("Ask")},
		}, OnCompleted: closing, OnCompensated: func(ctx context.Context, tx sqldb.Tx, s *state, _ saga.Cause) error { return closing(ctx, tx, s) }})
		for _, id := range []string{"replied", "refused", "cancelled"} {
			start(e, h, id, state{Order: id})
		}
		e.run(c)
		for _, id := range []string{"replied", "refused"} {
			e.tx(func(ctx context.Context, tx sqldb.Tx) error { return h.Signal(ctx, tx, id, "go", nil) })
			outcome := map[string]string{"replied": "ok", "refused": "refused"}[id]
			e.answer(c, e.take()[0], outcome, "no")
		}
		e.tx(func(ctx context.Context, tx sqldb.Tx) error {
			r, err := h.Cancel(ctx, tx, "cancelled", "changed my mind")
			if r != saga.CancelCompensating {
				t.Errorf("Cancel: %v", r)
			}
			return err
		})
		for range 8 {
			e.run(c)
			e.pass(time.Minute)
		}
		for _, id := range []string{"replied", "refused", "cancelled"} {
			e.expect(c, id, saga.StatusStuck)
			if s := e.order(id); s != "" || after != 0 {
				t.Errorf("%s: the failed callback left %q, and ran %d functions after the commit", id, s, after)
			}
		}
		broken = false
		for id, want := range map[string]saga.Status{"replied": saga.StatusCompleted, "refused": saga.StatusCompensated, "cancelled": saga.StatusCompensated} {
			if err := c.Retry(t.Context(), id, "ann", "mended"); err != nil {
				t.Fatal(err)
			}
			e.run(c)
			e.expect(c, id, want)
			if s := e.order(id); s != "closed" {
				t.Errorf("%s: order is %q", id, s)
			}
		}
		if after != 3 {
			t.Errorf("%d functions ran after the commit", after)
		}
		// Where it does not fail, the message's transaction is the last one.
		start(e, h, "at-once", state{Order: "at-once"})
		e.run(c)
		e.tx(func(ctx context.Context, tx sqldb.Tx) error { return h.Signal(ctx, tx, "at-once", "go", nil) })
		e.answer(c, e.take()[0], "ok", "")
		e.expect(c, "at-once", saga.StatusCompleted)
		if after != 4 {
			t.Errorf("%d functions ran after the commit", after)
		}
	})
}
