package resilience

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Sentinels, to be tested with errors.Is.
var (
	// ErrBudgetExhausted ends retrying: the destination's retry budget is spent.
	// It comes joined with the cause, in a [*RetryError].
	ErrBudgetExhausted = errors.New("retry budget exhausted")
	// ErrAttemptsExhausted ends retrying: the call was tried as often as allowed.
	ErrAttemptsExhausted = errors.New("retry attempts exhausted")
	// ErrOpen means that the breaker is open, or half-open with all probes out.
	ErrOpen = errors.New("circuit breaker open")
	// ErrBulkheadFull means that all permits are taken and the queue is full,
	// or that the wait for a permit took too long.
	ErrBulkheadFull = errors.New("bulkhead full")
	// ErrLimited means that a rate limit was reached.
	ErrLimited = errors.New("rate limit reached")
	// ErrThrottled means that the client-side adaptive throttle dropped the call,
	// since the destination has been refusing most of them.
	ErrThrottled = errors.New("throttled: destination is refusing calls")
	// ErrShed means that this server is overloaded and dropped the request
	// before doing any work for it.
	ErrShed = errors.New("overloaded: request shed")
)

// Rejection is a call refused by a policy of this process. The call was not
// made. It matches its sentinel with errors.Is.
type Rejection struct {
	// Policy is the kind of policy: "breaker", "bulkhead", "limiter", "throttle", "shedder".
	Policy string
	// Name is the name given to the policy or pipeline: usually the destination.
	Name string
	// After is when a new try may succeed; 0 if unknown.
	After time.Duration
	// Err is the sentinel.
	Err error
}

// Error says who refused and why.
func (r *Rejection) Error() string {
	if r.Name == "" {
		return r.Err.Error()
	}
	return r.Name + ": " + r.Err.Error()
}

// Unwrap returns the sentinel.
func (r *Rejection) Unwrap() error { return r.Err }

// RetryAfter returns After, for adapters that map it to a header.
func (r *Rejection) RetryAfter() time.Duration { return r.After }

// RetryError ends a call that was, or would have been, retried. errors.Is and
// errors.As see both Cause and Reason.
type RetryError struct {
	// Attempts is how many attempts were made.
	Attempts int
	// Cause is the error of the last attempt that was made.
	Cause error
	// Reason says why there was no further attempt: ErrBudgetExhausted,
	// ErrAttemptsExhausted, context.DeadlineExceeded, context.Canceled or a
	// [*Rejection].
	Reason error
}

// Error gives cause and reason on one line.
func (e *RetryError) Error() string {
	return fmt.Sprintf("%v (gave up after attempt %d: %v)", e.Cause, e.Attempts, e.Reason)
}

// Unwrap returns both errors.
func (e *RetryError) Unwrap() []error { return []error{e.Cause, e.Reason} }

// Timeout reports whether time ran out: in the last attempt, or for a further
// one. It is what [net/url.Error.Timeout] of an http.Client's error tells.
func (e *RetryError) Timeout() bool { return isTimeout(e.Cause) || isTimeout(e.Reason) }

func isTimeout(err error) bool {
	t, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err)
	return ok && t.Timeout()
}

// IsLocalRejection reports whether err is a rejection by a policy of this
// process and nothing was sent: the attempt did not happen, owes no undo and
// counts for nothing. It is false for a budget that ran out after an attempt,
// and for an open breaker met on a second attempt.
func IsLocalRejection(err error) bool {
	for err != nil {
		switch e := err.(type) { //nolint:errorlint // it walks the chain itself, and only along the first cause
		case *Rejection:
			return true
		case *RetryError:
			err = e.Cause
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		default:
			return false
		}
	}
	return false
}

// Permanent marks an error as the dependency's definite answer: it is not
// retried, and a breaker takes it as a sign of health. Permanent(nil) is nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &marked{err: err, class: Class{Health: Healthy}}
}

// NeverSent marks an error as proof that the request never left this process,
// or was refused before any work: it may be retried even if the call is not
// idempotent. NeverSent(nil) is nil.
func NeverSent(err error) error {
	if err == nil {
		return nil
	}
	return &marked{err: err, class: Class{Health: Unhealthy, Retry: true, NeverSent: true}}
}

// RetryAfter marks an error as retryable, but not before d has passed. The
// wait is capped by RetryConfig.MaxRetryAfter. RetryAfter(nil, d) is nil.
func RetryAfter(err error, d time.Duration) error {
	if err == nil {
		return nil
	}
	return &marked{err: err, class: Class{Health: Unhealthy, Retry: true, After: max(d, 0)}}
}

// marked is an error that knows its class.
type marked struct {
	err   error
	class Class
}

func (m *marked) Error() string { return m.err.Error() }
func (m *marked) Unwrap() error { return m.err }
func (m *marked) Class() Class  { return m.class }
func (m *marked) Timeout() bool { return isTimeout(m.err) }

// isCallerGone reports whether the caller cancelled. Whatever the call returned
// then says nothing about the dependency.
func isCallerGone(ctx context.Context) bool {
	return ctx.Err() == context.Canceled //nolint:errorlint // Err is documented to return this very value.
}
