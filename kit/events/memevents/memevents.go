// Package memevents is a broker in the memory of one process, for tests. It
// keeps what the others promise, redelivery and restarts of a subscription
// included, and can be told to fail.
//
//	b := memevents.New(nil)
//	err := b.EnsureTopics(ctx, "orders")
package memevents

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// Config tunes [New]. The zero value is ready to use.
type Config struct {
	// AckWait is after how long without Ack or InProgress a delivery comes
	// again. Defaults to 30 s.
	AckWait time.Duration
}

// Broker is an events.Broker and events.Log in memory. It is safe for
// concurrent use.
type Broker struct {
	ackWait time.Duration

	mu       sync.Mutex
	closed   bool
	topics   map[string]*stream
	groups   map[string]map[place]*position // by group
	changed  chan struct{}                  // closed and replaced at every change
	fault    func(events.Event) error
	identity int
}

var _ interface {
	events.Broker
	events.Log
} = (*Broker)(nil)

type stream struct {
	identity string
	events   []events.Event // sequence n is at n-1
}

// place is what a position belongs to: a block of a topic.
type place struct {
	topic string
	block events.Block
}

// position is a group's progress in a place.
type position struct {
	types       []string
	block       events.Block
	subscribers []*subscriber  // the newest, which alone is delivered to, last
	losses      int            // how often the stream lost events: earlier deliveries are of others
	next        int            // index of the first event never delivered
	pending     map[int]*entry // delivered, not acknowledged; by index
	done        map[int]bool   // acknowledged above the lowest pending
}

// subscriber is one call of Subscribe.
type subscriber struct{ _ byte }

type entry struct {
	attempt int
	due     time.Time // when it comes again
}

// New returns an empty broker.
func New(cfg *Config) *Broker {
	b := &Broker{ackWait: 30 * time.Second, topics: make(map[string]*stream), groups: make(map[string]map[place]*position), changed: make(chan struct{})}
	if cfg != nil && cfg.AckWait > 0 {
		b.ackWait = cfg.AckWait
	}
	return b
}

// Features implements events.Broker.
func (b *Broker) Features() events.Features {
	return events.Features{Name: "memory", Ordered: true, AckWait: b.ackWait}
}

// Fail makes every publication ask fault first: the event is not stored where
// it returns an error. nil ends that.
func (b *Broker) Fail(fault func(events.Event) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fault = fault
}

// LoseTail forgets the newest n events of a topic, as a broker may that
// acknowledged before its disk had synced.
func (b *Broker) LoseTail(topic string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stream(topic)
	s.events = s.events[:len(s.events)-min(n, len(s.events))]
	for _, g := range b.groups {
		for at, p := range g {
			if at.topic != topic {
				continue
			}
			p.losses++
			p.next = min(p.next, len(s.events))
			for i := range p.pending {
				if i >= p.next {
					delete(p.pending, i)
				}
			}
			for i := range p.done {
				if i >= p.next {
					delete(p.done, i)
				}
			}
		}
	}
	b.signal()
}

// Recreate deletes a topic and makes it anew, empty.
func (b *Broker) Recreate(topic string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.topics, topic)
	b.stream(topic)
	for _, g := range b.groups {
		for at, p := range g {
			if at.topic == topic {
				losses := p.losses
				*p = *newPosition(p.block, p.types, p.subscribers)
				p.losses = losses + 1
			}
		}
	}
	b.signal()
}

// Events returns what a topic holds.
func (b *Broker) Events(topic string) []events.Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.stream(topic).events)
}

func (b *Broker) stream(topic string) *stream {
	s := b.topics[topic]
	if s == nil {
		b.identity++
		s = &stream{identity: strconv.Itoa(b.identity)}
		b.topics[topic] = s
	}
	return s
}

func (b *Broker) signal() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// EnsureTopics implements events.Broker.
func (b *Broker) EnsureTopics(_ context.Context, topics ...string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range topics {
		if err := events.ValidTopic(t); err != nil {
			return err
		}
		b.stream(t)
	}
	return nil
}

// Publish implements events.Publisher.
func (b *Broker) Publish(ctx context.Context, evs ...events.Event) error {
	_, err := b.PublishReceipts(ctx, evs...)
	return err
}

// PublishReceipts implements events.Log.
func (b *Broker) PublishReceipts(ctx context.Context, evs ...events.Event) ([]events.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	fault := b.fault
	b.mu.Unlock()
	receipts := make([]events.Receipt, len(evs))
	var failed []events.FailedEvent
	for i, e := range evs {
		err := e.Validate()
		if err == nil && fault != nil {
			err = fault(e) // the caller's code: no lock is held
		}
		if err == nil {
			receipts[i], err = b.append(e)
		}
		if err != nil {
			failed = append(failed, events.FailedEvent{Index: i, ID: e.ID, Err: err})
		}
	}
	if failed != nil {
		return receipts, &events.PublishError{Failed: failed}
	}
	return receipts, nil
}

func (b *Broker) append(e events.Event) (events.Receipt, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return events.Receipt{}, events.ErrClosed
	}
	s := b.stream(e.Topic)
	e.Data = slices.Clone(e.Data)
	s.events = append(s.events, e)
	b.signal()
	return events.Receipt{Seq: uint64(len(s.events))}, nil
}

// StreamState implements events.Log.
func (b *Broker) StreamState(_ context.Context, topic string) (events.StreamState, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return events.StreamState{}, events.ErrClosed
	}
	s := b.stream(topic)
	return events.StreamState{Identity: s.identity, LastSeq: uint64(len(s.events))}, nil
}

