package saga

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// turn is one transaction's work on one instance: it is given something that
// happened, advances the state machine as far as it goes without waiting, and
// saves.
type turn struct {
	c   *Coordinator
	p   *plan
	in  *Instance
	s   any // *S
	now time.Time
	ex  sqldb.Execer
	tx  sqldb.Tx // nil in Start, whose caller gives an Execer only
	// drives marks a turn of the coordinator's own, which may run local steps
	// and claim calls; others leave them to one.
	drives    bool
	deferEnd  bool // leave the closing callback to a later turn
	localDone bool // one local step for each transaction
	touched   bool // s was changed
	changed   bool // in was changed beside s and the log
	due       time.Time
	buildErr  error
	point     Point
	log       []Entry
	after     []func()
	jobs      []job
}

// job is a call that a turn claimed.
type job struct {
	leaf    *leaf
	phase   Phase
	attempt int
	owner   string
	epoch   int64
	first   bool // no attempt of Do has left before
	state   []byte
	info    Info
}

// stepFailure is an error of the caller's code inside a turn's transaction,
// which rolls it back. leaf is nil for the closing callback.
type stepFailure struct {
	leaf  *leaf
	phase Phase
	err   error
}

func (f *stepFailure) Error() string {
	if f.leaf == nil {
		return fmt.Sprintf("saga: the closing callback failed: %v", f.err)
	}
	return fmt.Sprintf("saga: step %q (%s) failed: %v", f.leaf.name, f.phase, f.err)
}
func (f *stepFailure) Unwrap() error { return f.err }

func (t *turn) entry(kind EntryKind, step string, attempt int, detail string) {
	t.entryBy(kind, step, attempt, detail, t.c.Node())
}

func (t *turn) entryBy(kind EntryKind, step string, attempt int, detail, actor string) {
	if len(detail) > 1000 {
		detail = detail[:1000] + "…"
	}
	t.log = append(t.log, Entry{At: t.now, Kind: kind, Step: step, Attempt: attempt, Detail: detail, Actor: actor})
}

func (t *turn) info(l *leaf, phase Phase) Info {
	i := Info{Saga: t.in.Name, Version: t.in.Version, ID: t.in.ID, Phase: phase, Cause: t.in.Cause, Age: t.now.Sub(t.in.CreatedAt)}
	if l != nil {
		i.Step = l.name
		i.Attempt = t.in.record(l.name).Attempts
	}
	return i
}

// tell queues a hook for after the commit. It runs in the saga's own flow, also
// in turns of the coordinator's own.
func (t *turn) tell(ctx context.Context, hook func(context.Context, Info), i Info) {
	if hook != nil {
		ctx = t.c.restore(context.WithoutCancel(ctx), t.in)
		t.after = append(t.after, func() { hook(ctx, i) })
	}
}

// stepContext is what a step's function receives.
func (t *turn) stepContext(ctx context.Context, l *leaf, phase Phase) context.Context {
	return stepContext(t.c.restore(ctx, t.in), t.p.key(t.in.ID, l.name), phase)
}

func stepContext(ctx context.Context, do string, phase Phase) context.Context {
	key := do
	if phase == PhaseUndo {
		key += "/undo"
	}
	ctx = context.WithValue(ctx, doKeyKey{}, do)
	ctx = context.WithValue(ctx, stepKeyKey{}, key)
	return idempotency.WithKey(ctx, key)
}

// restore puts the correlation and trace context of the saga's start into ctx. A
// context that belongs to the same flow already, such as that of a reply, stays:
// it knows its own cause.
func (c *Coordinator) restore(ctx context.Context, in *Instance) context.Context {
	if id := correlation.From(ctx).CorrelationID; id != "" && id == in.IDs.CorrelationID {
		return ctx
	}
	if in.IDs != (correlation.IDs{}) {
		ctx = correlation.With(ctx, in.IDs)
	}
	if c.cfg.Hooks.Extract != nil && len(in.Carrier) > 0 {
		ctx = c.cfg.Hooks.Extract(ctx, in.Carrier)
	}
	return ctx
}

// advance goes on until something has to be waited for.
func (t *turn) advance(ctx context.Context) error {
	for {
		var progressed bool
		var err error
		switch t.in.Status {
		case StatusRunning:
			progressed, err = t.forward(ctx)
		case StatusCompensating:
			progressed, err = t.backward(ctx)
		case StatusStuck:
			progressed = t.expireStuck(ctx)
		}
		if err != nil {
			return err
		}
		if !progressed {
			t.schedule()
			return nil
		}
	}
}

