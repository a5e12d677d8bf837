package resilience

import (
	"context"
	"time"

	"golang.org/x/time/rate"
)

// LimiterConfig sets up a [Limiter] or [KeyedLimiter].
type LimiterConfig struct {
	// PerSecond is the sustained rate. Required, more than 0.
	PerSecond float64
	// Burst is how many calls may come at once. Defaults to PerSecond, at least 1.
	Burst int
}

func (c *LimiterConfig) fill() error {
	if err := checkCount("Limiter.Burst", c.Burst); err != nil {
		return err
	}
	if !(c.PerSecond > 0) || c.PerSecond > maxCount {
		return fieldError("Limiter.PerSecond", c.PerSecond, "a rate greater than 0, at most 1e9")
	}
	c.Burst = orDefault(c.Burst, max(int(c.PerSecond), 1))
	return nil
}

// Limiter is a token bucket. It refuses, it never waits. A Limiter is safe for
// concurrent use.
type Limiter struct {
	name string
	cfg  LimiterConfig
	l    *rate.Limiter
}

// NewLimiter returns a limiter. cfg is required. name appears in rejections.
func NewLimiter(name string, cfg *LimiterConfig) (*Limiter, error) {
	var c LimiterConfig
	if cfg != nil {
		c = *cfg
	}
	if err := c.fill(); err != nil {
		return nil, err
	}
	return &Limiter{name: name, cfg: c, l: rate.NewLimiter(rate.Limit(c.PerSecond), c.Burst)}, nil
}

// Execute calls fn if a token is left; otherwise the error is a [*Rejection]
// that is [ErrLimited].
func (l *Limiter) Execute(ctx context.Context, fn func(context.Context) error) error {
	if err := l.Allow(); err != nil {
		return err
	}
	return fn(ctx)
}

// Allow takes a token. Without one the error is a [*Rejection] that is
// [ErrLimited] and says when the next one comes.
func (l *Limiter) Allow() error {
	if l.l.Allow() {
		return nil
	}
	return &Rejection{Policy: "limiter", Name: l.name, After: l.next(), Err: ErrLimited}
}

// next is the time until a token is there.
func (l *Limiter) next() time.Duration {
	return l.refill(1 - l.l.Tokens())
}

// refill is the time in which so many tokens come, at most a year.
func (l *Limiter) refill(tokens float64) time.Duration {
	return time.Duration(min(max(tokens, 0)/l.cfg.PerSecond*float64(time.Second), float64(maxDuration)))
}

// Quota is the state of a limit, for response headers.
type Quota struct {
	Limit     int           // the burst: how many calls a window holds
	Remaining int           // calls left now
	Window    time.Duration // the time in which an empty bucket fills
	Reset     time.Duration // the time until the bucket is full
}

// Quota returns the state of the limit.
func (l *Limiter) Quota() Quota {
	left := max(l.l.Tokens(), 0)
	return Quota{
		Limit:     l.cfg.Burst,
		Remaining: int(left),
		Window:    l.refill(float64(l.cfg.Burst)),
		Reset:     l.refill(float64(l.cfg.Burst) - left),
	}
}
