package resilience

import (
	"context"
	"time"

	"github.com/napkin-kit/napkin/internal/lazyctx"
)

// Config sets up a [Pipeline]. Its zero value means the defaults: deadlines,
// retry with a budget, breaker and bulkhead on, throttle and limiter off.
type Config struct {
	// Deadline bounds the time.
	Deadline DeadlineConfig
	// Retry says how often and after which wait to try again.
	Retry RetryConfig
	// Budget bounds the retries of all calls together.
	Budget BudgetConfig
	// Hedge starts another attempt beside a slow one. Off unless On is set.
	Hedge HedgeConfig
	// Throttle drops calls while the destination refuses most. Off unless On is set.
	Throttle ThrottleConfig
	// Limiter bounds the rate of attempts. Off unless PerSecond is set.
	Limiter LimiterConfig
	// Breaker stops calls to a destination that fails.
	Breaker BreakerConfig
	// Bulkhead bounds the calls in flight.
	Bulkhead BulkheadConfig
	// Classify says what an error means. Defaults to the function [Classify].
	Classify func(error) Class
	// Hooks observe the pipeline.
	Hooks *Hooks
}

// fill sets the defaults and checks all parts, also those that are off: nonsense
// is no less a mistake for having no effect yet.
func (c *Config) fill() error {
	if c.Classify == nil {
		c.Classify = Classify
	}
	limiter := func() error { return nil }
	if c.Limiter != (LimiterConfig{}) {
		limiter = c.Limiter.fill
	}
	for _, fill := range []func() error{
		c.Deadline.fill, c.Retry.fill, c.Budget.fill, c.Hedge.fill, c.Throttle.fill, limiter, c.Breaker.fill, c.Bulkhead.fill,
	} {
		if err := fill(); err != nil {
			return err
		}
	}
	return nil
}

// Pipeline applies all policies for one destination, in the one safe order (see
// the package documentation). A Pipeline is safe for concurrent use and is not
// copied after it has been built.
type Pipeline struct {
	name     string
	deadline DeadlineConfig
	classify func(error) Class
	hooks    *Hooks

	retry     *Retry // nil: off, as for the next ones
	budget    *Budget
	hedge     *Hedge
	throttle  *Throttle
	limiter   *Limiter
	breaker   *Breaker
	endpoints *endpoints
	bulkhead  *Bulkhead
}

var _ Policy = (*Pipeline)(nil)

