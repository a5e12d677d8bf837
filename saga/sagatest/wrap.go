package sagatest

import (
	"context"
	"errors"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// shape is what the exploration needs to know of a step.
type shape struct {
	name     string
	op       string
	kind     saga.Kind
	stage    int
	outcomes []Outcome // beside OK
}

// describe lists the steps of a definition in order.
func describe[S any](d saga.Definition[S]) []shape {
	var out []shape
	for i, s := range d.Steps {
		steps := []saga.Step[S]{s}
		if g, ok := s.(*saga.Group[S]); ok {
			steps = g.Steps
		}
		for _, s := range steps {
			sh := shape{stage: i}
			switch s := s.(type) {
			case *saga.Command[S]:
				sh.name, sh.op, sh.kind = s.Name, "command", s.Kind
				sh.outcomes = []Outcome{Ambiguous, Late}
			case *saga.Call[S]:
				sh.name, sh.op, sh.kind = s.Name, "call", s.Kind
				sh.outcomes = []Outcome{Ambiguous}
				if s.Kind != saga.Retriable {
					sh.outcomes = append(sh.outcomes, Late)
				}
				if s.Kind == saga.Compensatable {
					sh.outcomes = append(sh.outcomes, Absent)
				}
			case *saga.Local[S]:
				sh.name, sh.op, sh.kind = s.Name, "local", s.Kind
				sh.outcomes = []Outcome{Ambiguous}
			case *saga.Timer[S]:
				sh.name, sh.op = s.Name, "timer"
				out = append(out, sh)
				continue
			case *saga.Signal[S]:
				sh.name, sh.op = s.Name, "signal"
				out = append(out, sh)
				continue
			}
			if sh.kind != saga.Retriable {
				sh.outcomes = append([]Outcome{Refused}, sh.outcomes...)
			}
			out = append(out, sh)
		}
	}
	return out
}

// errLost is an answer that did not arrive.
var errLost = errors.New("sagatest: the answer was lost")

// instrument puts the script's outcomes and the ledger around each step.
func instrument[S any](r *run[S], d saga.Definition[S]) saga.Definition[S] {
	steps := make([]saga.Step[S], len(d.Steps))
	for i, s := range d.Steps {
		if g, ok := s.(*saga.Group[S]); ok {
			inner := make([]saga.Step[S], len(g.Steps))
			for j, s := range g.Steps {
				inner[j] = instrumentStep(r, s)
			}
			steps[i] = &saga.Group[S]{Name: g.Name, Steps: inner}
			continue
		}
		steps[i] = instrumentStep(r, s)
	}
	d.Steps = steps
	return d
}

func instrumentStep[S any](r *run[S], step saga.Step[S]) saga.Step[S] {
	switch s := step.(type) {
	case *saga.Local[S]:
		c := *s
		c.Do = func(ctx context.Context, tx sqldb.Tx, st *S) error {
			switch r.script[s.Name] {
			case Refused:
				return saga.Refuse("sagatest refuses " + s.Name)
			case Ambiguous:
				if r.tries[s.Name]++; r.tries[s.Name] == 1 {
					return errors.New("sagatest: the first transaction fails")
				}
			}
			if err := s.Do(ctx, tx, st); err != nil {
				return err
			}
			return r.localEffect(ctx, tx, s.Name, saga.PhaseDo)
		}
		if s.Undo != nil {
			c.Undo = func(ctx context.Context, tx sqldb.Tx, st *S) error {
				if err := s.Undo(ctx, tx, st); err != nil {
					return err
				}
				return r.localEffect(ctx, tx, s.Name, saga.PhaseUndo)
			}
		}
		return &c
	case *saga.Call[S]:
		c := *s
		c.Do = func(ctx context.Context, st *S) error {
			r.tries[s.Name]++
			tries := r.tries[s.Name]
			switch o := r.script[s.Name]; {
			case o == Refused:
				return saga.Refuse("sagatest refuses " + s.Name)
			case o == Absent:
				return errLost
			case o == Late && s.Kind == saga.Pivot:
				if tries >= 3 {
					return saga.Refuse("sagatest refuses " + s.Name + " at last")
				}
				return errLost
			case o == Late, o == Ambiguous && tries == 1:
				if err := s.Do(ctx, st); err != nil {
					return err
				}
				r.effect(s.Name, saga.PhaseDo, saga.StepKey(ctx))
				return errLost
			}
			if err := s.Do(ctx, st); err != nil {
				return err
			}
			r.effect(s.Name, saga.PhaseDo, saga.StepKey(ctx))
			return nil
		}
		if s.Undo != nil {
			c.Undo = func(ctx context.Context, st *S) error {
				if err := s.Undo(ctx, st); err != nil {
					return err
				}
				r.effect(s.Name, saga.PhaseUndo, saga.StepKey(ctx))
				return nil
			}
		}
		if s.Query != nil {
			c.Query = func(ctx context.Context, st *S) (saga.Outcome, error) {
				if r.script[s.Name] == Late && s.Kind == saga.Pivot && r.tries[s.Name] < 3 {
					return saga.OutcomeAbsent, nil
				}
				return s.Query(ctx, st)
			}
		}
		return &c
	default: // commands go to the simulated participants
		return step
	}
}
