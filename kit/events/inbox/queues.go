package inbox

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// queues keeps the deliveries in order of their keys: one queue for each key
// that has any, of which one worker at a time has the head.
type queues struct {
	gate gate

	mu     sync.Mutex
	wake   *sync.Cond // of workers
	idle   *sync.Cond // of those who wait until nothing of a block is worked on
	closed bool
	blocks map[events.Block]bool // those that this replica holds
	byKey  map[route]*queue      // topic and key
	ready  []*queue
	timers map[*queue]*time.Timer
}

// queue is the deliveries of one key.
type queue struct {
	key   route
	block events.Block
	items []*item
	job   *job // has the first of items; nil where nobody has
	gap   bool // waits for an event that is missing before its head
}

type item struct {
	delivery events.Delivery
	event    events.Event
	bad      error // why it does not decode
	tries    int
	alone    bool      // not to be handled in one transaction with others
	held     time.Time // since when an event before it is missing
}

// job is what a worker handles in one transaction.
type job struct {
	parts  []part
	ctx    context.Context
	cancel context.CancelFunc
}

// part is the events of one key in a job.
type part struct {
	queue *queue
	items []*item
}

func (j *job) size() int {
	n := 0
	for _, p := range j.parts {
		n += len(p.items)
	}
	return n
}

func (j *job) each(f func(*item)) {
	for _, p := range j.parts {
		for _, it := range p.items {
			f(it)
		}
	}
}

func newQueues() *queues {
	q := &queues{blocks: make(map[events.Block]bool), byKey: make(map[route]*queue), timers: make(map[*queue]*time.Timer)}
	q.wake, q.idle = sync.NewCond(&q.mu), sync.NewCond(&q.mu)
	return q
}

// open lets deliveries of a block in.
func (q *queues) open(b events.Block) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.blocks[b] = true
}

// holds tells whether this replica holds the partition of a key.
func (q *queues) holds(key string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for b := range q.blocks {
		if b.Contains(events.Partition(key)) {
			return true
		}
	}
	return false
}

// add takes a delivery; it never blocks. The broker bounds their number.
func (q *queues) add(b events.Block, d events.Delivery) {
	it := &item{delivery: d, event: d.Event(), bad: d.Err()}
	k := route{it.event.Topic, "k" + it.event.Key}
	if it.event.Key == "" {
		k.typ = "i" + it.event.ID // ordered with nothing but its own redelivery
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.blocks[b] {
		return // it is delivered again to the next
	}
	x := q.byKey[k]
	if x == nil {
		x = &queue{key: k, block: b}
		q.byKey[k] = x
		q.push(x)
	}
	x.items = append(x.items, it)
	if x.gap { // this may be what is missing
		x.gap = false
		x.inOrder()
		q.push(x)
	}
}

// inOrder sorts what the head's source sent by its number, and leaves the events
// of other sources where they are.
func (x *queue) inOrder() {
	var at []int
	var same []*item
	for i, it := range x.items {
		if it.event.Source == x.items[0].event.Source {
			at, same = append(at, i), append(same, it)
		}
	}
	slices.SortStableFunc(same, func(a, b *item) int { return cmp.Compare(a.event.KeySeq, b.event.KeySeq) })
	for i, it := range same {
		x.items[at[i]] = it
	}
}

func (q *queues) push(x *queue) {
	if t := q.timers[x]; t != nil {
		t.Stop()
		delete(q.timers, x)
	}
	q.ready = append(q.ready, x)
	q.wake.Signal()
}

// next waits for queues whose heads may be worked on and takes up to limit events
// of them; nil once closed. The caller gives each part back with done or later.
func (q *queues) next(work context.Context, limit int) *job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && !q.closed {
		q.wake.Wait()
	}
	if q.closed {
		return nil
	}
	j := &job{}
	j.ctx, j.cancel = context.WithCancel(work)
	left := q.ready[:0:0]
	for i, x := range q.ready {
		room := limit - j.size()
		if room <= 0 {
			left = append(left, q.ready[i:]...)
			break
		}
		n := x.together(room)
		if len(j.parts) > 0 && n == 0 {
			left = append(left, x)
			continue
		}
		j.parts = append(j.parts, part{x, slices.Clone(x.items[:max(n, 1)])})
		x.job = j
		if n == 0 { // one that is handled alone
			left = append(left, q.ready[i+1:]...)
			break
		}
	}
	q.ready = left
	return j
}

