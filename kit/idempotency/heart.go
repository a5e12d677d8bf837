package idempotency

import (
	"context"
	"errors"
	"sync"
	"time"
)

// hearts renews the claims of a [Leases] while their work runs. They share one
// timer, since making one for each request would cost more than the request.
type hearts struct {
	renew func(ctx context.Context, c Claim) error
	every time.Duration // a claim is renewed when it is one to two of these old

	mu      sync.Mutex
	ticks   int
	timer   *time.Timer
	armed   bool
	running heart // ring; itself none
}

// heart is that of one claim.
type heart struct {
	claim Claim
	ctx   context.Context
	work  *lateContext // ended where the claim is lost

	since      int                // tick of the claim or its last renewal
	renewal    context.CancelFunc // of the one under way
	renewing   sync.WaitGroup
	prev, next *heart
}

func (h *hearts) start(b *heart) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running.next == nil {
		h.running.prev, h.running.next = &h.running, &h.running
	}
	b.since = h.ticks
	b.prev, b.next = h.running.prev, &h.running
	b.prev.next, b.next.prev = b, b
	if h.armed {
		return
	}
	h.armed = true
	if h.timer == nil {
		h.timer = time.AfterFunc(h.every, h.tick)
	} else {
		h.timer.Reset(h.every)
	}
}

// stop returns once no renewal of b is under way.
func (h *hearts) stop(b *heart) {
	h.mu.Lock()
	if b.next != nil {
		b.prev.next, b.next.prev = b.next, b.prev
		b.prev, b.next = nil, nil
	}
	renewal := b.renewal
	h.mu.Unlock()
	if renewal != nil {
		renewal()
		b.renewing.Wait()
	}
}

func (h *hearts) tick() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ticks++
	if h.running.next == &h.running {
		h.armed = false
		return
	}
	h.timer.Reset(h.every)
	for b := h.running.next; b != &h.running; b = b.next {
		if b.renewal != nil || h.ticks-b.since < 2 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 2*h.every)
		b.renewal = cancel
		b.renewing.Add(1)
		go h.beat(ctx, b)
	}
}

// beat renews one claim. A renewal that fails is tried again; the claim ends by
// itself otherwise.
func (h *hearts) beat(ctx context.Context, b *heart) {
	defer b.renewing.Done()
	err := h.renew(ctx, b.claim)
	if errors.Is(err, ErrLeaseLost) {
		b.work.end(ErrLeaseLost)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b.renewal()
	b.renewal = nil
	if err == nil {
		b.since = h.ticks
	}
}
