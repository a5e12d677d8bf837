package resilience

import (
	"context"
	"sync"
	"time"
)

// slowWindow counts slow calls over the breaker's window. It is a lock of its
// own since it is read under gobreaker's.
type slowWindow struct {
	mu      sync.Mutex
	base    time.Time
	width   time.Duration
	buckets []slowBucket
}

type slowBucket struct {
	epoch          int64
	slow, slowOnly int // slowOnly: slow, but successful
}

func newSlowWindow(window time.Duration, buckets int) *slowWindow {
	return &slowWindow{base: time.Now(), width: window / time.Duration(buckets), buckets: make([]slowBucket, buckets)}
}

// add is called with the lock held.
func (s *slowWindow) add(successful bool) {
	epoch := int64(time.Since(s.base) / s.width)
	b := &s.buckets[epoch%int64(len(s.buckets))]
	if b.epoch != epoch {
		*b = slowBucket{epoch: epoch}
	}
	b.slow++
	if successful {
		b.slowOnly++
	}
}

func (s *slowWindow) counts() (slow, slowOnly int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	epoch := int64(time.Since(s.base) / s.width)
	for _, b := range s.buckets {
		if epoch-b.epoch < int64(len(s.buckets)) {
			slow += b.slow
			slowOnly += b.slowOnly
		}
	}
	return slow, slowOnly
}

func (s *slowWindow) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.buckets)
}

// judgeTimed judges the outcome of a call that took so long, and began in the
// generation w. A slow one is reported as a failure, so that gobreaker asks
// readyToTrip.
func (b *Breaker) judgeTimed(ctx context.Context, err error, took time.Duration, w uint64) Health {
	h := b.health(ctx, err)
	if h == Neutral || took < b.cfg.SlowCall {
		return h
	}
	b.slow.mu.Lock()
	defer b.slow.mu.Unlock()
	// What began before the window was cleared is none of its calls. Clearing comes
	// after the word has changed and wants the lock, so none slips through.
	if b.word.Load() == w {
		b.slow.add(h == Healthy)
	}
	return Unhealthy
}