// together counts the events at the head that may share a transaction.
func (x *queue) together(room int) int {
	n := 0
	for n < len(x.items) && n < room && !x.items[n].alone && x.items[n].bad == nil {
		n++
	}
	return n
}

// done removes what was handled from its queue.
func (q *queues) done(p part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := p.queue
	x.job = nil
	clear(x.items[:len(p.items)])
	x.items = x.items[len(p.items):]
	if len(x.items) == 0 || !q.blocks[x.block] {
		q.forget(x)
		return
	}
	q.push(x)
}

// later makes the queue ready again after a while; no worker waits for it.
func (q *queues) later(p part, after time.Duration) { q.back(p, after, false) }

// hold is later for a head before which an event is missing: its arrival makes
// the queue ready at once.
func (q *queues) hold(p part, after time.Duration) { q.back(p, after, true) }

func (q *queues) back(p part, after time.Duration, gap bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x := p.queue
	x.job = nil
	if !q.blocks[x.block] {
		q.forget(x)
		return
	}
	if gap {
		head := x.items[0]
		if x.inOrder(); x.items[0] != head {
			after = 0 // what is missing had come already
		}
	}
	if after <= 0 {
		q.push(x)
		return
	}
	x.gap = gap
	q.timers[x] = time.AfterFunc(after, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.timers[x] == nil {
			return
		}
		x.gap = false
		q.push(x)
	})
}

// forget drops a queue that nobody works on.
func (q *queues) forget(x *queue) {
	if q.byKey[x.key] == x {
		delete(q.byKey, x.key)
	}
	if t := q.timers[x]; t != nil {
		t.Stop()
		delete(q.timers, x)
	}
	q.idle.Broadcast()
}

// release gives a block up: it forgets what is queued, waits until nothing of it
// is worked on, and ends what is after the time given.
func (q *queues) release(b events.Block, drain time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.blocks, b)
	q.ready = slices.DeleteFunc(q.ready, func(x *queue) bool { return x.block == b })
	for _, x := range q.byKey {
		if x.block == b && x.job == nil {
			q.forget(x)
		}
	}
	t := time.AfterFunc(drain, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.blocks[b] {
			return
		}
		for _, x := range q.byKey {
			if x.block == b && x.job != nil {
				x.job.cancel()
			}
		}
	})
	defer t.Stop()
	for q.busy(b) {
		q.idle.Wait()
	}
}

func (q *queues) busy(b events.Block) bool {
	for _, x := range q.byKey {
		if x.block == b && x.job != nil {
			return true
		}
	}
	return false
}

// held lists every delivery that is neither acknowledged nor given up.
func (q *queues) held() []events.Delivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out []events.Delivery
	for _, x := range q.byKey {
		for _, it := range x.items {
			out = append(out, it.delivery)
		}
	}
	return out
}

// close releases the workers.
func (q *queues) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, t := range q.timers {
		t.Stop()
	}
	clear(q.timers)
	q.wake.Broadcast()
}

// gate stops all workers while something that they all need is not there.
type gate struct {
	mu       sync.Mutex
	failures int
	until    time.Time
}

// shut closes the gate for the next wait of the series.
func (g *gate) shut(backoff func(int) time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); !now.Before(g.until) { // else a worker that started earlier failed too
		g.failures++
		g.until = now.Add(backoff(g.failures))
	}
}

// open starts the series anew.
func (g *gate) open() {
	g.mu.Lock()
	g.failures, g.until = 0, time.Time{}
	g.mu.Unlock()
}

// pass waits until the gate is open; false where ctx ended first.
func (g *gate) pass(ctx context.Context) bool {
	for ctx.Err() == nil {
		g.mu.Lock()
		wait := time.Until(g.until)
		g.mu.Unlock()
		if wait <= 0 {
			return true
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
	return false
}
