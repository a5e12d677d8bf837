package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// compensate turns the instance round.
func (t *turn) compensate(ctx context.Context, cause Cause) {
	t.in.Status = StatusCompensating
	t.in.Cause = cause
	t.entry(EntryCompensating, cause.Step, 0, string(cause.Kind)+": "+cause.Reason)
	for _, st := range t.p.stages {
		for _, l := range st.leaves {
			r := t.in.record(l.name)
			if !r.Running {
				r.Attempts = 0
				r.NextAt = time.Time{}
			}
		}
	}
	t.tell(ctx, t.c.cfg.Hooks.Compensating, t.info(nil, PhaseUndo))
}

// owed reports whether the step still has something to undo.
func owed(l *leaf, r *StepRecord) bool {
	if !l.undoable() {
		return false
	}
	return r.Status == StepAttempted || r.Status == StepDone || r.Status == StepUndoing
}

// backward makes one move in the compensating direction: the last stage that
// owes something, its branches together.
func (t *turn) backward(ctx context.Context) (bool, error) {
	for i := len(t.p.stages) - 1; i >= 0; i-- {
		st := t.p.stages[i]
		// What branches that ended returned is needed by the undos.
		if t.unfolded(st) {
			if !t.fold(ctx, st) {
				return true, nil // stuck
			}
		}
		open := false
		for _, l := range st.leaves {
			if owed(l, t.in.record(l.name)) {
				open = true
			}
		}
		if !open {
			continue
		}
		// The undos of a group begin together, once every Do in flight has ended
		// (by its timeout, or with its node) and its result is known.
		for _, l := range st.leaves {
			if r := t.in.record(l.name); r.Running && r.Status == StepAttempted {
				return false, nil
			}
		}
		for _, l := range st.leaves {
			if err := t.undo(ctx, l); err != nil {
				return false, err
			}
			if t.in.Status != StatusCompensating {
				return true, nil
			}
		}
		for _, l := range st.leaves {
			if owed(l, t.in.record(l.name)) {
				return false, nil
			}
		}
		return true, nil
	}
	return t.end(ctx, StatusCompensated)
}

// undo attempts the undo of a step if it is owed and its time.
func (t *turn) undo(ctx context.Context, l *leaf) error {
	r := t.in.record(l.name)
	if !owed(l, r) || r.Running || r.NextAt.After(t.now) {
		return nil
	}
	switch l.op {
	case opCommand:
		if r.Status == StepUndoing && t.exhausted(l, r) {
			t.giveUp(ctx, l, errors.New("no reply to the undo"))
			return nil
		}
		return t.sendUndo(ctx, l, r)
	case opLocal:
		if !t.drives || t.localDone {
			return nil
		}
		t.localDone = true
		return t.runLocal(ctx, l, PhaseUndo)
	case opCall:
		t.claim(ctx, l, PhaseUndo)
	}
	return nil
}

// unfolded reports whether the join of st has results to take, and all branches
// of the present direction that could still bring some have ended.
func (t *turn) unfolded(st stage) bool {
	found := false
	for _, l := range st.leaves {
		r := t.in.record(l.name)
		if r.Running {
			return false
		}
		found = found || r.Reply != nil || r.Patch != nil
	}
	return found
}

// fold takes the results of a stage into the state, in definition order. It
// reports false where the instance is stuck over one of them.
func (t *turn) fold(ctx context.Context, st stage) bool {
	for _, l := range st.leaves {
		r := t.in.record(l.name)
		if r.Patch != nil {
			doc, err := json.Marshal(t.s)
			if err == nil {
				doc, err = merge(doc, r.Patch)
			}
			var s any
			if err == nil {
				s, err = t.p.decode(doc)
			}
			if err == nil {
				_, err = t.p.encode(s, t.c.cfg.MaxState)
			}
			if err != nil {
				t.stuck(ctx, l, err.Error())
				return false
			}
			t.s, t.touched, r.Patch = s, true, nil
		}
		if r.Reply != nil {
			s, err := t.copyState()
			if err == nil && l.onReply != nil {
				err = guard(func() error { return l.onReply(s, *r.Reply) })
			}
			if err == nil {
				_, err = t.p.encode(s, t.c.cfg.MaxState)
			}
			if err != nil {
				t.stuck(ctx, l, "the reply "+r.Reply.ID+" cannot be taken: "+err.Error())
				return false
			}
			t.s, t.touched, r.Reply = s, true, nil
		}
	}
	return true
}

