package saga_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

func TestAStateThatDoesNotDecodeIsStuckNotLost(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, checkout())
		start(e, h, "o1", state{Order: "o1"})
		first := e.take()
		damage := func(doc string) {
			if _, err := e.db.Write.ExecContext(t.Context(), `UPDATE napkin_sagas SET state = $1 WHERE id = 'o1'`, []byte(doc)); err != nil {
				t.Fatal(err)
			}
		}
		damage(`{"order": 7`)
		for _, m := range first {
			e.answer(c, m, "ok", "")
		}
		e.run(c)
		e.expect(c, "o1", saga.StatusStuck)
		damage(`{"order": "o1"}`)
		if err := c.Retry(t.Context(), "o1", "ann", "the state was mended"); err != nil {
			t.Fatal(err)
		}
		e.run(c)
		e.expect(c, "o1", saga.StatusRunning)
		if got := types(e.take()); got != "Capture" {
			t.Errorf("the kept replies led to %q", got)
		}
	})
}

func TestAnOversizedStateIsStuck(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	c := e.coordinator(func(cfg *saga.Config) { cfg.MaxState = 200 })
	h := register(t, c, saga.Definition[state]{Name: "big", Steps: []saga.Step[state]{
		&saga.Local[state]{Name: "grow", Undo: setStatus("x"), Do: func(_ context.Context, _ sqldb.Tx, s *state) error {
			s.A = strings.Repeat("x", 300)
			return nil
		}},
	}})
	if err := e.try(func(ctx context.Context, tx sqldb.Tx) error {
		return h.Start(ctx, tx, "y", state{A: strings.Repeat("x", 300)})
	}); err == nil {
		t.Error("an oversized state was started")
	}
	start(e, h, "x", state{})
	e.run(c)
	if in := e.expect(c, "x", saga.StatusStuck); !strings.Contains(in.StuckReason, "limit") || in.Steps["grow"].Status != saga.StepPending {
		t.Errorf("stuck for %q, the step is %s", in.StuckReason, in.Steps["grow"].Status)
	}
}

func TestAFailingClosingCallbackDelaysTheEndAlone(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		broken := true
		calls := 0
		c := e.coordinator()
		h := register(t, c, saga.Definition[state]{
			Name: "close", Steps: []saga.Step[state]{
				&saga.Call[state]{Name: "call", Kind: saga.Pivot, Do: func(context.Context, *state) error { calls++; return nil }},
				&saga.Local[state]{Name: "local", Kind: saga.Retriable, Do: setStatus("written")},
			},
			OnCompleted: func(ctx context.Context, tx sqldb.Tx, s *state) error {
				if broken {
					panic("not yet")
				}
				return setStatus("closed")(ctx, tx, s)
			},
		})
		start(e, h, "x", state{Order: "x"})
		e.run(c)
		in := e.expect(c, "x", saga.StatusRunning)
		if calls != 1 || in.Steps["local"].Status != saga.StepDone || e.order("x") != "written" {
			t.Errorf("%d calls, local is %s, the order is %q", calls, in.Steps["local"].Status, e.order("x"))
		}
		for range 4 {
			e.pass(time.Minute)
			e.run(c)
		}
		e.expect(c, "x", saga.StatusStuck)
		broken = false
		if err := c.Retry(t.Context(), "x", "ann", "mended"); err != nil {
			t.Fatal(err)
		}
		e.run(c)
		e.expect(c, "x", saga.StatusCompleted)
		if e.order("x") != "closed" || calls != 1 {
			t.Errorf("the order is %q after %d calls", e.order("x"), calls)
		}
	})
}

// Instances run under the version that started them, at a node that serves it.
func TestVersions(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		v1 := checkout()
		v2 := checkout()
		v2.Version = 2
		v2.Steps = []saga.Step[state]{&saga.Command[state]{Name: "only", Kind: saga.Pivot, Do: cmd("Only")}}
		old := e.coordinator()
		h1 := register(t, old, v1)
		start(e, h1, "o1", state{Order: "o1"})
		first := e.take()
		// A node with the new version alone keeps the replies for one that can.
		fresh := e.coordinator()
		h2 := register(t, fresh, v2)
		start(e, h2, "o2", state{Order: "o2"})
		if got := types(e.take()); got != "Only" {
			t.Errorf("version 2 sent %q", got)
		}
		for _, m := range first {
			e.answer(fresh, m, "ok", "")
		}
		e.run(fresh)
		if sent := e.take(); len(sent) != 0 {
			t.Errorf("version 2 went on with version 1's instance: %s", types(sent))
		}
		both := e.coordinator()
		register(t, both, v1)
		register(t, both, v2)
		e.run(both)
		if got := types(e.take()); got != "Capture" {
			t.Errorf("version 1 went on with %q", got)
		}
		if _, err := saga.Register(both, v2); !errors.Is(err, saga.ErrDefinition) {
			t.Errorf("a version registered twice: %v", err)
		}
	})
}

func TestAReplyThatCannotBeTakenIsStuck(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	broken := true
	c := e.coordinator()
	h := register(t, c, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
		&saga.Command[state]{Name: "ask", Kind: saga.Pivot, Do: cmd("Ask"), OnReply: func(s *state, ev events.Event) error {
			if broken {
				return errors.New("unexpected reply")
			}
			return seen(s, ev)
		}},
	}})
	start(e, h, "x", state{})
	e.answer(c, e.take()[0], "ok", "")
	e.expect(c, "x", saga.StatusStuck)
	broken = false
	if err := c.Retry(t.Context(), "x", "ann", "mended"); err != nil {
		t.Fatal(err)
	}
	e.run(c)
	e.expect(c, "x", saga.StatusCompleted)
	if _, s, _ := h.Get(t.Context(), "x"); len(s.Seen) != 1 {
		t.Errorf("the reply was taken as %v", s.Seen)
	}
}
