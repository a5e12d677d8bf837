package saga

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// result is how a call ended.
type result struct {
	state any // *S after a Do or Undo that succeeded
	err   error
}

// perform makes the claimed calls side by side and records each outcome in a
// transaction of its own. What the last of them made possible is returned.
func (c *Coordinator) perform(ctx context.Context, in *Instance, jobs []job) (work, error) {
	works := make([]work, len(jobs))
	errs := make([]error, len(jobs))
	var wg sync.WaitGroup
	for i, j := range jobs {
		run := func() {
			works[i], errs[i] = c.performOne(ctx, in, j)
		}
		if len(jobs) == 1 {
			run()
			break
		}
		wg.Go(run)
	}
	wg.Wait()
	var all work
	for i, w := range works {
		all.jobs = append(all.jobs, w.jobs...)
		all.again = all.again || w.again
		if w.in != nil {
			all.in = w.in
		}
		if errors.Is(errs[i], errFenced) {
			errs[i] = nil
		}
	}
	return all, errors.Join(errs...)
}

func (c *Coordinator) performOne(ctx context.Context, in *Instance, j job) (work, error) {
	p, ok := c.plan(in.Name, in.Version)
	if !ok {
		return work{}, ErrNotServed
	}
	select {
	case c.calls <- struct{}{}:
	case <-ctx.Done():
		return work{}, ctx.Err()
	}
	res := c.call(ctx, p, in, j)
	<-c.calls
	// The outcome is recorded even where the process is about to stop.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	recorded := false
	w, err := c.step(ctx, in.ID, func(ctx context.Context, t *turn) error {
		recorded = true
		return t.outcome(ctx, j, res)
	})
	if err == nil && !recorded {
		err = errFenced // another node has brought the instance to its end
	}
	if errors.Is(err, errFenced) {
		c.cfg.Logger.WarnContext(ctx, "saga: the outcome of a call was refused, another node took the instance over",
			"saga", in.Name, "id", in.ID, "step", j.leaf.name, "epoch", j.epoch)
		if c.cfg.Hooks.Fenced != nil {
			i := j.info
			i.Err = err
			c.cfg.Hooks.Fenced(c.restore(ctx, in), i)
		}
	}
	return w, err
}

// call makes one attempt, under its own deadline.
func (c *Coordinator) call(ctx context.Context, p *plan, in *Instance, j job) (res result) {
	ctx = c.restore(ctx, in)
	ctx = stepContext(ctx, p.key(in.ID, j.leaf.name), j.phase)
	var ended func(error)
	if c.cfg.Hooks.Call != nil {
		ctx, ended = c.cfg.Hooks.Call(ctx, j.info, j.leaf.kind)
	}
	ctx, cancel := context.WithTimeout(ctx, j.leaf.wait)
	defer cancel()
	s, err := p.decode(j.state)
	if err == nil {
		err = guard(func() error { return attempt(ctx, j, s) })
	}
	if ended != nil {
		ended(err)
	}
	return result{state: s, err: err}
}

func attempt(ctx context.Context, j job, s any) error {
	if j.phase == PhaseUndo {
		return j.leaf.callUndo(ctx, s)
	}
	if j.leaf.query != nil && !j.first {
		o, err := j.leaf.query(ctx, s)
		if err != nil {
			return fmt.Errorf("query: %w", err)
		}
		switch o {
		case OutcomeDone:
			return nil
		case OutcomeRefused:
			return Refuse("the other side refused it")
		case OutcomeAbsent:
		default:
			return errors.New("the query did not find out")
		}
	}
	return j.leaf.call(ctx, s)
}

// outcome records how a call ended, if this node still owns the instance.
func (t *turn) outcome(ctx context.Context, j job, res result) error {
	l, r := j.leaf, t.in.record(j.leaf.name)
	if t.in.Owner != j.owner || t.in.Epoch != j.epoch || !r.Running {
		return errFenced
	}
	t.point.Step, t.point.Phase = l.name, string(j.phase)
	r.Running = false
	t.release()
	switch reason, refused := Refused(res.err); {
	case res.err == nil:
		return t.succeeded(ctx, j, res)
	case t.c.localRejection(res.err):
		t.paused(l, j, r, res.err)
	case refused && j.phase == PhaseDo:
		t.refused(ctx, l, reason)
	default:
		t.failed(ctx, l, j.phase, res.err)
	}
	return nil
}

func (t *turn) succeeded(ctx context.Context, j job, res result) error {
	after, err := t.p.encode(res.state, t.c.cfg.MaxState)
	if err != nil {
		t.failed(ctx, j.leaf, j.phase, &permanent{err})
		return nil
	}
	if t.in.record(j.leaf.name).Patch, err = diff(j.state, after); err != nil {
		t.failed(ctx, j.leaf, j.phase, &permanent{err})
		return nil
	}
	if j.phase == PhaseDo {
		t.done(ctx, j.leaf)
	} else {
		t.undone(ctx, j.leaf)
	}
	return nil
}

// paused takes a local rejection back: nothing left this process.
func (t *turn) paused(l *leaf, j job, r *StepRecord, err error) {
	t.entry(EntryPaused, l.name, r.Attempts, err.Error())
	r.Attempts = max(0, r.Attempts-1)
	if j.phase == PhaseDo && j.first {
		r.Status = StepPending
		r.Tried = false
	}
	if j.phase == PhaseUndo || t.in.Status != StatusCompensating {
		r.NextAt = t.now.Add(t.c.pauseFor())
	}
}

// release ends the ownership with the last call in flight.
func (t *turn) release() {
	for _, r := range t.in.Steps {
		if r.Running {
			return
		}
	}
	t.in.Owner = ""
}

// takeOver ends the ownership of a node that is dead. The epoch refuses what it
// may still write.
func (t *turn) takeOver(dead string) {
	if t.in.Owner != dead {
		return
	}
	for name, r := range t.in.Steps {
		if r.Running {
			r.Running = false
			r.NextAt = time.Time{}
			t.entry(EntryTakenOver, name, r.Attempts, "from "+dead)
			if t.in.Status == StatusCompensating && r.Status == StepAttempted {
				r.Attempts = 0
			}
		}
	}
	t.in.Owner = ""
	t.in.Epoch++
}