// Pending implements events.Broker.
func (b *Broker) Pending(_ context.Context, group string) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for at, p := range b.groups[group] {
		n += len(p.pending)
		for _, e := range b.stream(at.topic).events[p.next:] {
			if p.wants(e) {
				n++
			}
		}
	}
	return n, nil
}

// Close implements events.Broker.
func (b *Broker) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.signal()
	}
	return nil
}

func newPosition(block events.Block, types []string, subscribers []*subscriber) *position {
	return &position{types: types, block: block, subscribers: subscribers, pending: make(map[int]*entry), done: make(map[int]bool)}
}

func (p *position) wants(e events.Event) bool {
	return p.block.Contains(e.Partition()) && (len(p.types) == 0 || slices.Contains(p.types, e.Type))
}

// restart sets the position back to the oldest event that was not acknowledged.
func (p *position) restart() {
	for i := range p.pending {
		p.next = min(p.next, i)
	}
	clear(p.pending)
}

func (p *position) newest() *subscriber {
	if len(p.subscribers) == 0 {
		return nil
	}
	return p.subscribers[len(p.subscribers)-1]
}

// leave goes back to the subscriber before, where the newest leaves.
func (p *position) leave(x *subscriber) {
	if p.newest() == x {
		p.restart()
	}
	p.subscribers = slices.DeleteFunc(p.subscribers, func(y *subscriber) bool { return y == x })
}

// recut forgets the positions of a cut into other blocks that nobody uses any
// more.
func recut(g map[place]*position, block events.Block) {
	for at, p := range g {
		if at.block.Size() != block.Size() && len(p.subscribers) == 0 {
			delete(g, at)
		}
	}
}

// Subscribe implements events.Subscriber. A group that subscribes with another
// Block.Count than before starts anew at the oldest event.
func (b *Broker) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("memevents: %w", err)
	}
	if s.Block.Whole() {
		s.Block = events.Block{} // 0 of 1 is the same
	}
	b.mu.Lock()
	g := b.groups[s.Group]
	if g == nil {
		g = make(map[place]*position)
		b.groups[s.Group] = g
	}
	recut(g, s.Block)
	self := &subscriber{}
	for _, t := range s.Topics {
		at := place{t, s.Block}
		if g[at] == nil {
			g[at] = newPosition(s.Block, s.Types, nil)
		}
		g[at].types = s.Types
		g[at].subscribers = append(g[at].subscribers, self)
		g[at].restart()
	}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, t := range s.Topics {
			g[place{t, s.Block}].leave(self)
		}
		b.signal()
	}()
	for ctx.Err() == nil {
		d, changed, wait, err := b.take(s, self)
		if err != nil {
			return err
		}
		if d != nil {
			deliver(ctx, d)
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return nil
}

// take returns the next delivery, or else what to wait for. A subscriber that was
// succeeded gets none: what it took would be overtaken at its successor.
func (b *Broker) take(s events.Subscription, self *subscriber) (_ *delivery, changed <-chan struct{}, wait time.Duration, _ error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, nil, 0, events.ErrClosed
	}
	now := time.Now()
	wait = b.ackWait
	for _, topic := range s.Topics {
		p, st := b.groups[s.Group][place{topic, s.Block}], b.stream(topic)
		if p.newest() != self {
			continue
		}
		at := -1
		for i, x := range p.pending {
			if d := x.due.Sub(now); d > 0 {
				wait = min(wait, d)
			} else if at < 0 || i < at {
				at = i
			}
		}
		if at < 0 {
			at = p.advance(st, s.InFlight())
		}
		if at < 0 {
			continue
		}
		x := p.pending[at]
		if x == nil {
			x = &entry{}
			p.pending[at] = x
		}
		x.attempt++
		x.due = now.Add(b.ackWait)
		return &delivery{b: b, p: p, losses: p.losses, index: at, event: st.events[at], attempt: x.attempt}, nil, 0, nil
	}
	return nil, b.changed, wait, nil
}

// advance moves past what needs no delivery and returns the next index that
// does, -1 where there is none.
func (p *position) advance(s *stream, limit int) int {
	for p.next < len(s.events) && len(p.pending) < limit {
		i := p.next
		p.next++
		if p.done[i] {
			delete(p.done, i)
			continue
		}
		if p.wants(s.events[i]) {
			return i
		}
	}
	return -1
}

type delivery struct {
	b       *Broker
	p       *position
	losses  int
	index   int
	event   events.Event
	attempt int
}

func (d *delivery) Event() events.Event { return d.event }
func (d *delivery) Err() error          { return nil }
func (d *delivery) Attempt() int        { return d.attempt }

func (d *delivery) Ack(context.Context) error {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if d.losses != d.p.losses {
		return nil // the index may be another event's by now
	}
	delete(d.p.pending, d.index)
	if len(d.p.pending) > 0 || d.index >= d.p.next {
		d.p.done[d.index] = true // a restart goes back below it
	} else {
		clear(d.p.done)
	}
	d.b.signal()
	return nil
}

func (d *delivery) Retry(_ context.Context, after time.Duration) error {
	d.set(after)
	return nil
}

func (d *delivery) InProgress(context.Context) error {
	d.set(d.b.ackWait)
	return nil
}

func (d *delivery) set(after time.Duration) {
	d.b.mu.Lock()
	defer d.b.mu.Unlock()
	if x := d.p.pending[d.index]; x != nil && d.losses == d.p.losses {
		x.due = time.Now().Add(after)
		d.b.signal()
	}
}
