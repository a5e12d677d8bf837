package inbox

import (
	"context"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// togetherTimeout bounds a transaction of several events, since one handler that
// hangs holds up all of them. Alone each has the whole HandlerTimeout.
const togetherTimeout = time.Second

// step is what a transaction does with one event.
type step int

const (
	stepDuplicate step = iota // it was handled before
	stepHandle
	stepPark
	stepFill // handle: it is the one that its parked key waits for
	stepPass // mark it only: no handler, or an older one than was handled
)

// unit is one event in a transaction.
type unit[T any] struct {
	event  events.Event
	entry  entry[T]
	accept bool // take a gap before it as given
	step   step
	finish func(error)
	ctx    context.Context // of its handler
}

// entry is a type's handler: one of the two, or none.
type entry[T any] struct {
	one  Handler[T]
	many BatchHandler[T]
}

func (x entry[T]) none() bool { return x.one == nil && x.many == nil }

// handleAll handles the events of a job in one transaction.
func (c *Consumer[T]) handleAll(j *job) error {
	var parts [][]*unit[T]
	for _, p := range j.parts {
		var us []*unit[T]
		for _, it := range p.items {
			if u := c.unit(it); u != nil {
				us = append(us, u)
			}
		}
		if us != nil {
			parts = append(parts, us)
		}
	}
	ctx, cancel := context.WithTimeout(j.ctx, min(togetherTimeout, c.cfg.HandlerTimeout))
	defer cancel()
	_, err := c.apply(ctx, parts)
	return err
}

// unit is nil for an event that needs no transaction: of a type that another
// topic of the subscription has a handler for, or beside a strict one.
func (c *Consumer[T]) unit(it *item) *unit[T] {
	x, ok := c.handlers[route{it.event.Topic, it.event.Type}]
	if !ok && c.cfg.Sequences[it.event.Topic] == AsDelivered {
		return nil
	}
	return &unit[T]{event: it.event, entry: x, accept: !it.held.IsZero() && c.inbox.cfg.Now().Sub(it.held) >= c.cfg.GapTimeout}
}

// apply is the transaction: marks, effects and outgoing events of the units, in
// the order of each key. handling tells, of an error, that a handler had the
// transaction when it came.
func (c *Consumer[T]) apply(ctx context.Context, parts [][]*unit[T]) (handling bool, err error) {
	var all []*unit[T]
	for _, p := range parts {
		all = append(all, p...)
	}
	if len(all) == 0 {
		return false, nil
	}
	defer func() {
		for _, u := range all {
			if u.finish != nil {
				u.finish(err)
			}
		}
	}()
	var worked time.Duration // how long it was at the events, without its begin and commit
	err = c.runner.InTx(ctx, func(ctx context.Context, tx T) error {
		start := c.pace.now()
		defer func() { worked = c.pace.now().Sub(start) }()
		w := c.runner.Wrap(tx)
		if err := c.decide(ctx, w, all); err != nil {
			return err
		}
		handling = true
		if err := c.call(ctx, tx, parts); err != nil {
			return err
		}
		handling = false
		return nil
	})
	if err != nil {
		return handling, err
	}
	c.pace.succeeded(len(all), worked)
	for _, u := range all {
		switch hk := c.cfg.Hooks; {
		case u.step == stepDuplicate && hk.Duplicate != nil:
			hk.Duplicate(ctx, c.name, u.event)
		case u.step == stepPark && hk.Parked != nil:
			hk.Parked(ctx, c.name, u.event)
		case u.step == stepPass && !u.entry.none() && hk.Superseded != nil:
			hk.Superseded(ctx, c.name, u.event)
		}
	}
	return false, nil
}

// decide marks the units and says what is to be done with each.
func (c *Consumer[T]) decide(ctx context.Context, w sqldb.Tx, all []*unit[T]) error {
	// A statement of its own, before the others: it waits for whoever has marked
	// one of the events, and what they did to its key is to be seen.
	ids := make([]string, len(all))
	for i, u := range all {
		ids[i] = u.event.ID
	}
	first, err := c.inbox.markAll(ctx, w, c.name, ids)
	if err != nil {
		return err
	}
	fresh := all[:0:0]
	for i, u := range all {
		if u.step = stepDuplicate; first[i] {
			fresh = append(fresh, u)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	parked, err := c.parkedKeys(ctx, w, fresh)
	if err != nil {
		return err
	}
	seqs, err := c.readSequences(ctx, w, fresh)
	if err != nil {
		return err
	}
	for _, u := range fresh {
		p := parked[route{u.event.Topic, u.event.Key}]
		switch {
		case p != nil && seqs.fills(u.event, p):
			u.step = stepFill
			if u.event.KeySeq+1 == p.gap {
				if err := letGo(ctx, w, c.name, u.event.Topic, u.event.Key); err != nil {
					return err
				}
			}
			seqs.take(u.event)
		case p != nil && (c.cfg.BypassParking == nil || !c.cfg.BypassParking(u.event)):
			u.step = stepPark
			if err := c.store(ctx, w, u.event, stateParked, "", 0, nil); err != nil {
				return err
			}
		default:
			if u.step, err = seqs.step(u.event, u.accept, p != nil); err != nil {
				return err
			}
			if u.entry.none() {
				u.step = stepPass
			}
		}
	}
	return seqs.store(ctx, w)
}

// call runs the handlers. Where the next of several keys are for one batch
// handler it gets them at once.
func (c *Consumer[T]) call(ctx context.Context, tx T, parts [][]*unit[T]) error {
	if !c.batches {
		for _, p := range parts {
			for _, u := range p {
				if err := c.callOne(ctx, tx, u); err != nil {
					return err
				}
			}
		}
		return nil
	}
	rest := make([][]*unit[T], 0, len(parts))
	for _, p := range parts {
		var todo []*unit[T]
		for _, u := range p {
			if u.step == stepHandle || u.step == stepFill {
				todo = append(todo, u)
			}
		}
		rest = append(rest, todo)
	}
	for {
		var at route
		var group []*unit[T]
		for i := range rest {
			if len(group) == 0 && len(rest[i]) > 0 {
				at = route{rest[i][0].event.Topic, rest[i][0].event.Type}
			}
			for len(rest[i]) > 0 && (route{rest[i][0].event.Topic, rest[i][0].event.Type}) == at {
				group = append(group, rest[i][0])
				rest[i] = rest[i][1:]
			}
		}
		if len(group) == 0 {
			return nil
		}
		if group[0].entry.many != nil {
			if err := c.callMany(ctx, tx, group); err != nil {
				return err
			}
			continue
		}
		for _, u := range group {
			if err := c.callOne(ctx, tx, u); err != nil {
				return err
			}
		}
	}
}

func (c *Consumer[T]) callOne(ctx context.Context, tx T, u *unit[T]) error {
	if u.step != stepHandle && u.step != stepFill {
		return nil
	}
	if u.entry.many != nil {
		return c.callMany(ctx, tx, []*unit[T]{u})
	}
	c.before(ctx, u)
	h := u.entry.one
	if err := guard(func() error { return h(u.ctx, tx, u.event) }); err != nil {
		return err
	}
	c.beforeCommit(u)
	return nil
}

func (c *Consumer[T]) callMany(ctx context.Context, tx T, us []*unit[T]) error {
	evs := make([]events.Event, len(us))
	for i, u := range us {
		c.before(ctx, u)
		evs[i] = u.event
	}
	if len(us) == 1 {
		ctx = us[0].ctx
	}
	h := us[0].entry.many
	if err := guard(func() error { return h(ctx, tx, evs) }); err != nil {
		return err
	}
	for _, u := range us {
		c.beforeCommit(u)
	}
	return nil
}

// before prepares the context of the unit's handler.
func (c *Consumer[T]) before(ctx context.Context, u *unit[T]) {
	u.ctx = c.context(ctx, u.event)
	if f := c.cfg.Hooks.Around; f != nil {
		u.ctx, u.finish = f(u.ctx, c.name, u.event)
	}
	if f := c.cfg.Hooks.BeforeHandle; f != nil {
		f(u.ctx, c.name, u.event)
	}
}

func (c *Consumer[T]) beforeCommit(u *unit[T]) {
	if f := c.cfg.Hooks.BeforeCommit; f != nil {
		f(u.ctx, c.name, u.event)
	}
}
