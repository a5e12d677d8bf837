package saga

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

type op string

const (
	opCommand op = "command"
	opLocal   op = "local"
	opCall    op = "call"
	opTimer   op = "timer"
	opSignal  op = "signal"
)

// leaf is a step with its state type erased: s is always a *S.
type leaf struct {
	name     string
	op       op
	kind     Kind
	kindless bool // timers and signals have no kind
	attempts int
	wait     time.Duration // reply timeout, call timeout, timer, signal timeout

	build, buildUndo func(s any) (events.Event, error)
	onReply          func(s any, e events.Event) error
	local, localUndo func(ctx context.Context, tx sqldb.Tx, s any) error
	call, callUndo   func(ctx context.Context, s any) error
	query            func(ctx context.Context, s any) (Outcome, error)
	until            func(s any) time.Time
	onSignal         func(s any, payload []byte) error
}

// undoable reports whether an attempt of the leaf owes an undo.
func (l *leaf) undoable() bool {
	return !l.kindless && l.kind == Compensatable
}

// stage is one position of a definition: a step alone, or a group.
type stage struct {
	group  string
	leaves []*leaf
}

// plan is a definition with its state type erased, checked.
type plan struct {
	name          string
	version       int
	deadline      time.Duration
	stages        []stage
	byName        map[string]*leaf
	pivot         *leaf
	forwardOnly   bool // nothing can be undone: past the pivot from the start
	newState      func() any
	onCompleted   func(ctx context.Context, tx sqldb.Tx, s any) error
	onCompensated func(ctx context.Context, tx sqldb.Tx, s any, c Cause) error
}

func (p *plan) ref() Ref { return Ref{p.name, p.version} }

func (p *plan) key(id, step string) string { return p.name + "/" + id + "/" + step }

// decode strictly needs valid JSON of the state's shape; unknown fields are
// left alone, as an older version may read what a newer one wrote.
func (p *plan) decode(b []byte) (any, error) {
	s := p.newState()
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("saga: the state of a %s v%d cannot be decoded: %w", p.name, p.version, err)
	}
	return s, nil
}

