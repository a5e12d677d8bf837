package saga

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// List returns instances, newest first.
func (c *Coordinator) List(ctx context.Context, f Filter) ([]*Instance, error) {
	return c.store.List(ctx, f)
}

// Counts returns the number of instances by status.
func (c *Coordinator) Counts(ctx context.Context) (map[Status]int, error) {
	return c.store.Counts(ctx)
}

// Get returns an instance. ErrNotFound.
func (c *Coordinator) Get(ctx context.Context, id string) (*Instance, error) {
	return c.store.Get(ctx, id)
}

// History returns everything that happened to an instance, in order. It is
// empty where the id is unknown.
func (c *Coordinator) History(ctx context.Context, id string) ([]Entry, error) {
	return c.store.History(ctx, id)
}

// Retry lets a stuck instance go on where it stopped, with its attempts counted
// anew. operator and reason are kept in the history. ErrNotFound, ErrNotStuck,
// ErrNotServed.
func (c *Coordinator) Retry(ctx context.Context, id, operator, reason string) error {
	return c.operate(ctx, id, operator, reason, EntryRetried, func(_ context.Context, t *turn) error {
		t.retry()
		return nil
	})
}

// Skip takes the step that a stuck instance stopped at as done (or as undone,
// where it was compensating): the operator has seen to it by other means. Where
// the closing callback failed, the instance ends without it. ErrNotFound,
// ErrNotStuck, ErrNotServed.
func (c *Coordinator) Skip(ctx context.Context, id, operator, reason string) error {
	return c.operate(ctx, id, operator, reason, EntrySkipped, func(_ context.Context, t *turn) error {
		step := t.in.StuckStep
		t.retry()
		if step == "" {
			if t.in.Close == nil {
				return errors.New("saga: the instance is not stuck at a step; mend its state, then retry")
			}
			t.skipClose()
			return nil
		}
		r := t.in.record(step)
		r.Running, r.NextAt, r.Reply, r.Patch = false, time.Time{}, nil, nil
		r.Status = StepDone
		if t.in.Status == StatusCompensating {
			r.Status = StepUndone
		}
		return nil
	})
}

// Compensate undoes a stuck instance. Where the pivot is in doubt, it states
// that the pivot has not happened: make sure of that first. ErrPastPivot where
// the pivot has happened; ErrNotFound, ErrNotStuck, ErrNotServed.
func (c *Coordinator) Compensate(ctx context.Context, id, operator, reason string) error {
	return c.operate(ctx, id, operator, reason, EntryCompensating, func(ctx context.Context, t *turn) error {
		if t.p.forwardOnly {
			return ErrPastPivot
		}
		if t.p.pivot != nil {
			r := t.in.record(t.p.pivot.name)
			if r.Status == StepDone {
				return ErrPastPivot
			}
			if r.Status == StepAttempted {
				r.Status, r.Running, r.NextAt = StepRefused, false, time.Time{}
			}
		}
		compensating := t.in.StuckIn == StatusCompensating
		t.retry()
		if !compensating {
			t.compensate(ctx, Cause{Kind: CauseOperator, Reason: reason})
		}
		return nil
	})
}

func (c *Coordinator) operate(ctx context.Context, id, operator, reason string, kind EntryKind, act func(context.Context, *turn) error) error {
	if operator == "" {
		return errors.New("saga: an operator's act needs the operator's name")
	}
	err := c.store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
		in, err := c.store.Lock(ctx, tx, id)
		if err != nil {
			return err
		}
		if in.Status != StatusStuck {
			return fmt.Errorf("%w: %s is %s", ErrNotStuck, id, in.Status)
		}
		t, err := c.newTurn(in, tx)
		if err != nil {
			return err
		}
		t.point = Point{Saga: in.Name, ID: id, Phase: "operator"}
		t.entryBy(kind, in.StuckStep, 0, reason, operator)
		if err := act(ctx, t); err != nil {
			return err
		}
		// The operator's act commits by itself; a turn of the coordinator's own
		// goes on from here, so that what fails next is recorded as its own.
		if !t.in.Status.Ended() {
			t.in.DueAt = t.now
		}
		return t.save(ctx)
	})
	if err == nil {
		c.cfg.Logger.InfoContext(ctx, "saga: an operator acted", "id", id, "act", string(kind), "operator", operator, "reason", reason)
	}
	return err
}

// retry clears what made the instance stuck.
func (t *turn) retry() {
	t.unstick()
	for name, r := range t.in.Steps {
		if !r.Running {
			r.Attempts = 0
			// What waits for another attempt is attempted at once; timers go on.
			if l := t.p.byName[name]; l != nil && !l.kindless {
				r.NextAt = time.Time{}
			}
		}
	}
	if t.in.Close != nil {
		t.in.Close.Attempts, t.in.Close.NextAt = 0, time.Time{}
	}
}

// skipClose ends the instance without its closing callback.
func (t *turn) skipClose() {
	status, kind := StatusCompleted, EntryCompleted
	if t.in.Status == StatusCompensating {
		status, kind = StatusCompensated, EntryCompensated
	}
	t.in.Status, t.in.EndedAt, t.in.DueAt, t.in.Close = status, t.now, time.Time{}, nil
	t.entry(kind, "", 0, "without its closing callback")
}