// end runs the closing callback and closes the instance.
func (t *turn) end(ctx context.Context, status Status) (bool, error) {
	if t.tx == nil || t.deferEnd {
		return false, nil // a turn of the coordinator's own does it
	}
	if c := t.in.Close; c != nil && c.NextAt.After(t.now) {
		return false, nil
	}
	ctx = t.c.restore(ctx, t.in)
	s, err := t.copyState()
	if err != nil {
		return false, &stepFailure{err: err}
	}
	var closing func(context.Context) error
	switch {
	case status == StatusCompleted && t.p.onCompleted != nil:
		closing = func(ctx context.Context) error {
			if t.in.Cancel != nil {
				ctx = context.WithValue(ctx, cancelledKey{}, t.in.Cancel.Reason)
			}
			return t.p.onCompleted(ctx, t.tx, s)
		}
	case status == StatusCompensated && t.p.onCompensated != nil:
		closing = func(ctx context.Context) error { return t.p.onCompensated(ctx, t.tx, s, t.in.Cause) }
	}
	if closing != nil {
		if failed, err := t.close(ctx, closing); err != nil {
			return false, err
		} else if failed {
			t.deferEnd = true
			return false, nil
		}
	}
	if _, err := t.p.encode(s, t.c.cfg.MaxState); err != nil {
		return false, &stepFailure{err: &permanent{err}}
	}
	t.s, t.touched = s, true
	t.in.Status = status
	t.in.EndedAt = t.now
	t.in.Close = nil
	if status == StatusCompleted {
		t.entry(EntryCompleted, "", 0, "")
		t.tell(ctx, t.c.cfg.Hooks.Completed, t.info(nil, PhaseDo))
	} else {
		t.entry(EntryCompensated, "", 0, "")
		t.tell(ctx, t.c.cfg.Hooks.Compensated, t.info(nil, PhaseUndo))
	}
	return true, nil
}

// close calls the closing callback. In a turn of the coordinator's own a failure
// is a stepFailure. In others it takes back what the callback did and reports
// failed: the message that the transaction is for (a reply, a signal, a
// cancellation) has happened all the same, and a turn of the coordinator's own
// tries again and keeps count.
func (t *turn) close(ctx context.Context, closing func(context.Context) error) (failed bool, err error) {
	if t.drives {
		if err := guard(func() error { return closing(ctx) }); err != nil {
			return false, &stepFailure{err: err}
		}
		return false, nil
	}
	if _, err := t.tx.ExecContext(ctx, `SAVEPOINT napkin_saga_close`); err != nil {
		return false, fmt.Errorf("saga: before the closing callback: %w", err)
	}
	inner, keep, drop := ctx, func() {}, func() {}
	if sqldb.Running(ctx) { // what it leaves for after the commit goes with it
		nested, scope, err := sqldb.NewScope(ctx, t)
		if err != nil {
			return false, err
		}
		inner, drop = nested, scope.Discard
		keep = func() { sqldb.AfterCommit(ctx, scope.Committed) }
	}
	err = guard(func() error { return closing(inner) })
	if err == nil {
		keep()
		return false, nil
	}
	drop()
	if infrastructure(ctx, err) || sqldb.IsRetryable(err) {
		return false, &stepFailure{err: err} // the whole transaction is to be run again
	}
	if _, err := t.tx.ExecContext(ctx, `ROLLBACK TO SAVEPOINT napkin_saga_close`); err != nil {
		return false, fmt.Errorf("saga: take the closing callback back: %w", err)
	}
	t.c.cfg.Logger.WarnContext(ctx, "saga: the closing callback failed; it is tried again", "saga", t.in.Name, "id", t.in.ID, "error", err)
	return true, nil
}

// schedule sets when a coordinator has to look at the instance again.
func (t *turn) schedule() {
	t.in.DueAt = time.Time{}
	if t.in.Status.Ended() {
		return
	}
	if t.in.Status == StatusStuck {
		if t.in.StuckIn == StatusRunning && !t.pastPoint() {
			t.in.DueAt = t.in.DeadlineAt
		}
		return
	}
	due := func(at time.Time) {
		if t.in.DueAt.IsZero() || at.Before(t.in.DueAt) {
			t.in.DueAt = at
		}
	}
	var st *stage
	if t.in.Status == StatusRunning {
		if i := t.stageIndex(); i < len(t.p.stages) {
			st = &t.p.stages[i]
		}
		if !t.in.DeadlineAt.IsZero() && !t.in.DeadlinePassed { // flags, or compensates
			due(t.in.DeadlineAt)
		}
	} else {
		for i := len(t.p.stages) - 1; i >= 0 && st == nil; i-- {
			for _, l := range t.p.stages[i].leaves {
				if owed(l, t.in.record(l.name)) {
					st = &t.p.stages[i]
				}
			}
		}
	}
	if st == nil { // only the closing callback is left
		if c := t.in.Close; c != nil && c.NextAt.After(t.now) {
			due(c.NextAt)
		} else {
			due(t.now)
		}
		return
	}
	for _, l := range st.leaves {
		r := t.in.record(l.name)
		switch {
		case r.Running:
		case t.in.Status == StatusRunning && (r.Status == StepDone || r.Status == StepRefused):
		case t.in.Status == StatusCompensating && !owed(l, r):
		case !r.NextAt.IsZero():
			due(r.NextAt)
		case l.op == opSignal && r.Status == StepAttempted: // waits for the signal alone
		default:
			due(t.now) // ready: a turn of the coordinator's own takes it
		}
	}
}