// NewPipeline returns a pipeline; a nil config means the defaults. name is the
// destination's, in errors and hooks. The error names the field at fault.
func NewPipeline(name string, cfg *Config) (*Pipeline, error) {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	err := c.fill()
	if err != nil {
		return nil, err
	}
	p := &Pipeline{name: name, classify: c.Classify, hooks: c.Hooks}
	if !c.Deadline.Off {
		p.deadline = c.Deadline
	}
	if !c.Budget.Off {
		if p.budget, err = NewBudget(&c.Budget); err != nil {
			return nil, err
		}
	}
	if !c.Retry.Off {
		if p.retry, err = newRetry(name, c.Retry, p.budget, c.Classify, c.Hooks); err != nil {
			return nil, err
		}
	}
	if c.Hedge.On {
		if p.hedge, err = p.newHedge(c.Hedge); err != nil {
			return nil, err
		}
	}
	if c.Throttle.On {
		if p.throttle, err = newThrottle(name, c.Throttle, c.Classify); err != nil {
			return nil, err
		}
	}
	if c.Limiter != (LimiterConfig{}) {
		if p.limiter, err = NewLimiter(name, &c.Limiter); err != nil {
			return nil, err
		}
	}
	if !c.Breaker.Off {
		if p.breaker, err = p.newBreaker(name, c.Breaker); err != nil {
			return nil, err
		}
		if c.Breaker.MaxEndpoints > 0 {
			p.endpoints = &endpoints{max: c.Breaker.MaxEndpoints, make: func(endpoint string) *Breaker {
				b, err := p.newBreaker(name+" "+endpoint, c.Breaker)
				if err != nil {
					panic(err) // the destination's has accepted the same configuration
				}
				return b
			}}
		}
	}
	if !c.Bulkhead.Off {
		if p.bulkhead, err = NewBulkhead(name, &c.Bulkhead); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// newBreaker returns a breaker that reports to the pipeline's hooks.
func (p *Pipeline) newBreaker(name string, c BreakerConfig) (*Breaker, error) {
	var onChange func(from, to BreakerState)
	if p.hooks != nil && p.hooks.BreakerState != nil {
		onChange = func(from, to BreakerState) { p.hooks.BreakerState(name, from, to) }
	}
	return newBreaker(name, c, p.classify, onChange)
}

// newHedge returns a hedge that pays from the destination's budget and reports
// to its hooks.
func (p *Pipeline) newHedge(c HedgeConfig) (*Hedge, error) {
	if c.Hooks == nil {
		c.Hooks = p.hooks
	}
	h, err := NewHedge(p.name, p.budget, &c)
	if err != nil {
		return nil, err
	}
	h.budget = p.budget // also where it is nil: the budget is off
	h.cost = token      // its attempts are one call
	h.classify = p.classify
	return h, nil
}

// Name returns the destination's name.
func (p *Pipeline) Name() string { return p.name }

// Budget returns the destination's budget, for others who repeat calls to it,
// such as an event driver; nil if it is off.
func (p *Pipeline) Budget() *Budget { return p.budget }

// Breaker returns the destination's breaker, to force its mode; nil if it is off.
// See [Pipeline.EndpointBreaker] for those of endpoints.
func (p *Pipeline) Breaker() *Breaker { return p.breaker }

// AttemptTimeout returns the bound of one attempt, 0 if there is none: for
// adapters that keep the time themselves, see [Call].
func (p *Pipeline) AttemptTimeout() time.Duration { return p.deadline.Attempt }

// Call is what an adapter knows of a call.
type Call struct {
	// Idempotent says that the call may be repeated, as [Idempotent] does.
	Idempotent bool
	// OwnTimeout says that the adapter bounds each attempt itself. fn then gets a
	// context without a deadline of the pipeline, which outlives fn: a response
	// body is read after the call has returned.
	OwnTimeout bool
	// Endpoint is the part of the destination that is called, for breakers per
	// endpoint (BreakerConfig.MaxEndpoints): the full method of gRPC, a route of
	// HTTP. Take it from a fixed set, never from data such as an id in a path.
	// Empty means the destination as a whole.
	Endpoint string
	// Overlap says that fn may run beside itself, with a reply of its own for each
	// attempt, so that the pipeline may hedge the call (Config.Hedge).
	Overlap bool

	// begun is when the call's first attempt began; zero for a further one.
	begun time.Time
}

// Execute makes a call under all policies of the pipeline. The call is retried
// only if ctx is marked by [Idempotent] or an error proves that nothing was
// sent. Where Config.Hedge is on, calls that are so marked may overlap: fn must
// then not write to variables that it shares with itself; use [Do].
func (p *Pipeline) Execute(ctx context.Context, fn func(context.Context) error) error {
	return p.Call(ctx, Call{Overlap: true}, fn)
}

// Call is Execute for adapters.
func (p *Pipeline) Call(ctx context.Context, call Call, fn func(context.Context) error) error {
	if p.hedge == nil || !p.mayHedge(ctx, call) {
		return p.call(ctx, call, fn)
	}
	var deadline time.Time
	if p.deadline.Total > 0 {
		deadline = time.Now().Add(p.deadline.Total)
	}
	err := p.hedge.run(ctx, call.OwnTimeout, func(ctx context.Context) error {
		return p.attempt(withTotal(ctx, call, deadline), call, deadline, fn)
	})
	return p.ended(ctx, call, deadline, err, fn)
}

// call is Call without hedging. It is apart so that fn does not escape: what
// adapters keep for a call need not be on the heap.
func (p *Pipeline) call(ctx context.Context, call Call, fn func(context.Context) error) error {
	var deadline time.Time
	if p.deadline.Total > 0 {
		if call.begun.IsZero() {
			call.begun = time.Now()
		}
		deadline = call.begun.Add(p.deadline.Total)
	}
	return p.ended(ctx, call, deadline, p.attempt(ctx, call, deadline, fn), fn)
}

// ended is what follows the first attempt.
func (p *Pipeline) ended(ctx context.Context, call Call, deadline time.Time, err error, fn func(context.Context) error) error {
	if err == nil {
		p.budget.Deposit(true)
		if p.hooks != nil && p.hooks.Done != nil {
			p.hooks.Done(ctx, p.name, 1, nil)
		}
		return nil
	}
	return p.failed(ctx, call, deadline, err, fn)
}

// mayHedge: retries are not hedged, so that each is paid for once.
func (p *Pipeline) mayHedge(ctx context.Context, call Call) bool {
	return call.Overlap && !retriesOff(ctx) && (call.Idempotent || p.hedge.cfg.AssumeIdempotent || IsIdempotent(ctx))
}

// failed is apart so that the path of success stays small.
func (p *Pipeline) failed(ctx context.Context, call Call, deadline time.Time, err error, fn func(context.Context) error) error {
	attempts := 1
	call.begun = time.Time{}
	if _, refused := err.(*Rejection); refused { //nolint:errorlint // a fresh rejection is never wrapped
		// Nothing was sent, and trying again would meet the same. The shortest way
		// out: when everything is refused, refusing must cost little.
	} else if p.retry != nil {
		attempts, err = p.retry.again(ctx, err, call.Idempotent || IsIdempotent(ctx), deadline,
			func(ctx context.Context) error { return p.attempt(withTotal(ctx, call, deadline), call, deadline, fn) })
	} else if !isCallerGone(ctx) && !IsLocalRejection(err) {
		p.budget.Deposit(p.classify(err).Health == Healthy)
	}
	if p.hooks != nil && p.hooks.Done != nil {
		p.hooks.Done(ctx, p.name, attempts, err)
	}
	return err
}

// attempt is everything inside the retry.
func (p *Pipeline) attempt(ctx context.Context, call Call, deadline time.Time, fn func(context.Context) error) error {
	if err := p.gates(ctx); err != nil {
		return err
	}
	var err error
	if breaker := p.breakerOf(call.Endpoint); breaker == nil {
		err = p.guarded(ctx, call, deadline, fn)
	} else {
		err = breaker.Execute(ctx, func(ctx context.Context) error {
			return p.guarded(ctx, call, deadline, fn)
		})
	}
	if p.throttle != nil {
		p.throttle.done(ctx, err)
	}
	if err != nil {
		p.hooks.rejected(ctx, p.name, err)
	}
	return err
}

// gates are the policies that only say yes or no.
func (p *Pipeline) gates(ctx context.Context) error {
	if p.throttle != nil {
		if err := p.throttle.admit(); err != nil {
			p.hooks.rejected(ctx, p.name, err)
			return err
		}
	}
	if p.limiter != nil {
		if err := p.limiter.Allow(); err != nil {
			if p.throttle != nil {
				p.throttle.done(ctx, err)
			}
			p.hooks.rejected(ctx, p.name, err)
			return err
		}
	}
	return nil
}

// guarded makes the call with a permit and in time.
func (p *Pipeline) guarded(ctx context.Context, call Call, deadline time.Time, fn func(context.Context) error) error {
	if p.bulkhead != nil {
		if err := p.bulkhead.Acquire(ctx); err != nil {
			return err
		}
		defer p.bulkhead.Release()
	}
	if deadline.IsZero() || call.OwnTimeout {
		return fn(ctx)
	}
	// One timer serves both bounds.
	if p.deadline.Attempt > 0 {
		if d := p.attemptStart(call.begun).Add(p.deadline.Attempt); d.Before(deadline) {
			deadline = d
		}
	}
	bound := new(lazyctx.Context)
	bound.Init(ctx, deadline)
	defer bound.Cancel()
	return fn(bound)
}

// attemptStart is when the time of an attempt begins, now that it has its
// permit. The first one's has begun with the call where no permit is waited for:
// reading the clock costs as much as the bulkhead.
func (p *Pipeline) attemptStart(begun time.Time) time.Time {
	if begun.IsZero() || p.bulkhead != nil && p.bulkhead.cfg.MaxQueue > 0 {
		return time.Now()
	}
	return begun
}
