package saga_test

import (
	"context"
	"slices"
	"testing"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// TestACommitIsNamedByWhatItRecords: a crash point is a start, a cancellation or a step's outcome, whatever
// commands the transaction sends along.
func TestACommitIsNamedByWhatItRecords(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		var before, after []string
		into := func(list *[]string) func(context.Context, saga.Point) {
			return func(_ context.Context, p saga.Point) { *list = append(*list, p.Step+" "+p.Phase) }
		}
		c := e.coordinator(func(cfg *saga.Config) {
			cfg.Hooks = saga.Hooks{BeforeCommit: into(&before), AfterCommit: into(&after)}
		})
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		for _, m := range e.take() {
			e.answer(c, m, "ok", "")
		}
		e.answer(c, e.take()[0], "ok", "")
		e.run(c)
		e.expect(c, "o1", saga.StatusCompleted)

		start(e, h, "o2", state{Order: "o2"})
		e.take() // what was asked for is not answered
		e.tx(func(ctx context.Context, tx sqldb.Tx) error {
			_, err := h.Cancel(ctx, tx, "o2", "changed my mind")
			return err
		})
		for _, undo := range e.take() {
			e.answer(c, undo, "ok", "")
		}
		e.run(c)
		e.expect(c, "o2", saga.StatusCompensated)

		want := []string{
			" start", "reserve do", "authorize do", "capture do", "confirm do",
			" start", " cancel", "reserve undo", "authorize undo",
		}
		if !slices.Equal(before, want) || !slices.Equal(after, want) {
			t.Errorf("the points are\n%q and\n%q, want\n%q", before, after, want)
		}
	})
}