// pastPoint reports whether nothing but the pivot's own refusal compensates any
// more: from the commit that records the pivot as attempted.
func (t *turn) pastPoint() bool {
	if t.p.forwardOnly {
		return true
	}
	if t.p.pivot == nil {
		return false
	}
	return t.in.record(t.p.pivot.name).Status != StepPending
}

func (t *turn) stageIndex() int {
	for i, st := range t.p.stages {
		for _, l := range st.leaves {
			r := t.in.record(l.name)
			if r.Status != StepDone || r.Reply != nil || r.Patch != nil {
				return i
			}
		}
	}
	return len(t.p.stages)
}

// forward makes one move in the running direction.
func (t *turn) forward(ctx context.Context) (bool, error) {
	expired := !t.in.DeadlineAt.IsZero() && !t.now.Before(t.in.DeadlineAt)
	if t.pastPoint() {
		if expired && !t.in.DeadlinePassed {
			t.in.DeadlinePassed = true
			t.entry(EntryDeadline, "", 0, "the pivot was attempted; the saga goes on")
		}
	} else if t.in.Cancel != nil {
		t.compensate(ctx, Cause{Kind: CauseCancelled, Reason: t.in.Cancel.Reason})
		return true, nil
	} else if expired {
		t.compensate(ctx, Cause{Kind: CauseDeadline, Reason: "the deadline passed"})
		return true, nil
	}
	i := t.stageIndex()
	if i == len(t.p.stages) {
		return t.end(ctx, StatusCompleted)
	}
	st := t.p.stages[i]
	done := true
	for _, l := range st.leaves {
		r := t.in.record(l.name)
		if r.Status == StepRefused { // it was refused while another step was stuck
			t.compensate(ctx, Cause{Kind: CauseRefused, Step: l.name, Reason: r.LastError})
			return true, nil
		}
		done = done && r.Status == StepDone
	}
	if done {
		return t.fold(ctx, st), nil
	}
	for _, l := range st.leaves {
		if err := t.do(ctx, l); err != nil {
			return false, err
		}
		if t.in.Status != StatusRunning {
			return true, nil
		}
	}
	// A step that ended at once makes another move possible.
	for _, l := range st.leaves {
		if t.in.record(l.name).Status != StepDone {
			return false, nil
		}
	}
	return true, nil
}

// do attempts a step of the present stage if it is its time.
func (t *turn) do(ctx context.Context, l *leaf) error {
	r := t.in.record(l.name)
	if r.Status == StepDone || r.Status == StepRefused || r.Running || r.NextAt.After(t.now) {
		return nil
	}
	switch l.op {
	case opCommand:
		if r.Status == StepAttempted && t.exhausted(l, r) {
			t.giveUp(ctx, l, errors.New("no reply"))
			return nil
		}
		return t.sendDo(ctx, l, r)
	case opLocal:
		if !t.drives || t.localDone {
			return nil
		}
		t.localDone = true
		return t.runLocal(ctx, l, PhaseDo)
	case opCall:
		t.claim(ctx, l, PhaseDo)
	case opTimer:
		t.timer(ctx, l, r)
	case opSignal:
		return t.signal(ctx, l, r)
	}
	return nil
}

// runLocal runs a local step in the turn's transaction.
func (t *turn) runLocal(ctx context.Context, l *leaf, phase Phase) error {
	t.point.Step, t.point.Phase = l.name, string(phase)
	r := t.in.record(l.name)
	before, err := json.Marshal(t.s)
	if err != nil {
		return &stepFailure{l, phase, err}
	}
	s, err := t.p.decode(before)
	if err != nil {
		return &stepFailure{l, phase, err}
	}
	fn := l.local
	if phase == PhaseUndo {
		fn = l.localUndo
	}
	if err := guard(func() error { return fn(t.stepContext(ctx, l, phase), t.tx, s) }); err != nil {
		return &stepFailure{l, phase, err}
	}
	r.Attempts++
	t.tell(ctx, t.c.cfg.Hooks.StepAttempted, t.info(l, phase))
	after, err := t.p.encode(s, t.c.cfg.MaxState)
	if err != nil {
		return &stepFailure{l, phase, &permanent{err}}
	}
	if r.Patch, err = diff(before, after); err != nil {
		return &stepFailure{l, phase, &permanent{err}}
	}
	if phase == PhaseDo {
		t.done(ctx, l)
	} else {
		t.undone(ctx, l)
	}
	return nil
}

