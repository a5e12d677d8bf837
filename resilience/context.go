package resilience

import (
	"context"
	"strconv"
)

type (
	criticalityKey struct{}
	attemptKey     struct{}
	idempotentKey  struct{}
	noRetryKey     struct{}
)

// Criticality says how much a request matters when not all can be served. The
// classes are those of the SRE book, chapter 21.
type Criticality uint8

// The classes, from the first to be dropped to the last.
const (
	// Sheddable may be unavailable often: batch work.
	Sheddable Criticality = iota + 1
	// SheddablePlus may be unavailable now and then: work that is tried again later.
	SheddablePlus
	// Critical is what a user waits for. It is the default.
	Critical
	// CriticalPlus is what must not be lost: a saga past its pivot.
	CriticalPlus
)

// String returns the name used on the wire, such as "CRITICAL_PLUS".
func (c Criticality) String() string {
	switch c {
	case Sheddable:
		return "SHEDDABLE"
	case SheddablePlus:
		return "SHEDDABLE_PLUS"
	case CriticalPlus:
		return "CRITICAL_PLUS"
	default:
		return "CRITICAL"
	}
}

// ParseCriticality reads the name used on the wire. ok is false for anything
// else; the class is then [Critical].
func ParseCriticality(s string) (c Criticality, ok bool) {
	switch s {
	case "SHEDDABLE":
		return Sheddable, true
	case "SHEDDABLE_PLUS":
		return SheddablePlus, true
	case "CRITICAL":
		return Critical, true
	case "CRITICAL_PLUS":
		return CriticalPlus, true
	}
	return Critical, false
}

// WithCriticality sets the criticality of the work done under ctx. Clients
// propagate it, servers shed by it.
func WithCriticality(ctx context.Context, c Criticality) context.Context {
	return context.WithValue(ctx, criticalityKey{}, c)
}

// CriticalityFrom returns the criticality, [Critical] if none was set.
func CriticalityFrom(ctx context.Context) Criticality {
	if c, ok := ctx.Value(criticalityKey{}).(Criticality); ok && c >= Sheddable && c <= CriticalPlus {
		return c
	}
	return Critical
}

// HasCriticality reports whether a criticality was set.
func HasCriticality(ctx context.Context) bool {
	_, ok := ctx.Value(criticalityKey{}).(Criticality)
	return ok
}

// Idempotent marks the calls made under ctx as safe to repeat, which allows
// retries and hedges.
func Idempotent(ctx context.Context) context.Context {
	return context.WithValue(ctx, idempotentKey{}, true)
}

// IsIdempotent reports whether ctx is marked by [Idempotent].
func IsIdempotent(ctx context.Context) bool {
	v, _ := ctx.Value(idempotentKey{}).(bool)
	return v
}

// NoRetry turns retries and hedges off for the calls made under ctx: for a
// caller that does its own retrying, as a saga does.
func NoRetry(ctx context.Context) context.Context {
	return context.WithValue(ctx, noRetryKey{}, true)
}

// WithAttempt records that the work under ctx is the n-th attempt of somebody's
// call. From the second attempt on, calls below are not retried: retries happen
// at one level of the call tree, so that they do not multiply. Servers set it
// from the wire; values below 2 change nothing.
func WithAttempt(ctx context.Context, n int) context.Context {
	if n < 2 {
		return ctx
	}
	return context.WithValue(ctx, attemptKey{}, n)
}

// AttemptFrom returns the attempt number, 1 if none was set.
func AttemptFrom(ctx context.Context) int {
	if n, ok := ctx.Value(attemptKey{}).(int); ok {
		return n
	}
	return 1
}

// maxAttemptOnWire bounds what is believed from a header: more is forged.
const maxAttemptOnWire = 100

// ParseAttempt reads an attempt number from a header. ok is false for what is
// not a plausible number (1 to 100).
func ParseAttempt(s string) (n int, ok bool) {
	if len(s) > 3 {
		return 1, false
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > maxAttemptOnWire {
		return 1, false
	}
	return n, true
}

func retriesOff(ctx context.Context) bool {
	if v, _ := ctx.Value(noRetryKey{}).(bool); v {
		return true
	}
	return AttemptFrom(ctx) > 1
}
