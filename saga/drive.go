package saga

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// errFenced says that a call's outcome came too late: its node had lost the
// instance.
var errFenced = errors.New("saga: this node no longer owns the instance; the outcome was refused")

// turnTimeout bounds one transaction of the coordinator's own, the local step or
// the closing callback in it included: a row lock must not be held for ever.
const turnTimeout = 30 * time.Second

// pauseFor is how long a locally rejected step waits.
func (c *Coordinator) pauseFor() time.Duration { return 5 * c.cfg.BackoffMin }

func (c *Coordinator) newTurn(in *Instance, tx sqldb.Tx) (*turn, error) {
	p, ok := c.plan(in.Name, in.Version)
	if !ok {
		return nil, fmt.Errorf("%w: %s v%d", ErrNotServed, in.Name, in.Version)
	}
	t := &turn{c: c, p: p, in: in, now: c.now(), ex: tx, tx: tx, due: in.DueAt}
	s, err := p.decode(in.State)
	if err != nil {
		return t, err
	}
	t.s = s
	return t, nil
}

// save writes the turn into its transaction, and queues what follows the commit.
func (t *turn) save(ctx context.Context) error {
	if !t.changed && len(t.log) == 0 && !t.touched && t.in.DueAt.Equal(t.due) {
		return nil
	}
	if t.touched {
		b, err := t.p.encode(t.s, t.c.cfg.MaxState)
		if err != nil {
			return err // fold and end have checked: only a racing mutation gets here
		}
		t.in.State = b
	}
	for i := range t.jobs {
		t.jobs[i].state = t.in.State
	}
	t.in.UpdatedAt = t.now
	if err := t.c.store.Save(ctx, t.ex, t.in, t.log); err != nil {
		return err
	}
	t.committing(ctx)
	return nil
}

// committing runs the crash point before the commit and registers what follows.
func (t *turn) committing(ctx context.Context) {
	if t.point.Phase == "" {
		t.point.Phase = "turn"
	}
	h := &t.c.cfg.Hooks
	if h.BeforeCommit != nil {
		h.BeforeCommit(ctx, t.point)
	}
	ready := !t.drives && !t.in.DueAt.IsZero() && !t.in.DueAt.After(t.now)
	plain := context.WithoutCancel(ctx)
	follow := func() {
		if h.AfterCommit != nil {
			h.AfterCommit(plain, t.point)
		}
		for _, fn := range t.after {
			fn()
		}
		if ready {
			t.c.kick(t.in.ID)
		}
	}
	if !sqldb.AfterCommit(ctx, follow) {
		for _, fn := range t.after { // a bare transaction: tell now, the poll drives
			fn()
		}
	}
}

// work is what one turn of the coordinator's own left to do.
type work struct {
	jobs  []job
	again bool
	in    *Instance
}

// step makes one turn: apply what happened (nil for nothing), advance, save.
// Errors of the caller's code are recorded; the error returned is the
// database's, or errFenced.
func (c *Coordinator) step(ctx context.Context, id string, apply func(context.Context, *turn) error) (work, error) {
	// quiet keeps what happened apart from what it makes possible: where a local
	// step or a closing callback fails in the transaction that records an
	// outcome, the outcome is recorded alone.
	quiet := false
	for try := 1; ; try++ {
		w, t, err := c.transact(ctx, id, quiet, apply)
		var f *stepFailure
		switch {
		case err == nil:
			return w, nil
		case (sqldb.IsRetryable(err) || errors.Is(err, ErrConflict)) && try < 10:
			if !c.rest(ctx, time.Duration(try)*5*time.Millisecond) {
				return work{}, ctx.Err()
			}
		case errors.As(err, &f) && apply != nil && !quiet:
			quiet = true
		case errors.As(err, &f) && (infrastructure(ctx, f.err) || try >= 10):
			return work{}, err
		case errors.As(err, &f):
			revision := t.in.Revision
			w, _, err = c.transact(ctx, id, true, func(ctx context.Context, t *turn) error {
				if t.in.Revision == revision {
					t.recordFailure(ctx, f)
				}
				return nil
			})
			if err == nil || !(sqldb.IsRetryable(err) || errors.Is(err, ErrConflict)) {
				return w, err
			}
		default:
			return work{}, err
		}
	}
}

// rest waits in real time between conflicting transactions.
func (c *Coordinator) rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// infrastructure reports errors that say nothing about the step.
func infrastructure(ctx context.Context, err error) bool {
	return ctx.Err() != nil || sqldb.IsUnavailable(err)
}

