package resilience

import (
	"context"
	"time"
)

// DeadlineConfig bounds the time of a pipeline's calls.
type DeadlineConfig struct {
	// Total bounds the whole call with all attempts and waits, unless the
	// caller's deadline comes earlier. Defaults to 10 s.
	Total time.Duration
	// Attempt bounds each attempt. Defaults to 3 s. For HTTP it ends with the
	// response's header, for gRPC it bounds unary calls; streams live as long as
	// their context.
	Attempt time.Duration
	// Off turns both off: only the caller's deadline counts.
	Off bool
}

func (c *DeadlineConfig) fill() error {
	c.Total = orDefault(c.Total, 10*time.Second)
	c.Attempt = orDefault(c.Attempt, min(3*time.Second, c.Total))
	if err := firstError(
		checkDuration("Deadline.Total", c.Total),
		checkDuration("Deadline.Attempt", c.Attempt),
	); err != nil {
		return err
	}
	if c.Attempt > c.Total {
		return fieldError("Deadline.Attempt", c.Attempt, "at most Deadline.Total")
	}
	return nil
}

// NewDeadline returns a policy that bounds each call by d, which must be
// positive. Outside a retry it bounds the whole, inside it each attempt.
func NewDeadline(d time.Duration) (Policy, error) {
	if d <= 0 {
		return nil, fieldError("deadline", d, "a positive duration")
	}
	return PolicyFunc(func(ctx context.Context, fn func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		return fn(ctx)
	}), nil
}
