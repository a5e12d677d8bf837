package resilience

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// RetryConfig sets up retrying.
type RetryConfig struct {
	// MaxAttempts counts the first attempt. Defaults to 3.
	MaxAttempts int
	// BaseDelay bounds the wait before the second attempt: the wait is uniform
	// between 0 and BaseDelay ("full jitter"), and the bound doubles with each
	// attempt. Defaults to 50 ms.
	BaseDelay time.Duration
	// MaxDelay bounds the bound. Defaults to 2 s.
	MaxDelay time.Duration
	// MaxRetryAfter caps the wait that a destination may ask for. Defaults to 10 s.
	MaxRetryAfter time.Duration
	// AssumeIdempotent says that every call may safely be repeated. Defaults to
	// false: calls say so one by one, see [Idempotent].
	AssumeIdempotent bool
	// Off turns retrying of a pipeline off.
	Off bool
}

func (c *RetryConfig) fill() error {
	c.MaxAttempts = orDefault(c.MaxAttempts, 3)
	c.BaseDelay = orDefault(c.BaseDelay, 50*time.Millisecond)
	c.MaxDelay = orDefault(c.MaxDelay, max(2*time.Second, c.BaseDelay))
	c.MaxRetryAfter = orDefault(c.MaxRetryAfter, 10*time.Second)
	if err := firstError(
		checkCount("Retry.MaxAttempts", c.MaxAttempts),
		checkDuration("Retry.BaseDelay", c.BaseDelay),
		checkDuration("Retry.MaxDelay", c.MaxDelay),
		checkDuration("Retry.MaxRetryAfter", c.MaxRetryAfter),
	); err != nil {
		return err
	}
	if c.MaxAttempts > maxAttemptOnWire {
		return fieldError("Retry.MaxAttempts", c.MaxAttempts, "at most 100")
	}
	if c.MaxDelay < c.BaseDelay {
		return fieldError("Retry.MaxDelay", c.MaxDelay, "at least BaseDelay")
	}
	return nil
}

// Retry is the retry policy. A Retry is safe for concurrent use.
type Retry struct {
	name     string
	cfg      RetryConfig
	budget   *Budget
	classify func(error) Class
	hooks    *Hooks
}

// NewRetry returns a retry policy that pays its retries from budget. A nil
// budget stands for one of its own with the defaults; a nil config means the
// defaults. To retry without a budget, which multiplies the load of an outage,
// configure one with a ratio of 1.
func NewRetry(budget *Budget, cfg *RetryConfig) (*Retry, error) {
	if budget == nil {
		var err error
		if budget, err = NewBudget(nil); err != nil {
			return nil, err
		}
	}
	var c RetryConfig
	if cfg != nil {
		c = *cfg
	}
	return newRetry("", c, budget, Classify, nil)
}

func newRetry(name string, c RetryConfig, budget *Budget, classify func(error) Class, hooks *Hooks) (*Retry, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	return &Retry{name: name, cfg: c, budget: budget, classify: classify, hooks: hooks}, nil
}

// Execute calls fn, and again while that may help, is safe, is in the budget
// and can be over before the deadline.
func (r *Retry) Execute(ctx context.Context, fn func(context.Context) error) error {
	err := fn(ctx)
	if err == nil {
		r.budget.Deposit(true)
		return nil
	}
	_, err = r.again(ctx, err, IsIdempotent(ctx), time.Time{}, fn)
	return err
}

// again is all that happens after a failed first attempt. deadline bounds the
// whole call; zero means that only ctx does. It returns the attempts made.
func (r *Retry) again(ctx context.Context, err error, idempotent bool, deadline time.Time, fn func(context.Context) error) (int, error) {
	class := r.classify(err)
	// What is a retry already, of a layer above, does not pay for further ones.
	if AttemptFrom(ctx) == 1 && !isCallerGone(ctx) && !IsLocalRejection(err) {
		r.budget.Deposit(class.Health == Healthy)
	}
	if d, ok := ctx.Deadline(); ok && (deadline.IsZero() || d.Before(deadline)) {
		deadline = d
	}
	idempotent = idempotent || r.cfg.AssumeIdempotent
	if retriesOff(ctx) {
		return 1, err
	}
	var wait *backoff.ExponentialBackOff
	for attempt := 1; ; attempt++ {
		if !class.Retry || (!idempotent && !class.NeverSent) {
			return attempt, err
		}
		// Before anything is made ready for a wait: in an outage most retries end here.
		if reason := r.over(ctx, attempt); reason != nil {
			return attempt, r.giveUp(ctx, attempt, err, reason)
		}
		if wait == nil { // Only now: it allocates, and most calls succeed.
			wait = r.newBackOff()
		}
		delay := max(wait.NextBackOff(), min(class.After, r.cfg.MaxRetryAfter))
		if reason := r.mayNot(delay, deadline); reason != nil {
			return attempt, r.giveUp(ctx, attempt, err, reason)
		}
		if r.hooks != nil && r.hooks.Retry != nil {
			r.hooks.Retry(ctx, r.name, attempt, delay, err)
		}
		if held, ok := err.(interface{ beforeWait() }); ok { //nolint:errorlint // the adapter's own, never wrapped
			held.beforeWait()
		}
		if reason := sleep(ctx, delay); reason != nil {
			return attempt, r.giveUp(ctx, attempt, err, reason)
		}
		next := fn(WithAttempt(ctx, attempt+1))
		if next == nil {
			return attempt + 1, nil
		}
		if IsLocalRejection(next) {
			// Nothing was sent: what is known is still the last attempt's error.
			return attempt, r.giveUp(ctx, attempt, err, next)
		}
		err, class = next, r.classify(next)
	}
}

// over says why no further attempt is worth preparing, nil if one is.
func (r *Retry) over(ctx context.Context, attempt int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if attempt >= r.cfg.MaxAttempts {
		return ErrAttemptsExhausted
	}
	if r.budget.Balance() < 1 {
		return ErrBudgetExhausted
	}
	return nil
}

// mayNot says why there is no further attempt, nil if there is one. The budget
// comes last, since a permit taken is spent.
func (r *Retry) mayNot(delay time.Duration, deadline time.Time) error {
	if !deadline.IsZero() && time.Until(deadline) <= delay {
		return context.DeadlineExceeded
	}
	if !r.budget.Withdraw() {
		return ErrBudgetExhausted
	}
	return nil
}

func (r *Retry) giveUp(ctx context.Context, attempts int, cause, reason error) error {
	if r.hooks != nil && r.hooks.GaveUp != nil {
		r.hooks.GaveUp(ctx, r.name, attempts, reason, cause)
	}
	return &RetryError{Attempts: attempts, Cause: cause, Reason: reason}
}

// newBackOff gives waits uniform in [0, bound] with a doubling bound: backoff's
// randomisation is interval ± factor·interval, hence half the interval and a
// factor of one.
func (r *Retry) newBackOff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(max(r.cfg.BaseDelay/2, 1)),
		backoff.WithMaxInterval(max(r.cfg.MaxDelay/2, 1)),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(1),
		backoff.WithMaxElapsedTime(0), // deadlines are ours
	)
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
