package resilience

import (
	"context"
	"sync"
)

// Policy decides whether, when and how often a call is made.
//
// Execute calls fn zero or more times and returns nil if a call succeeded.
// Unless the policy hedges, calls of fn never overlap. The context that fn gets
// must be used for the call; it is done once Execute returns.
type Policy interface {
	Execute(ctx context.Context, fn func(context.Context) error) error
}

// PolicyFunc is a function as a [Policy].
type PolicyFunc func(ctx context.Context, fn func(context.Context) error) error

// Execute calls f.
func (f PolicyFunc) Execute(ctx context.Context, fn func(context.Context) error) error {
	return f(ctx, fn)
}

// Do runs a call that returns a value under a policy. The value is that of a
// call that succeeded; each attempt has its own, so attempts that overlap
// (see [Hedge]) cannot mix. On error it is the zero value.
func Do[T any](ctx context.Context, p Policy, fn func(context.Context) (T, error)) (T, error) {
	var r reply[T]
	err := p.Execute(ctx, func(ctx context.Context) error {
		v, err := fn(ctx)
		if err == nil {
			r.set(v)
		}
		return err
	})
	if err != nil {
		var zero T
		return zero, err
	}
	return r.get(), nil
}

// reply holds the first value set. The lock is for a hedge's loser, which may
// end at any time, also after Do has returned.
type reply[T any] struct {
	mu   sync.Mutex
	done bool
	v    T
}

func (r *reply[T]) set(v T) {
	r.mu.Lock()
	if !r.done {
		r.v, r.done = v, true
	}
	r.mu.Unlock()
}

func (r *reply[T]) get() T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.v
}

// Compose returns a policy that applies the given policies, the first one
// outermost. Without policies it just calls. [NewPipeline] composes in the one
// safe order; see the package documentation for why.
func Compose(outer ...Policy) Policy {
	chain := make(composed, len(outer))
	copy(chain, outer)
	return chain
}

type composed []Policy

func (c composed) Execute(ctx context.Context, fn func(context.Context) error) error {
	if len(c) == 0 {
		return fn(ctx)
	}
	if len(c) == 1 {
		return c[0].Execute(ctx, fn)
	}
	return c[0].Execute(ctx, func(ctx context.Context) error {
		return c[1:].Execute(ctx, fn)
	})
}
