package resilience

import (
	"container/list"
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// BulkheadConfig sets up a [Bulkhead].
type BulkheadConfig struct {
	// MaxConcurrent is how many calls run at once. Defaults to 256.
	MaxConcurrent int
	// MaxQueue is how many calls may wait for a permit. Defaults to 0: none waits.
	MaxQueue int
	// MaxWait bounds the wait. Defaults to 100 ms. Without a queue it has no effect.
	MaxWait time.Duration
	// Off turns the bulkhead of a pipeline off.
	Off bool
}

func (c *BulkheadConfig) fill() error {
	c.MaxConcurrent = orDefault(c.MaxConcurrent, 256)
	c.MaxWait = orDefault(c.MaxWait, 100*time.Millisecond)
	return firstError(
		checkCount("Bulkhead.MaxConcurrent", c.MaxConcurrent),
		checkCount("Bulkhead.MaxQueue", c.MaxQueue),
		checkDuration("Bulkhead.MaxWait", c.MaxWait),
	)
}

// Bulkhead limits how many calls run at once, with a bounded first-come
// first-served queue. A permit comes back when the call returns, panics or
// ends its goroutine. A Bulkhead is safe for concurrent use.
type Bulkhead struct {
	name string
	cfg  BulkheadConfig
	full *Rejection

	inFlight atomic.Int64
	waiting  atomic.Int64 // length of queue; read without mu by release

	mu    sync.Mutex
	queue list.List // of *waiter
}

type waiter struct {
	ready   chan struct{}
	granted bool // under mu
}

// NewBulkhead returns a bulkhead; a nil config means the defaults. name appears
// in rejections.
func NewBulkhead(name string, cfg *BulkheadConfig) (*Bulkhead, error) {
	var c BulkheadConfig
	if cfg != nil {
		c = *cfg
	}
	if err := c.fill(); err != nil {
		return nil, err
	}
	return &Bulkhead{
		name: name, cfg: c,
		full: &Rejection{Policy: "bulkhead", Name: name, Err: ErrBulkheadFull},
	}, nil
}

// Execute calls fn once it has a permit. Without one in time it returns a
// [*Rejection] that is [ErrBulkheadFull], or the context's error.
func (b *Bulkhead) Execute(ctx context.Context, fn func(context.Context) error) error {
	if err := b.Acquire(ctx); err != nil {
		return err
	}
	defer b.Release()
	return fn(ctx)
}

// Acquire takes a permit, which [Bulkhead.Release] must give back: for calls
// that outlive a function, as a stream does.
func (b *Bulkhead) Acquire(ctx context.Context) error {
	// Those who wait go first.
	if b.waiting.Load() == 0 && b.take() {
		return nil
	}
	return b.acquireSlow(ctx)
}

// Release gives a permit back.
func (b *Bulkhead) Release() {
	b.inFlight.Add(-1)
	if b.waiting.Load() > 0 {
		b.grant()
	}
}

// InFlight returns how many permits are taken.
func (b *Bulkhead) InFlight() int { return int(b.inFlight.Load()) }

// Waiting returns how many calls wait for a permit.
func (b *Bulkhead) Waiting() int { return int(b.waiting.Load()) }

func (b *Bulkhead) take() bool {
	for {
		n := b.inFlight.Load()
		if n >= int64(b.cfg.MaxConcurrent) {
			return false
		}
		if b.inFlight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (b *Bulkhead) acquireSlow(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	if b.queue.Len() >= b.cfg.MaxQueue {
		// No queue, or a full one. Without waiters a permit may be free again.
		ok := b.queue.Len() == 0 && b.take()
		b.mu.Unlock()
		if ok {
			return nil
		}
		return b.full
	}
	w := &waiter{ready: make(chan struct{})}
	at := b.queue.PushBack(w)
	b.waiting.Add(1)
	b.mu.Unlock()
	// A release between the failed take and the waiting count above has seen
	// nobody waiting. Look once more, now that releases see us.
	b.grant()

	t := time.NewTimer(b.cfg.MaxWait)
	defer t.Stop()
	var err error
	select {
	case <-w.ready:
		return nil
	case <-t.C:
		err = b.full
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.mu.Lock()
	granted := w.granted
	if !granted {
		b.queue.Remove(at)
		b.waiting.Add(-1)
	}
	b.mu.Unlock()
	if !granted {
		return err
	}
	// The permit came in the same moment.
	if ctx.Err() != nil {
		b.Release()
		return err
	}
	return nil
}

// grant hands free permits to those who wait, in order.
func (b *Bulkhead) grant() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.queue.Len() > 0 && b.take() {
		w := b.queue.Remove(b.queue.Front()).(*waiter)
		b.waiting.Add(-1)
		w.granted = true
		close(w.ready)
	}
}