// permanent marks an error that another attempt cannot mend.
type permanent struct{ err error }

func (p *permanent) Error() string { return p.err.Error() }
func (p *permanent) Unwrap() error { return p.err }

// guard turns a panic of the caller's code into an error, and a runtime.Goexit
// too. That ends the goroutine, so fn has one of its own: else the instance
// would stay with a drive that is no more.
func guard(fn func() error) error {
	ended := make(chan error, 1)
	go func() {
		err := errGoexit
		defer func() {
			if v := recover(); v != nil {
				err = &panicked{v}
			}
			ended <- err
		}()
		err = fn()
	}()
	return <-ended
}

// claim takes a call for this node; it is made after the commit.
func (t *turn) claim(ctx context.Context, l *leaf, phase Phase) {
	node := t.c.membership.id()
	if !t.drives || node == "" || (t.in.Owner != "" && t.in.Owner != node) {
		return // a later turn, or the node that owns the calls beside it, does
	}
	if t.in.Owner == "" {
		t.in.Owner = node
		t.in.Epoch++
	}
	r := t.in.record(l.name)
	kind := EntryAttempted
	first := !r.Tried
	if phase == PhaseDo {
		r.Status = StepAttempted
		r.Tried = true
	} else {
		r.Status = StepUndoing
		kind = EntryUndoing
	}
	r.Running = true
	r.NextAt = time.Time{}
	r.Attempts++
	t.entry(kind, l.name, r.Attempts, "")
	t.tell(ctx, t.c.cfg.Hooks.StepAttempted, t.info(l, phase))
	t.point.Step, t.point.Phase = l.name, "attempt"
	t.jobs = append(t.jobs, job{leaf: l, phase: phase, attempt: r.Attempts, owner: node, epoch: t.in.Epoch, first: first, info: t.info(l, phase)})
}

func (t *turn) timer(ctx context.Context, l *leaf, r *StepRecord) {
	if r.Status == StepAttempted { // NextAt has come
		t.done(ctx, l)
		return
	}
	at := t.now.Add(l.wait)
	if l.until != nil {
		if err := guard(func() error { at = l.until(t.s); return nil }); err != nil {
			t.stuck(ctx, l, err.Error())
			return
		}
	}
	at = at.Truncate(time.Microsecond)
	r.Status = StepAttempted
	r.NextAt = at
	t.entry(EntryAttempted, l.name, 0, "until "+at.UTC().Format(time.RFC3339))
	if !at.After(t.now) {
		t.done(ctx, l)
	}
}

// signal begins to wait, looking first for one that came early.
func (t *turn) signal(ctx context.Context, l *leaf, r *StepRecord) error {
	if r.Status == StepAttempted {
		if l.wait > 0 && !r.NextAt.IsZero() { // the timeout has come
			t.refused(ctx, l, "no signal came in time")
		}
		return nil
	}
	if t.tx == nil {
		return nil // Start cannot read; the turn after it looks
	}
	early, err := t.c.store.Take(ctx, t.tx, t.in.ID, MessageSignal, l.name)
	if err != nil {
		return err
	}
	r.Status = StepAttempted
	r.NextAt = time.Time{}
	if l.wait > 0 {
		r.NextAt = t.now.Add(l.wait)
	}
	t.entry(EntryAttempted, l.name, 0, "waiting")
	if len(early) > 0 {
		t.signalled(ctx, l, early[0].Body)
	}
	return nil
}

func (t *turn) signalled(ctx context.Context, l *leaf, payload []byte) {
	t.entry(EntrySignal, l.name, 0, "")
	if l.onSignal != nil {
		s, err := t.copyState()
		if err == nil {
			err = guard(func() error { return l.onSignal(s, payload) })
		}
		if err == nil {
			err = t.keepPatch(l, s)
		}
		if err != nil {
			t.stuck(ctx, l, err.Error())
			return
		}
	}
	t.done(ctx, l)
}

func (t *turn) copyState() (any, error) {
	b, err := json.Marshal(t.s)
	if err != nil {
		return nil, err
	}
	return t.p.decode(b)
}

// keepPatch records what a branch changed in its copy of the state.
func (t *turn) keepPatch(l *leaf, s any) error {
	before, err := json.Marshal(t.s)
	if err != nil {
		return err
	}
	after, err := t.p.encode(s, t.c.cfg.MaxState)
	if err != nil {
		return err
	}
	t.in.record(l.name).Patch, err = diff(before, after)
	return err
}
