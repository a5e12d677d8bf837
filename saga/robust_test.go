package saga_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

func nothing(context.Context, *state) error { return nil }

func has(t *testing.T, kinds []string, want string) {
	t.Helper()
	if !slices.Contains(kinds, want) {
		t.Errorf("the history lacks %q: %v", want, kinds)
	}
}

func TestStuckIsOperated(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		broken := true
		stuck := 0
		c := e.coordinator(func(cfg *saga.Config) {
			cfg.Hooks.Stuck = func(_ context.Context, i saga.Info) {
				if i.Step != "undo-me" && i.Step != "finish" {
					t.Errorf("stuck at %q", i.Step)
				}
				stuck++
			}
		})
		h := register(t, c, saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
			&saga.Call[state]{Name: "undo-me", Do: nothing, Undo: func(context.Context, *state) error {
				if broken {
					return errors.New("still broken")
				}
				return nil
			}},
			&saga.Call[state]{Name: "decide", Kind: saga.Pivot, Do: func(_ context.Context, s *state) error {
				if s.A == "refuse" {
					return saga.Refuse("no")
				}
				return nil
			}},
			&saga.Call[state]{Name: "finish", Kind: saga.Retriable, Do: func(context.Context, *state) error {
				if broken {
					return errors.New("broken, too")
				}
				return nil
			}},
		}})
		settle := func() {
			for range 8 {
				e.run(c)
				e.pass(time.Minute)
			}
		}
		for _, id := range []string{"retried", "skipped"} {
			start(e, h, id, state{})
		}
		for _, id := range []string{"undo-retried", "undo-skipped"} {
			start(e, h, id, state{A: "refuse"})
		}
		settle()
		for _, id := range []string{"retried", "skipped", "undo-retried", "undo-skipped"} {
			in := e.expect(c, id, saga.StatusStuck)
			if in.StuckReason == "" || !in.DueAt.IsZero() {
				t.Errorf("%s: reason %q, due %v", id, in.StuckReason, in.DueAt)
			}
		}
		if stuck != 4 {
			t.Errorf("the hook was told of %d", stuck)
		}
		ctx := t.Context()
		if err := c.Compensate(ctx, "retried", "ann", "x"); !errors.Is(err, saga.ErrPastPivot) {
			t.Errorf("Compensate past the pivot: %v", err)
		}
		if err := c.Retry(ctx, "retried", "", "x"); err == nil {
			t.Error("an act without an operator was taken")
		}
		if err := c.Retry(ctx, "nobody", "ann", "x"); !errors.Is(err, saga.ErrNotFound) {
			t.Errorf("Retry of nothing: %v", err)
		}
		for id, act := range map[string]func(context.Context, string, string, string) error{
			"skipped": c.Skip, "undo-skipped": c.Skip,
		} {
			if err := act(ctx, id, "ann", "done by hand"); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		broken = false
		for _, id := range []string{"retried", "undo-retried"} {
			if err := c.Retry(ctx, id, "ann", "it was mended"); err != nil {
				t.Errorf("%s: %v", id, err)
			}
		}
		settle()
		e.expect(c, "retried", saga.StatusCompleted)
		e.expect(c, "skipped", saga.StatusCompleted)
		e.expect(c, "undo-retried", saga.StatusCompensated)
		e.expect(c, "undo-skipped", saga.StatusCompensated)
		log, err := c.History(ctx, "retried")
		if err != nil {
			t.Fatal(err)
		}
		audited := slices.ContainsFunc(log, func(l saga.Entry) bool {
			return l.Kind == saga.EntryRetried && l.Actor == "ann" && l.Detail == "it was mended"
		})
		if !audited {
			t.Errorf("the act is not in the history: %v", log)
		}
		if err := c.Retry(ctx, "retried", "ann", "again"); !errors.Is(err, saga.ErrNotStuck) {
			t.Errorf("Retry of what has ended: %v", err)
		}
	})
}

