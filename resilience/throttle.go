package resilience

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// ThrottleConfig sets up a [Throttle].
type ThrottleConfig struct {
	// K is how many calls are sent per call accepted. Defaults to 2; smaller is
	// stricter. At least 1.
	K float64
	// Window is how far back calls count. Defaults to 2 min.
	Window time.Duration
	// Rand gives numbers in [0, 1). Defaults to math/rand/v2.Float64.
	Rand func() float64
	// On turns the throttle of a pipeline on; a breaker usually does.
	On bool
}

func (c *ThrottleConfig) fill() error {
	c.K = orDefault(c.K, 2)
	c.Window = orDefault(c.Window, 2*time.Minute)
	if c.Rand == nil {
		c.Rand = rand.Float64
	}
	if !(c.K >= 1) || c.K > 1000 {
		return fieldError("Throttle.K", c.K, "a number between 1 and 1000")
	}
	if c.Window < time.Second || c.Window > maxDuration {
		return fieldError("Throttle.Window", c.Window, "a duration between 1s and a year")
	}
	return nil
}

// Throttle drops calls in this process with a probability that follows the
// share the destination has been refusing:
//
//	max(0, (requests − K·accepts) / (requests + 1))
//
// It is the client-side adaptive throttling of the SRE book, chapter 21. Unlike
// a breaker it lets a share of the calls pass at any time. A Throttle is safe
// for concurrent use.
type Throttle struct {
	name     string
	cfg      ThrottleConfig
	classify func(error) Class
	rejected *Rejection

	mu    sync.Mutex
	base  time.Time
	slots [throttleSlots]throttleSlot
}

const throttleSlots = 12

type throttleSlot struct {
	epoch             int64
	requests, accepts float64
}

// NewThrottle returns a throttle; a nil config means the defaults.
func NewThrottle(name string, cfg *ThrottleConfig) (*Throttle, error) {
	var c ThrottleConfig
	if cfg != nil {
		c = *cfg
	}
	return newThrottle(name, c, Classify)
}

func newThrottle(name string, c ThrottleConfig, classify func(error) Class) (*Throttle, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	return &Throttle{
		name: name, cfg: c, classify: classify, base: time.Now(),
		rejected: &Rejection{Policy: "throttle", Name: name, Err: ErrThrottled},
	}, nil
}

// Execute calls fn unless the throttle drops the call; the error is then a
// [*Rejection] that is [ErrThrottled].
func (t *Throttle) Execute(ctx context.Context, fn func(context.Context) error) error {
	if err := t.admit(); err != nil {
		return err
	}
	err := fn(ctx)
	t.done(ctx, err)
	return err
}

func (t *Throttle) admit() error {
	r := t.cfg.Rand() // caller's code: not under the lock
	t.mu.Lock()
	defer t.mu.Unlock()
	requests, accepts := t.sum()
	// A dropped call counts as a request: the more is dropped, the more the
	// throttle insists, as the book has it.
	t.slot().requests++
	if r < (requests-t.cfg.K*accepts)/(requests+1) {
		return t.rejected
	}
	return nil
}

func (t *Throttle) done(ctx context.Context, err error) {
	neutral, accepted := false, err == nil
	if err != nil {
		if isCallerGone(ctx) || IsLocalRejection(err) {
			neutral = true
		} else {
			h := t.classify(err).Health
			neutral, accepted = h == Neutral, h == Healthy
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case neutral: // as if it had not been
		s := t.slot()
		s.requests = max(s.requests-1, 0)
	case accepted:
		t.slot().accepts++
	}
}

func (t *Throttle) epoch() int64 {
	return int64(time.Since(t.base) / (t.cfg.Window / throttleSlots))
}

func (t *Throttle) slot() *throttleSlot {
	epoch := t.epoch()
	s := &t.slots[epoch%throttleSlots]
	if s.epoch != epoch {
		*s = throttleSlot{epoch: epoch}
	}
	return s
}

func (t *Throttle) sum() (requests, accepts float64) {
	epoch := t.epoch()
	for _, s := range t.slots {
		if epoch-s.epoch < throttleSlots {
			requests += s.requests
			accepts += s.accepts
		}
	}
	return requests, accepts
}
