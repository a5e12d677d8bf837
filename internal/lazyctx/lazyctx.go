// Package lazyctx bounds the time of one attempt at a call. A bound of
// package context costs a timer, a registration with the parent and four
// allocations at once; most attempts end without anybody having looked. Here
// they are made when the context is first watched, by Done, and the struct can be
// a part of another one.
package lazyctx

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Context is a context with a bound of its own. It is made by [Context.Init],
// is not copied afterwards, and is safe for concurrent use. [Context.Cancel]
// must be called once the attempt is over.
//
// Once watched, it is a context of package context in all but its type:
// contexts derived from it register with that one directly, so none costs a
// goroutine.
type Context struct {
	parent context.Context
	bound  time.Time // zero: none

	mu    sync.Mutex
	ctx   context.Context    // set for good once made
	stop  context.CancelFunc // nil: nobody watched until Stop
	timer *time.Timer
	made  atomic.Bool
	fired atomic.Bool
	over  bool
	soft  bool // the bound is InitTimeout's
}

var _ context.Context = (*Context)(nil)

// Init makes c what context.WithDeadline(parent, d) would be; without a d, what
// context.WithCancel would be.
func (c *Context) Init(parent context.Context, d time.Time) {
	c.parent = parent
	if before, ok := parent.Deadline(); !ok || d.Before(before) {
		c.bound = d
	}
}

// InitTimeout makes c a context that is cancelled at end, unless [Context.Stop]
// comes first: a bound that ends before the context does. It shows in
// [Context.TimedOut], not in Deadline. A zero end is no bound.
func (c *Context) InitTimeout(parent context.Context, end time.Time) {
	c.parent, c.bound, c.soft = parent, end, true
}

// Deadline is that of Init or the parent's, whichever comes first.
func (c *Context) Deadline() (time.Time, bool) {
	if c.soft || c.bound.IsZero() {
		return c.parent.Deadline()
	}
	return c.bound, true
}

// Done begins to watch.
func (c *Context) Done() <-chan struct{} { return c.watch().Done() }

// Err is that of package context's. It begins to watch only where a timer must
// run for the answer to be true to InitTimeout.
func (c *Context) Err() error {
	if c.made.Load() || c.soft {
		return c.watch().Err()
	}
	c.mu.Lock()
	made, over := c.made.Load(), c.over
	c.mu.Unlock()
	if made || over {
		return c.watch().Err()
	}
	if err := c.parent.Err(); err != nil {
		return err
	}
	if !c.bound.IsZero() && time.Until(c.bound) <= 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// Value is the parent's. Once watched it answers package context's own question
// too, by which derived contexts find where to register.
func (c *Context) Value(key any) any {
	if c.made.Load() {
		return c.ctx.Value(key)
	}
	return c.parent.Value(key)
}

func (c *Context) watch() context.Context {
	if c.made.Load() {
		return c.ctx
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made.Load() {
		return c.ctx
	}
	if !c.soft && !c.bound.IsZero() {
		c.ctx, c.stop = context.WithDeadline(c.parent, c.bound)
	} else {
		c.ctx, c.stop = context.WithCancel(c.parent)
	}
	if c.over {
		c.stop()
	} else if c.soft && !c.bound.IsZero() {
		c.timer = time.AfterFunc(time.Until(c.bound), c.fire)
	}
	c.made.Store(true)
	return c.ctx
}

func (c *Context) fire() {
	c.fired.Store(true)
	c.stop()
}

// Stop ends the bound of InitTimeout, not the context. inTime is false if it
// was too late. watched says whether the context must still be cancelled: one
// that nobody has watched by then is no more than its parent from now on.
func (c *Context) Stop() (inTime, watched bool) {
	if !c.made.Load() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !c.made.Load() {
			c.ctx = c.parent
			c.made.Store(true)
			return true, false
		}
	}
	return c.timer == nil || c.timer.Stop(), c.stop != nil
}

// TimedOut reports whether the bound of InitTimeout has cancelled the context.
func (c *Context) TimedOut() bool { return c.fired.Load() }

// Cancel ends the context. It may be called more than once.
func (c *Context) Cancel() {
	if !c.made.Load() {
		c.mu.Lock()
		if !c.made.Load() {
			c.over = true
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	if c.stop != nil {
		c.stop()
	}
}