func TestAnOperatorCompensatesWhatIsStuckInDoubt(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	c := e.coordinator()
	h := register(t, c, checkout())
	start(e, h, "o1", state{Order: "o1"})
	for _, m := range e.take() {
		e.answer(c, m, "ok", "")
	}
	for range 8 {
		e.run(c)
		e.pass(time.Minute)
	}
	e.expect(c, "o1", saga.StatusStuck)
	e.take()
	if err := c.Compensate(t.Context(), "o1", "ann", "the provider has no such payment"); err != nil {
		t.Fatal(err)
	}
	e.run(c)
	if got := types(e.take()); got != "Release Void" {
		t.Errorf("sent %q", got)
	}
	if in := e.expect(c, "o1", saga.StatusCompensating); in.Cause.Kind != saga.CauseOperator {
		t.Errorf("cause %v", in.Cause)
	}
}

func TestALateReplyFreesWhatIsStuck(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	c := e.coordinator()
	h := register(t, c, checkout())
	start(e, h, "o1", state{Order: "o1"})
	for _, m := range e.take() {
		e.answer(c, m, "ok", "")
	}
	capture := e.take()[0]
	for range 8 {
		e.run(c)
		e.pass(time.Minute)
	}
	e.expect(c, "o1", saga.StatusStuck)
	e.answer(c, capture, "ok", "")
	e.run(c)
	e.expect(c, "o1", saga.StatusCompleted)
}

// A node that was paused past its lease finds its outcome refused.
func TestAZombieIsFenced(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		var fenced, effects atomic.Int32
		calling, goOn := make(chan struct{}), make(chan struct{})
		definition := func(do func(context.Context, *state) error) saga.Definition[state] {
			return saga.Definition[state]{Name: "work", Steps: []saga.Step[state]{
				&saga.Call[state]{Name: "call", Kind: saga.Pivot, Do: do},
			}, OnCompleted: func(context.Context, sqldb.Tx, *state) error { effects.Add(1); return nil }}
		}
		zombie := e.coordinator(func(cfg *saga.Config) {
			cfg.Hooks.Fenced = func(_ context.Context, i saga.Info) {
				if i.Step != "call" || i.Err == nil {
					t.Errorf("fenced %v", i)
				}
				fenced.Add(1)
			}
		})
		h := register(t, zombie, definition(func(_ context.Context, s *state) error {
			close(calling)
			<-goOn
			s.A = "zombie"
			return nil
		}))
		start(e, h, "x", state{})
		ended := make(chan error, 1)
		go func() {
			_, err := zombie.RunDue(context.WithoutCancel(t.Context()))
			ended <- err
		}()
		<-calling
		heir := e.coordinator()
		hh := register(t, heir, definition(func(_ context.Context, s *state) error { s.A = "heir"; return nil }))
		e.run(heir)
		if in := e.expect(heir, "x", saga.StatusRunning); !strings.HasPrefix(in.Owner, "test") {
			t.Fatalf("owned by %q", in.Owner)
		}
		for range 3 { // the heir beats, the zombie does not
			e.pass(2 * time.Second)
			e.run(heir)
		}
		in := e.expect(heir, "x", saga.StatusCompleted)
		close(goOn)
		if err := <-ended; err != nil {
			t.Errorf("the zombie's pass: %v", err)
		}
		if fenced.Load() != 1 || effects.Load() != 1 {
			t.Errorf("%d outcomes were fenced, OnCompleted ran %d times", fenced.Load(), effects.Load())
		}
		after, s, err := hh.Get(t.Context(), "x")
		if err != nil || s.A != "heir" || after.Revision != in.Revision || in.Epoch < 2 {
			t.Errorf("state %q, revision %d after %d, epoch %d, %v", s.A, after.Revision, in.Revision, in.Epoch, err)
		}
		has(t, e.kinds(heir, "x"), "taken over call")
	})
}

func TestALocalRejectionIsNoAttempt(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	rejected, undone := 0, 0
	c := e.coordinator()
	h := register(t, c, saga.Definition[state]{Name: "work", Deadline: time.Minute, Steps: []saga.Step[state]{
		&saga.Call[state]{Name: "call",
			Do:   func(context.Context, *state) error { rejected++; return saga.Pause(errors.New("breaker open")) },
			Undo: func(context.Context, *state) error { undone++; return nil }},
	}})
	start(e, h, "x", state{})
	for range 10 {
		e.run(c)
		e.pass(2 * time.Second)
	}
	in := e.expect(c, "x", saga.StatusRunning)
	if r := in.Steps["call"]; r.Status != saga.StepPending || r.Attempts != 0 || rejected < 10 {
		t.Errorf("the step is %s after %d attempts, rejected %d times", r.Status, r.Attempts, rejected)
	}
	e.pass(time.Minute)
	e.run(c)
	e.expect(c, "x", saga.StatusCompensated)
	if undone != 0 {
		t.Errorf("undone %d times, although no attempt left the process", undone)
	}
}

