package saga

import (
	"context"
	"errors"
	"time"
)

// done records that a step has happened.
func (t *turn) done(ctx context.Context, l *leaf) {
	r := t.in.record(l.name)
	r.Status = StepDone
	r.Running = false
	r.NextAt = time.Time{}
	r.LastError = ""
	t.entry(EntryDone, l.name, r.Attempts, "")
	i := t.info(l, PhaseDo)
	i.Outcome = "done"
	t.tell(ctx, t.c.cfg.Hooks.StepEnded, i)
	r.Attempts = 0
}

func (t *turn) undone(ctx context.Context, l *leaf) {
	r := t.in.record(l.name)
	r.Status = StepUndone
	r.Running = false
	r.NextAt = time.Time{}
	r.LastError = ""
	t.entry(EntryUndone, l.name, r.Attempts, "")
	i := t.info(l, PhaseUndo)
	i.Outcome = "undone"
	t.tell(ctx, t.c.cfg.Hooks.StepEnded, i)
}

// refused records a definite no of a Do.
func (t *turn) refused(ctx context.Context, l *leaf, reason string) {
	r := t.in.record(l.name)
	r.Running = false
	r.NextAt = time.Time{}
	r.LastError = reason
	t.entry(EntryRefused, l.name, r.Attempts, reason)
	i := t.info(l, PhaseDo)
	i.Outcome = "refused"
	i.Err = Refuse(reason)
	t.tell(ctx, t.c.cfg.Hooks.StepEnded, i)
	if l.kind == Retriable && !l.kindless {
		t.stuck(ctx, l, "a retriable step was refused: "+reason)
		return
	}
	r.Status = StepRefused
	if t.in.Status == StatusRunning {
		t.compensate(ctx, Cause{Kind: CauseRefused, Step: l.name, Reason: reason})
	}
}

func (t *turn) exhausted(l *leaf, r *StepRecord) bool {
	limit := l.attempts
	if t.in.Status == StatusCompensating {
		limit = 0 // an Undo has the coordinator's bound
	} else if limit == 0 && l.op == opCommand && l.kind == Compensatable && !t.in.DeadlineAt.IsZero() {
		return false // the deadline is the bound
	}
	if limit == 0 {
		limit = t.c.cfg.Attempts
	}
	return r.Attempts >= limit
}

// giveUp ends a step whose attempts ran out.
func (t *turn) giveUp(ctx context.Context, l *leaf, err error) {
	if t.in.Status == StatusRunning && l.undoable() {
		t.compensate(ctx, Cause{Kind: CauseFailed, Step: l.name, Reason: err.Error()})
		return
	}
	t.stuck(ctx, l, err.Error())
}

// failed records an attempt that ended without an outcome.
func (t *turn) failed(ctx context.Context, l *leaf, phase Phase, err error) {
	r := t.in.record(l.name)
	r.Running = false
	r.LastError = err.Error()
	kind := EntryFailed
	if phase == PhaseUndo {
		kind = EntryUndoFailed
	}
	t.entry(kind, l.name, r.Attempts, err.Error())
	i := t.info(l, phase)
	i.Outcome = "failed"
	i.Err = err
	t.tell(ctx, t.c.cfg.Hooks.StepEnded, i)
	if phase == PhaseDo && t.in.Status == StatusCompensating {
		r.Attempts = 0
		return // its Undo is owed and comes next
	}
	if reason, ok := Refused(err); ok && phase == PhaseUndo {
		t.stuck(ctx, l, "an undo was refused: "+reason)
		return
	}
	if p := (*permanent)(nil); errors.As(err, &p) {
		t.stuck(ctx, l, err.Error())
		return
	}
	if t.exhausted(l, r) {
		t.giveUp(ctx, l, err)
		return
	}
	r.NextAt = t.now.Add(t.c.backoff(t.c.cfg.BackoffMin, r.Attempts, t.in.ID+l.name))
}

// stuck stops the instance until an operator, or a late reply, moves it.
func (t *turn) stuck(ctx context.Context, l *leaf, reason string) {
	step := ""
	if l != nil {
		step = l.name
		t.in.record(step).LastError = reason
	}
	if t.in.Status != StatusStuck {
		t.in.StuckIn = t.in.Status
	}
	t.in.Status = StatusStuck
	t.in.StuckStep = step
	t.in.StuckReason = reason
	t.entry(EntryStuck, step, 0, reason)
	i := t.info(l, PhaseDo)
	if t.in.StuckIn == StatusCompensating {
		i.Phase = PhaseUndo
	}
	i.Err = errors.New(reason)
	t.tell(ctx, t.c.cfg.Hooks.Stuck, i)
}

// expireStuck lets the deadline compensate an instance that is stuck before its
// pivot.
func (t *turn) expireStuck(ctx context.Context) bool {
	if t.in.StuckIn != StatusRunning || t.pastPoint() || t.in.DeadlineAt.IsZero() || t.now.Before(t.in.DeadlineAt) {
		return false
	}
	t.unstick()
	t.compensate(ctx, Cause{Kind: CauseDeadline, Reason: "the deadline passed while the saga was stuck"})
	return true
}

// unstick resumes the direction the instance was going.
func (t *turn) unstick() {
	t.in.Status = t.in.StuckIn
	t.in.StuckIn, t.in.StuckStep, t.in.StuckReason = "", "", ""
}
