package resilience

import (
	"context"
	"errors"
	"net"
	"time"
)

// Health is what an outcome says about the dependency.
type Health uint8

// The three verdicts.
const (
	// Unhealthy: it failed. Counts as a failure.
	Unhealthy Health = iota
	// Healthy: it answered, be it with a refusal. Counts as a success.
	Healthy
	// Neutral: nothing can be said. Does not count.
	Neutral
)

// String returns "unhealthy", "healthy" or "neutral".
func (h Health) String() string {
	switch h {
	case Healthy:
		return "healthy"
	case Neutral:
		return "neutral"
	default:
		return "unhealthy"
	}
}

// Class is what an error means to the policies.
type Class struct {
	// Health is the verdict on the dependency.
	Health Health
	// Retry says that another attempt may succeed. Whether it is made depends on
	// idempotency, budget and time.
	Retry bool
	// NeverSent says that the request certainly did not reach the dependency, so
	// that a retry is safe for any call.
	NeverSent bool
	// After is how long the dependency asked to wait; 0 if it did not.
	After time.Duration
	// Refused says that a dependency that is up turned the request down to
	// protect itself. A breaker does not count it: a server under ten times its
	// load refuses nine of ten and works at full capacity, and a breaker that
	// opened would leave it idle and refuse the critical with the rest. Throttle
	// and budget go by Health.
	Refused bool
}

// Classify is the default classification.
//
//   - an error with a method `Class() Class` speaks for itself;
//   - a [*Rejection] is neutral and not retried: the reason for it will still
//     be there a moment later;
//   - a [*RetryError] is a failure and not retried: somebody below already did;
//   - context.Canceled is neutral; context.DeadlineExceeded is a failure,
//     retried if the caller's deadline leaves time;
//   - an error of dialling is a failure of a request never sent;
//   - an error with a method `RetryAfter() time.Duration` is a failure that says
//     when to retry;
//   - anything else is a failure that may be retried.
func Classify(err error) Class {
	if err == nil {
		return Class{Health: Healthy}
	}
	if isLeaf(err) {
		return classifyLeaf(err)
	}
	var re *RetryError
	if errors.As(err, &re) {
		c := Classify(re.Cause)
		return Class{Health: c.Health, Refused: c.Refused}
	}
	var own interface{ Class() Class }
	if errors.As(err, &own) {
		return own.Class()
	}
	var rej *Rejection
	if errors.As(err, &rej) {
		return Class{Health: Neutral}
	}
	if errors.Is(err, context.Canceled) {
		return Class{Health: Neutral}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return Class{Health: Unhealthy, Retry: true, NeverSent: true}
	}
	c := Class{Health: Unhealthy, Retry: true}
	var after interface{ RetryAfter() time.Duration }
	if errors.As(err, &after) {
		c.After = max(after.RetryAfter(), 0)
	}
	return c
}

// isLeaf reports whether err wraps nothing, so that what it is can be asked of it
// alone. In an outage every call asks, and walking with errors.As costs more
// than the call did.
func isLeaf(err error) bool {
	switch err.(type) { //nolint:errorlint // it asks about err itself
	case interface{ Unwrap() error }, interface{ Unwrap() []error }, interface{ Is(error) bool }, interface{ As(any) bool }:
		return false
	}
	return true
}

func classifyLeaf(err error) Class {
	switch e := err.(type) { //nolint:errorlint // it wraps nothing
	case interface{ Class() Class }:
		return e.Class()
	case interface{ RetryAfter() time.Duration }:
		return Class{Health: Unhealthy, Retry: true, After: max(e.RetryAfter(), 0)}
	}
	if err == context.Canceled { //nolint:errorlint // it wraps nothing
		return Class{Health: Neutral}
	}
	return Class{Health: Unhealthy, Retry: true}
}