func TestAmbiguousCallsAreAskedAbout(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	calls, queries := 0, 0
	answer := saga.OutcomeUnknown
	c := e.coordinator()
	h := register(t, c, saga.Definition[state]{Name: "pay", Steps: []saga.Step[state]{
		&saga.Call[state]{Name: "capture", Kind: saga.Pivot,
			Do:    func(context.Context, *state) error { calls++; return errors.New("connection reset") },
			Query: func(context.Context, *state) (saga.Outcome, error) { queries++; return answer, nil }},
	}})
	start(e, h, "x", state{})
	e.run(c)
	e.pass(time.Minute)
	e.run(c)
	if calls != 1 || queries != 1 {
		t.Fatalf("%d calls, %d queries", calls, queries)
	}
	answer = saga.OutcomeDone
	e.pass(time.Minute)
	e.run(c)
	e.expect(c, "x", saga.StatusCompleted)
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}

func TestSignalsAndTimers(t *testing.T) {
	dialects(t, func(t *testing.T, e *env) {
		c := e.coordinator()
		h := register(t, c, saga.Definition[state]{Name: "wait", Steps: []saga.Step[state]{
			&saga.Timer[state]{Name: "pause", After: time.Hour},
			&saga.Signal[state]{Name: "approved", Timeout: time.Hour, On: func(s *state, b []byte) error { s.A = string(b); return nil }},
		}})
		signal := func(id string) {
			e.tx(func(ctx context.Context, tx sqldb.Tx) error { return h.Signal(ctx, tx, id, "approved", "by "+id) })
		}
		signal("early") // before it was started
		for _, id := range []string{"early", "timely", "never"} {
			start(e, h, id, state{})
		}
		e.run(c)
		e.expect(c, "early", saga.StatusRunning)
		e.pass(time.Hour)
		e.run(c)
		e.expect(c, "early", saga.StatusCompleted)
		e.expect(c, "timely", saga.StatusRunning)
		signal("timely")
		e.run(c)
		e.expect(c, "timely", saga.StatusCompleted)
		if _, s, err := h.Get(t.Context(), "timely"); err != nil || s.A != `"by timely"` {
			t.Errorf("the signal brought %q, %v", s.A, err)
		}
		e.pass(time.Hour)
		e.run(c)
		if in := e.expect(c, "never", saga.StatusCompensated); in.Cause.Step != "approved" {
			t.Errorf("cause %v", in.Cause)
		}
		if err := e.try(func(ctx context.Context, tx sqldb.Tx) error { return h.Signal(ctx, tx, "x", "unheard", nil) }); err == nil {
			t.Error("a signal that no step waits for was taken")
		}
	})
}

// Branches that are calls and local steps return changes; they are folded in
// definition order, whichever ended first.
func TestAGroupFoldsItsResultsInDefinitionOrder(t *testing.T) {
	e := newEnv(t, openSQLite(t))
	second := make(chan struct{})
	c := e.coordinator()
	h := register(t, c, saga.Definition[state]{Name: "fold", Steps: []saga.Step[state]{
		saga.Parallel[state]("both",
			&saga.Call[state]{Name: "one", Undo: nothing, Do: func(_ context.Context, s *state) error {
				<-second
				s.A, s.Seen = "one", append(s.Seen, "one")
				return nil
			}},
			&saga.Call[state]{Name: "two", Undo: nothing, Do: func(_ context.Context, s *state) error {
				defer close(second)
				s.B, s.Seen = s.A+"two", append(s.Seen, "two")
				return nil
			}},
			&saga.Local[state]{Name: "three", Undo: setStatus("x"), Do: func(_ context.Context, _ sqldb.Tx, s *state) error {
				s.Order = "three"
				return nil
			}},
		),
	}})
	start(e, h, "x", state{Seen: []string{"start"}})
	e.run(c)
	e.expect(c, "x", saga.StatusCompleted)
	_, s, err := h.Get(t.Context(), "x")
	if err != nil || s.A != "one" || s.B != "two" || s.Order != "three" || !slices.Equal(s.Seen, []string{"start", "two"}) {
		t.Errorf("folded to %+v, %v", s, err)
	}
}
