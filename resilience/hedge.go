package resilience

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// HedgeConfig sets up a [Hedge].
type HedgeConfig struct {
	// Delay is how long an attempt may take before another starts beside it.
	// With Quantile it serves until enough calls have been measured. Defaults to
	// 100 ms.
	Delay time.Duration
	// Quantile, if set, makes the delay follow that quantile of the latency of
	// the last calls, such as 0.95. Defaults to 0: the delay is fixed.
	Quantile float64
	// MaxExtra is how many attempts may start beside the first. Defaults to 1.
	MaxExtra int
	// AssumeIdempotent says that every call may safely be repeated. Defaults to
	// false: calls say so one by one, see [Idempotent].
	AssumeIdempotent bool
	// Hooks observe the hedge.
	Hooks *Hooks
	// On turns the hedge of a pipeline on. Defaults to off: it is for calls whose
	// latency has a long tail that is not the load's.
	On bool
}

func (c *HedgeConfig) fill() error {
	c.Delay = orDefault(c.Delay, 100*time.Millisecond)
	c.MaxExtra = orDefault(c.MaxExtra, 1)
	return firstError(
		checkDuration("Hedge.Delay", c.Delay),
		checkFraction("Hedge.Quantile", c.Quantile),
		checkCount("Hedge.MaxExtra", c.MaxExtra),
	)
}

// Hedge starts another attempt beside one that is slow, takes the first success
// and cancels the rest. Extra attempts are paid from the budget, as retries are,
// and made only for calls that may be repeated. fn runs on goroutines of the
// hedge's own, which end when fn does: fn must heed its context.
//
// Attempts overlap, so fn must not write to variables that it shares with
// itself: use [Do], where each attempt has its own reply. Outside a pipeline,
// Compose(hedge, pipeline), each attempt passes breaker and bulkhead. A Hedge is
// safe for concurrent use.
type Hedge struct {
	name   string
	cfg    HedgeConfig
	budget *Budget
	// classify tells an answer, which ends the hedging, from a failure.
	classify func(error) Class
	// cost of an extra attempt. Around a pipeline each attempt is a call that
	// makes a deposit, which an extra one has to bring along: else hedges would
	// fund hedges.
	cost int64

	mu      sync.Mutex
	samples []time.Duration // ring of the last latencies
	next    int
	delay   time.Duration
}

const (
	hedgeSamples = 256
	hedgeRefresh = 32 // samples between two computations of the quantile
)

// NewHedge returns a hedge that pays from budget: use the destination's,
// [Pipeline.Budget]. A nil budget stands for one of its own with the defaults; a
// nil config means the defaults.
func NewHedge(name string, budget *Budget, cfg *HedgeConfig) (*Hedge, error) {
	var c HedgeConfig
	if cfg != nil {
		c = *cfg
	}
	if err := c.fill(); err != nil {
		return nil, err
	}
	if budget == nil {
		var err error
		if budget, err = NewBudget(nil); err != nil {
			return nil, err
		}
	}
	return &Hedge{name: name, cfg: c, budget: budget, classify: Classify, cost: token + budget.onSuccess, delay: c.Delay}, nil
}

// Hedge returns the destination's hedge; nil if it is off. For adapters, which
// give each attempt a reply of its own only where attempts may overlap.
func (p *Pipeline) Hedge() *Hedge { return p.hedge }

type hedgeResult struct {
	err      error
	panicked any
	exited   bool // by runtime.Goexit
}

// errGoexit is not retried: what ends its goroutine has said that this is the end.
var errGoexit error = &marked{
	err:   errors.New("resilience: the call ended its goroutine"),
	class: Class{Health: Neutral},
}

// Execute calls fn, and again beside it if it is slow. It returns at the first
// success or definite answer (an error that is not retried, see [Class]), and
// the last error once no attempt is left. A panic of an attempt is passed on to
// the caller.
func (h *Hedge) Execute(ctx context.Context, fn func(context.Context) error) error {
	if retriesOff(ctx) || !h.cfg.AssumeIdempotent && !IsIdempotent(ctx) {
		return fn(ctx)
	}
	return h.run(ctx, false, fn)
}

// run is Execute for a call that may be repeated. With ownContexts the caller
// cancels the attempts that have lost: the winner's context must live on.
func (h *Hedge) run(ctx context.Context, ownContexts bool, fn func(context.Context) error) error {
	if !ownContexts {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
	}
	start := time.Now()
	results := make(chan hedgeResult, 1+h.cfg.MaxExtra) // losers never block
	go runHedged(ctx, fn, results)
	running, started := 1, 1
	var last error
	timer := time.NewTimer(h.currentDelay())
	defer timer.Stop()
	for {
		select {
		case r := <-results:
			running--
			if r.panicked != nil {
				panic(r.panicked)
			}
			if r.exited {
				r.err = errGoexit
			}
			if r.err == nil {
				// The call's time, not the winner's: what hedging makes short would
				// pull the quantile down, and the more be hedged.
				h.measure(time.Since(start))
				return nil
			}
			// A rejection of one attempt must not hide that another was sent.
			rejected := IsLocalRejection(r.err)
			if last == nil || !rejected {
				last = r.err
			}
			if running == 0 || !rejected && !h.classify(r.err).Retry {
				return last
			}
		case <-timer.C:
			if started > h.cfg.MaxExtra || !h.budget.withdraw(h.cost) {
				continue // the timer stays off
			}
			started++
			running++
			if h.cfg.Hooks != nil && h.cfg.Hooks.Hedged != nil {
				h.cfg.Hooks.Hedged(ctx, h.name, started)
			}
			go runHedged(WithAttempt(ctx, started), fn, results)
			timer.Reset(h.currentDelay())
		}
	}
}

func runHedged(ctx context.Context, fn func(context.Context) error, results chan<- hedgeResult) {
	r := hedgeResult{exited: true}
	defer func() {
		if p := recover(); p != nil {
			r = hedgeResult{panicked: p}
		}
		results <- r
	}()
	err := fn(ctx)
	r = hedgeResult{err: err}
}

func (h *Hedge) currentDelay() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.delay
}

func (h *Hedge) measure(d time.Duration) {
	if h.cfg.Quantile == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.samples) < hedgeSamples {
		h.samples = append(h.samples, d)
	} else {
		h.samples[h.next%hedgeSamples] = d
	}
	h.next++
	if h.next%hedgeRefresh == 0 {
		sorted := slices.Sorted(slices.Values(h.samples))
		h.delay = max(sorted[int(float64(len(sorted)-1)*h.cfg.Quantile)], time.Microsecond)
	}
}
