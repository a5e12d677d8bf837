package saga_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

type traceKey struct{}

// Every hook of a saga is told in the saga's own trace and correlation, whoever
// moves it on: the coordinator's poll has neither.
func TestHooksAreToldInTheSagasOwnContext(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	var mu sync.Mutex
	told := map[string]int{}
	broken := true
	c := e.coordinator(func(cfg *saga.Config) {
		hook := func(name string) func(context.Context, saga.Info) {
			return func(ctx context.Context, i saga.Info) {
				mu.Lock()
				defer mu.Unlock()
				told[name]++
				trace, _ := ctx.Value(traceKey{}).(string)
				if id := correlation.From(ctx).CorrelationID; id != "of "+i.ID || trace != "trace of "+i.ID {
					t.Errorf("%s of %s (%s %s): correlation %q, trace %q", name, i.ID, i.Step, i.Outcome, id, trace)
				}
			}
		}
		h := &cfg.Hooks
		h.Started, h.StepAttempted, h.StepEnded = hook("started"), hook("attempted"), hook("ended")
		h.Compensating, h.Compensated, h.Completed, h.Stuck = hook("compensating"), hook("compensated"), hook("completed"), hook("stuck")
		h.Inject = func(ctx context.Context, m map[string]string) { m["trace"], _ = ctx.Value(traceKey{}).(string) }
		h.Extract = func(ctx context.Context, m map[string]string) context.Context {
			return context.WithValue(ctx, traceKey{}, m["trace"])
		}
	})
	h := register(t, c, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
		&saga.Call[state]{Name: "undo-me", Do: nothing, Undo: nothing},
		&saga.Local[state]{Name: "decide", Kind: saga.Pivot, Do: func(_ context.Context, _ sqldb.Tx, s *state) error {
			if s.A != "" {
				return saga.Refuse(s.A)
			}
			return nil
		}},
		&saga.Call[state]{Name: "finish", Kind: saga.Retriable, Attempts: 1, Do: func(context.Context, *state) error {
			if broken {
				return errors.New("broken")
			}
			return nil
		}},
	}})
	for id, a := range map[string]string{"done": "", "refused": "no"} {
		ctx := correlation.With(context.WithValue(t.Context(), traceKey{}, "trace of "+id), correlation.IDs{CorrelationID: "of " + id})
		err := sqldb.Std(e.db).InTx(ctx, func(ctx context.Context, tx stdTx) error {
			return h.Start(ctx, sqldb.StdTx(tx), id, state{A: a})
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	e.run(c)
	broken = false
	if err := c.Retry(t.Context(), "done", "ann", "mended"); err != nil {
		t.Fatal(err)
	}
	e.pass(time.Minute)
	e.run(c)
	e.expect(c, "done", saga.StatusCompleted)
	e.expect(c, "refused", saga.StatusCompensated)
	for _, name := range []string{"started", "attempted", "ended", "compensating", "compensated", "completed", "stuck"} {
		if told[name] == 0 {
			t.Errorf("%s was not told", name)
		}
	}
}

// While two versions are in flight, whoever signals does not know which one an
// instance runs.
func TestASignalReachesTheVersionThatRuns(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	c := e.coordinator()
	old := register(t, c, saga.Definition[state]{Name: "wait", Steps: []saga.Step[state]{
		&saga.Signal[state]{Name: "go", On: func(s *state, b []byte) error { s.A = "old " + string(b); return nil }},
	}})
	type state2 struct{ Approved string }
	fresh := register(t, c, saga.Definition[state2]{Name: "wait", Version: 2, Steps: []saga.Step[state2]{
		&saga.Signal[state2]{Name: "go", On: func(s *state2, b []byte) error { s.Approved = "new " + string(b); return nil }},
	}})
	start(e, old, "x", state{})
	start(e, fresh, "y", state2{})
	e.run(c)
	for _, id := range []string{"x", "y"} {
		e.tx(func(ctx context.Context, tx sqldb.Tx) error { return fresh.Signal(ctx, tx, id, "go", 1) })
	}
	e.run(c)
	e.expect(c, "x", saga.StatusCompleted)
	e.expect(c, "y", saga.StatusCompleted)
	if _, s, err := old.Get(t.Context(), "x"); err != nil || s.A != "old 1" {
		t.Errorf("the old one became %+v, %v", s, err)
	}
}
