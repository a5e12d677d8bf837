package resilience

import (
	"context"
	"slices"
	"time"
)

// Hooks observe a pipeline. Each function may be nil. They run on the caller's
// goroutine and outside every lock; a slow hook slows its caller only.
type Hooks struct {
	// Done is called at the end of each call with the number of attempts made
	// and the error returned to the caller.
	Done func(ctx context.Context, name string, attempts int, err error)
	// Retry is called before the wait for another attempt. attempt is the number
	// of the one that failed with cause, delay the wait.
	Retry func(ctx context.Context, name string, attempt int, delay time.Duration, cause error)
	// GaveUp is called when a failure that could have been retried was not:
	// reason is ErrBudgetExhausted, ErrAttemptsExhausted, context.DeadlineExceeded, …
	GaveUp func(ctx context.Context, name string, attempts int, reason, cause error)
	// Rejected is called when a policy of this process refused an attempt.
	Rejected func(ctx context.Context, name string, r *Rejection)
	// BreakerState is called after a breaker has changed its state, in order.
	BreakerState func(name string, from, to BreakerState)
	// Hedged is called when another attempt starts beside a slow one.
	Hedged func(ctx context.Context, name string, attempt int)
}

// JoinHooks returns hooks that call those given, in order. nil ones are left out;
// without any the result is nil.
func JoinHooks(all ...*Hooks) *Hooks {
	all = slices.DeleteFunc(slices.Clone(all), func(h *Hooks) bool { return h == nil })
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return &Hooks{
		Done: func(ctx context.Context, name string, attempts int, err error) {
			for _, h := range all {
				if h.Done != nil {
					h.Done(ctx, name, attempts, err)
				}
			}
		},
		Retry: func(ctx context.Context, name string, attempt int, delay time.Duration, cause error) {
			for _, h := range all {
				if h.Retry != nil {
					h.Retry(ctx, name, attempt, delay, cause)
				}
			}
		},
		GaveUp: func(ctx context.Context, name string, attempts int, reason, cause error) {
			for _, h := range all {
				if h.GaveUp != nil {
					h.GaveUp(ctx, name, attempts, reason, cause)
				}
			}
		},
		Rejected: func(ctx context.Context, name string, r *Rejection) {
			for _, h := range all {
				h.rejected(ctx, name, r)
			}
		},
		BreakerState: func(name string, from, to BreakerState) {
			for _, h := range all {
				if h.BreakerState != nil {
					h.BreakerState(name, from, to)
				}
			}
		},
		Hedged: func(ctx context.Context, name string, attempt int) {
			for _, h := range all {
				if h.Hedged != nil {
					h.Hedged(ctx, name, attempt)
				}
			}
		},
	}
}

func (h *Hooks) rejected(ctx context.Context, name string, err error) {
	if h == nil || h.Rejected == nil {
		return
	}
	if r, ok := err.(*Rejection); ok { //nolint:errorlint // a fresh rejection is never wrapped.
		h.Rejected(ctx, name, r)
	}
}