func (p *plan) encode(s any, limit int) ([]byte, error) {
	b, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("saga: the state of a %s v%d cannot be encoded: %w", p.name, p.version, err)
	}
	if len(b) > limit {
		return nil, fmt.Errorf("saga: the state of a %s v%d has %d bytes, more than the limit of %d; keep large data in your own tables", p.name, p.version, len(b), limit)
	}
	return b, nil
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$`)

// compiler collects what Step.compile finds.
type compiler struct {
	saga     string
	inGroup  string
	problems []error
	seen     map[string]bool
}

func (d *compiler) fault(format string, args ...any) {
	d.problems = append(d.problems, definitionError("saga %q: %s", d.saga, fmt.Sprintf(format, args...)))
}

// leaf checks what every step has and returns its erased form.
func (d *compiler) leaf(o op, name string, kind Kind, attempts int) *leaf {
	if !nameRE.MatchString(name) {
		d.fault("the step name %q is not usable; take 1 to 48 lower-case letters, digits and \"-\"", name)
	}
	if d.seen[name] {
		d.fault("two steps are named %q; give each its own name, as instances in flight are found by it", name)
	}
	d.seen[name] = true
	if kind < Compensatable || kind > Retriable {
		d.fault("step %q has the unknown kind %d; take Compensatable, Pivot or Retriable", name, kind)
	}
	if attempts < 0 {
		d.fault("step %q: Attempts is %d; take 0 for the default, or more", name, attempts)
	}
	return &leaf{name: name, op: o, kind: kind, attempts: attempts}
}

func (d *compiler) functions(l *leaf, hasDo, hasUndo bool) {
	if !hasDo {
		d.fault("step %q has no Do; give it one", l.name)
	}
	switch {
	case l.kind == Compensatable && !hasUndo:
		d.fault("step %q is compensatable and has no Undo; give it one (returning nil if there is nothing to undo), or make it the Pivot or Retriable if it stands at or after the point of no return", l.name)
	case l.kind != Compensatable && hasUndo:
		d.fault("step %q is %s and has an Undo, which would never run; remove it, or make the step Compensatable and put it before the pivot", l.name, l.kind)
	}
}

func (c *Command[S]) compile(d *compiler) []*leaf {
	l := d.leaf(opCommand, c.Name, c.Kind, c.Attempts)
	d.functions(l, c.Do != nil, c.Undo != nil)
	if c.ReplyTimeout < 0 {
		d.fault("step %q: ReplyTimeout is negative; take 0 for the default", c.Name)
	}
	l.wait = c.ReplyTimeout
	if l.wait == 0 {
		l.wait = 15 * time.Second
	}
	if c.Do != nil {
		l.build = func(s any) (events.Event, error) { return c.Do(s.(*S)) }
	}
	if c.Undo != nil {
		l.buildUndo = func(s any) (events.Event, error) { return c.Undo(s.(*S)) }
	}
	if c.OnReply != nil {
		l.onReply = func(s any, e events.Event) error { return c.OnReply(s.(*S), e) }
	}
	return []*leaf{l}
}

func (c *Local[S]) compile(d *compiler) []*leaf {
	l := d.leaf(opLocal, c.Name, c.Kind, c.Attempts)
	d.functions(l, c.Do != nil, c.Undo != nil)
	if c.Do != nil {
		l.local = func(ctx context.Context, tx sqldb.Tx, s any) error { return c.Do(ctx, tx, s.(*S)) }
	}
	if c.Undo != nil {
		l.localUndo = func(ctx context.Context, tx sqldb.Tx, s any) error { return c.Undo(ctx, tx, s.(*S)) }
	}
	return []*leaf{l}
}

func (c *Call[S]) compile(d *compiler) []*leaf {
	l := d.leaf(opCall, c.Name, c.Kind, c.Attempts)
	d.functions(l, c.Do != nil, c.Undo != nil)
	if c.Timeout < 0 {
		d.fault("step %q: Timeout is negative; take 0 for the default", c.Name)
	}
	l.wait = c.Timeout
	if l.wait == 0 {
		l.wait = 10 * time.Second
	}
	if c.Do != nil {
		l.call = func(ctx context.Context, s any) error { return c.Do(ctx, s.(*S)) }
	}
	if c.Undo != nil {
		l.callUndo = func(ctx context.Context, s any) error { return c.Undo(ctx, s.(*S)) }
	}
	if c.Query != nil {
		l.query = func(ctx context.Context, s any) (Outcome, error) { return c.Query(ctx, s.(*S)) }
	}
	return []*leaf{l}
}

func (c *Timer[S]) compile(d *compiler) []*leaf {
	l := d.leaf(opTimer, c.Name, Compensatable, 0)
	l.kindless = true
	if (c.After > 0) == (c.Until != nil) {
		d.fault("timer %q: set either After (positive) or Until", c.Name)
	}
	l.wait = c.After
	if c.Until != nil {
		l.until = func(s any) time.Time { return c.Until(s.(*S)) }
	}
	return []*leaf{l}
}

func (c *Signal[S]) compile(d *compiler) []*leaf {
	l := d.leaf(opSignal, c.Name, Compensatable, 0)
	l.kindless = true
	if c.Timeout < 0 {
		d.fault("signal %q: Timeout is negative; take 0 for none", c.Name)
	}
	l.wait = c.Timeout
	if c.On != nil {
		l.onSignal = func(s any, b []byte) error { return c.On(s.(*S), b) }
	}
	return []*leaf{l}
}

func (g *Group[S]) compile(d *compiler) []*leaf {
	if d.inGroup != "" {
		d.fault("group %q stands inside group %q; put their steps into one group", g.Name, d.inGroup)
		return nil
	}
	if !nameRE.MatchString(g.Name) {
		d.fault("the group name %q is not usable; take 1 to 48 lower-case letters, digits and \"-\"", g.Name)
	}
	if len(g.Steps) == 0 {
		d.fault("group %q has no steps; give it some, or remove it", g.Name)
	}
	d.inGroup = g.Name
	defer func() { d.inGroup = "" }()
	var leaves []*leaf
	for _, s := range g.Steps {
		if s == nil {
			d.fault("group %q has a nil step; remove it", g.Name)
			continue
		}
		leaves = append(leaves, s.compile(d)...)
	}
	return leaves
}

// compile checks a definition and erases its state type. All faults are
// reported together.
func compile[S any](def Definition[S]) (*plan, error) {
	d := &compiler{saga: def.Name, seen: make(map[string]bool)}
	if !nameRE.MatchString(def.Name) {
		d.fault("Name is not usable; take 1 to 48 lower-case letters, digits and \"-\"")
	}
	if def.Version < 0 {
		d.fault("Version is %d; take 1 or more", def.Version)
	}
	if def.Deadline < 0 {
		d.fault("Deadline is negative; take 0 for none")
	}
	if len(def.Steps) == 0 {
		d.fault("there are no Steps; give it at least one")
	}
	p := &plan{
		name: def.Name, version: max(def.Version, 1), deadline: def.Deadline,
		byName:   make(map[string]*leaf),
		newState: func() any { return new(S) },
	}
	for _, s := range def.Steps {
		if s == nil {
			d.fault("a step is nil; remove it")
			continue
		}
		st := stage{leaves: s.compile(d)}
		if g, ok := s.(*Group[S]); ok {
			st.group = g.Name
		}
		for _, l := range st.leaves {
			p.byName[l.name] = l
		}
		p.stages = append(p.stages, st)
	}
	d.order(p)
	if len(d.problems) > 0 {
		return nil, joinLines(d.problems)
	}
	if def.OnCompleted != nil {
		p.onCompleted = func(ctx context.Context, tx sqldb.Tx, s any) error { return def.OnCompleted(ctx, tx, s.(*S)) }
	}
	if def.OnCompensated != nil {
		p.onCompensated = func(ctx context.Context, tx sqldb.Tx, s any, c Cause) error {
			return def.OnCompensated(ctx, tx, s.(*S), c)
		}
	}
	return p, nil
}

// order checks the pivot rule and finds the pivot.
func (d *compiler) order(p *plan) {
	var compensatable, retriable string // the last and the first of their kind
	for _, st := range p.stages {
		kinds := make(map[Kind]bool)
		for _, l := range st.leaves {
			if l.kindless {
				if l.op == opSignal && l.wait > 0 && (p.pivot != nil || retriable != "") {
					d.fault("signal %q stands after the pivot and has a Timeout, which could only compensate; remove the Timeout or move the signal before the pivot", l.name)
				}
				continue
			}
			kinds[l.kind] = true
			switch l.kind {
			case Compensatable:
				if p.pivot != nil {
					d.fault("step %q is compensatable and stands after the pivot %q; move it before the pivot, or make it Retriable", l.name, p.pivot.name)
				} else if retriable != "" {
					d.fault("step %q is compensatable and stands after the retriable step %q; move it before, or make it Retriable", l.name, retriable)
				}
				compensatable = l.name
			case Pivot:
				if p.pivot != nil {
					d.fault("steps %q and %q are both the pivot; one step decides a saga: make the other Compensatable (before it) or Retriable (after it)", p.pivot.name, l.name)
				} else if retriable != "" {
					d.fault("step %q is the pivot and stands after the retriable step %q; move the retriable step behind it", l.name, retriable)
				}
				if st.group != "" {
					d.fault("the pivot %q stands in the group %q; let it stand alone", l.name, st.group)
				}
				p.pivot = l
			case Retriable:
				if p.pivot == nil && compensatable != "" && retriable == "" {
					d.fault("step %q is retriable but no pivot stands between it and the compensatable step %q; make the step that decides the saga the Pivot", l.name, compensatable)
				}
				if retriable == "" {
					retriable = l.name
				}
			}
		}
		if st.group != "" && len(kinds) > 1 && !kinds[Pivot] {
			d.fault("group %q mixes compensatable and retriable steps; split it at the pivot", st.group)
		}
	}
	p.forwardOnly = p.pivot == nil && retriable != ""
}

func joinLines(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return &manyFaults{errs}
}

// manyFaults shows several faults on one line.
type manyFaults struct{ errs []error }

func (m *manyFaults) Error() string {
	var b bytes.Buffer
	for i, e := range m.errs {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(e.Error())
	}
	return b.String()
}
func (m *manyFaults) Unwrap() []error { return m.errs }
