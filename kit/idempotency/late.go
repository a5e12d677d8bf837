package idempotency

import (
	"context"
	"sync"
	"time"
)

// lateContext is a context that is made when somebody waits for its end. Most
// handlers and a store in memory never do, and a context that is cancelled with
// its parent costs as much as all the rest of a short request.
type lateContext struct {
	parent   context.Context
	make     func(parent context.Context) (context.Context, context.CancelCauseFunc)
	detached bool // does not end with its parent

	mu     sync.Mutex
	real   context.Context
	cancel context.CancelCauseFunc
	ended  bool
	cause  error
}

// made returns the real context, making it where must says so.
func (c *lateContext) made(must bool) context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.real == nil && (must || c.ended) {
		c.real, c.cancel = c.make(c.parent)
		if c.ended {
			c.cancel(c.cause)
		}
	}
	return c.real
}

// end ends the context.
func (c *lateContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended, c.cause = true, cause
	if c.real != nil {
		c.cancel(cause)
	}
}

// Deadline implements [context.Context].
func (c *lateContext) Deadline() (deadline time.Time, ok bool) { return c.made(true).Deadline() }

// Done implements [context.Context].
func (c *lateContext) Done() <-chan struct{} { return c.made(true).Done() }

// Err implements [context.Context].
func (c *lateContext) Err() error {
	if real := c.made(false); real != nil {
		return real.Err()
	}
	if c.detached {
		return nil
	}
	return c.parent.Err()
}

// Value implements [context.Context]. By way of the real context, once there is
// one, those derived from this one find what to follow.
func (c *lateContext) Value(key any) any {
	if real := c.made(false); real != nil {
		return real.Value(key)
	}
	return c.parent.Value(key)
}