// transact runs one turn in one transaction. A quiet one runs neither a local
// step nor the closing callback.
func (c *Coordinator) transact(ctx context.Context, id string, quiet bool, apply func(context.Context, *turn) error) (work, *turn, error) {
	var t *turn
	var w work
	ctx, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	err := c.store.InTx(ctx, func(ctx context.Context, tx sqldb.Tx) error {
		t, w = nil, work{}
		in, err := c.store.Lock(ctx, tx, id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		w.in = in
		if in.Status.Ended() {
			return nil
		}
		if t, err = c.newTurn(in, tx); err != nil {
			if t == nil { // another node serves it
				return nil
			}
			return t.undecodable(ctx, err)
		}
		t.drives = true
		t.deferEnd, t.localDone = quiet, quiet
		t.point = Point{Saga: in.Name, ID: in.ID}
		if err := t.replies(ctx); err != nil {
			return err
		}
		if apply != nil {
			if err := apply(ctx, t); err != nil {
				return err
			}
		}
		if err := t.advance(ctx); err != nil {
			return err
		}
		if err := t.save(ctx); err != nil {
			return err
		}
		w.jobs = t.jobs
		w.again = (len(t.log) > 0 || quiet) && !in.DueAt.IsZero() && !in.DueAt.After(t.now)
		return nil
	})
	return w, t, err
}

// undecodable makes an instance stuck whose state does not decode; the state is
// left as it is.
func (t *turn) undecodable(ctx context.Context, err error) error {
	t.changed = true
	if t.in.Status != StatusStuck {
		t.stuck(ctx, nil, err.Error())
	}
	t.in.DueAt = time.Time{}
	return t.save(ctx)
}

// recordFailure records an error of a local step or a closing callback, whose
// transaction was rolled back.
func (t *turn) recordFailure(ctx context.Context, f *stepFailure) {
	if f.leaf == nil {
		if t.in.Close == nil {
			t.in.Close = &StepRecord{}
		}
		t.in.Close.Attempts++
		t.in.Close.LastError = f.err.Error()
		t.entry(EntryFailed, "", t.in.Close.Attempts, "closing callback: "+f.err.Error())
		if p := (*permanent)(nil); errors.As(f.err, &p) || t.in.Close.Attempts >= t.c.cfg.Attempts {
			t.stuck(ctx, nil, "the closing callback failed: "+f.err.Error())
			return
		}
		t.in.Close.NextAt = t.now.Add(t.c.backoff(t.c.cfg.BackoffMin, t.in.Close.Attempts, t.in.ID))
		return
	}
	l, r := f.leaf, t.in.record(f.leaf.name)
	if t.c.localRejection(f.err) {
		t.entry(EntryPaused, l.name, r.Attempts, f.err.Error())
		r.NextAt = t.now.Add(t.c.pauseFor())
		return
	}
	r.Attempts++
	if reason, ok := Refused(f.err); ok && f.phase == PhaseDo {
		t.refused(ctx, l, reason)
		return
	}
	t.failed(ctx, l, f.phase, f.err)
}

func (c *Coordinator) localRejection(err error) bool {
	var p *pause
	return errors.As(err, &p) || (c.cfg.LocalRejection != nil && c.cfg.LocalRejection(err))
}

// dropped holds the ids of instances whose drive failed at the database. Calls
// may be recorded as in flight, under this living node, that nobody makes: the
// claim's commit was answered by a lost connection, or the outcome could not be
// recorded. The next drive takes them back.
type dropped struct {
	mu  sync.Mutex
	ids map[string]struct{}
}

func (d *dropped) add(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ids == nil {
		d.ids = make(map[string]struct{})
	}
	d.ids[id] = struct{}{}
}

func (d *dropped) remove(id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.ids[id]
	delete(d.ids, id)
	return ok
}

func (d *dropped) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.ids))
}

// takeBack is takeFrom this node itself, before apply. A node drives an instance
// once at a time, so at the start of a drive none of its calls is under way.
func (c *Coordinator) takeBack(apply func(context.Context, *turn) error) func(context.Context, *turn) error {
	return func(ctx context.Context, t *turn) error {
		if node := c.membership.id(); node != "" {
			t.takeOver(node)
		}
		if apply == nil {
			return nil
		}
		return apply(ctx, t)
	}
}

// drive moves an instance on until it has to wait.
func (c *Coordinator) drive(ctx context.Context, id string, apply func(context.Context, *turn) error, during func(func())) (err error) {
	defer func() {
		if err != nil {
			c.dropped.add(id)
		}
	}()
	if c.dropped.remove(id) {
		apply = c.takeBack(apply)
	}
	w, err := c.step(ctx, id, apply)
	for err == nil && ctx.Err() == nil {
		switch {
		case len(w.jobs) > 0:
			in, jobs := w.in, w.jobs
			during(func() { w, err = c.perform(ctx, in, jobs) })
		case w.again:
			w, err = c.step(ctx, id, nil)
		default:
			return nil
		}
	}
	return err
}
