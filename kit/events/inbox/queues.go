package inbox

import (
	"context"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// queues keeps the deliveries in order of their keys: one queue for each key
// that has any, and of each queue only the head is worked on.
type queues struct {
	gate gate

	mu     sync.Mutex
	wake   *sync.Cond
	closed bool
	byKey  map[route]*queue // topic and key
	ready  []*queue
	timers map[*queue]*time.Timer
}

// queue is the deliveries of one key.
type queue struct {
	key   route
	items []*item
}

type item struct {
	delivery events.Delivery
	tries    int
}

func newQueues() *queues {
	q := &queues{byKey: make(map[route]*queue), timers: make(map[*queue]*time.Timer)}
	q.wake = sync.NewCond(&q.mu)
	return q
}

// add takes a delivery; it never blocks. The broker bounds their number.
func (q *queues) add(d events.Delivery) {
	e := d.Event()
	k := route{e.Topic, "k" + e.Key}
	if e.Key == "" {
		k.typ = "i" + e.ID // ordered with nothing but its own redelivery
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return // it is delivered again to the next
	}
	x := q.byKey[k]
	if x == nil {
		x = &queue{key: k}
		q.byKey[k] = x
		q.push(x)
	}
	x.items = append(x.items, &item{delivery: d})
}

func (q *queues) push(x *queue) {
	q.ready = append(q.ready, x)
	q.wake.Signal()
}

// next waits for a queue whose head may be worked on; nil once closed. The
// caller gives it back with done or later.
func (q *queues) next() *queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.ready) == 0 && !q.closed {
		q.wake.Wait()
	}
	if q.closed {
		return nil
	}
	x := q.ready[0]
	q.ready = q.ready[1:]
	return x
}

func (q *queues) head(x *queue) *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	return x.items[0]
}

// done removes the head.
func (q *queues) done(x *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	x.items[0] = nil
	if x.items = x.items[1:]; len(x.items) == 0 {
		delete(q.byKey, x.key)
		return
	}
	q.push(x)
}

// later makes the queue ready again after a while; no worker waits for it.
func (q *queues) later(x *queue, after time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if after <= 0 {
		q.push(x)
		return
	}
	q.timers[x] = time.AfterFunc(after, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.timers, x)
		if !q.closed {
			q.push(x)
		}
	})
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

// close releases the workers and forgets what is queued.
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
