package resilience

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
)

// BreakerState is what a breaker does with calls.
type BreakerState uint8

// The states.
const (
	// BreakerClosed: calls pass and are counted.
	BreakerClosed BreakerState = iota
	// BreakerHalfOpen: a few probes pass and decide.
	BreakerHalfOpen
	// BreakerOpen: no call passes.
	BreakerOpen
)

// String returns "closed", "half-open" or "open".
func (s BreakerState) String() string {
	switch s {
	case BreakerHalfOpen:
		return "half-open"
	case BreakerOpen:
		return "open"
	default:
		return "closed"
	}
}

// BreakerMode overrides what a breaker decides.
type BreakerMode int32

// The modes.
const (
	// BreakerAuto: outcomes decide. The default.
	BreakerAuto BreakerMode = iota
	// BreakerForcedOpen: no call passes.
	BreakerForcedOpen
	// BreakerForcedClosed: every call passes. Outcomes are counted while the
	// breaker is closed by itself.
	BreakerForcedClosed
	// BreakerOff: every call passes and nothing is counted.
	BreakerOff
)

// BreakerConfig sets up a [Breaker].
type BreakerConfig struct {
	// Window is how far back outcomes count. Defaults to 10 s.
	Window time.Duration
	// Buckets is how many parts the rolling window has. Defaults to 10.
	Buckets int
	// MinCalls is how many outcomes the window must hold before rates mean
	// anything. Defaults to 20.
	MinCalls int
	// FailureRate opens the breaker when reached. Defaults to 0.5.
	FailureRate float64
	// SlowCall is how long a call may take before it counts as slow. Defaults to
	// 0: calls are not timed.
	SlowCall time.Duration
	// SlowRate opens the breaker when this share of calls is slow. Defaults to
	// 0.8. It has no effect without SlowCall.
	SlowRate float64
	// OpenFor is how long the breaker stays open: so much later than need be may
	// calls pass again. Defaults to 1 s. Long times are meant to spare the
	// destination; here that is the budget's part, and all that comes in OpenFor
	// is a few probes.
	OpenFor time.Duration
	// Probes is how many calls pass half-open; as many successes close the
	// breaker, one failure opens it again. Defaults to 3.
	Probes int
	// ProbeTimeout is how long a probe may take before it counts as failed, so
	// that a hung one does not hold the breaker half-open. Defaults to 5 s, or
	// OpenFor if that is longer.
	ProbeTimeout time.Duration
	// MaxEndpoints, if more than 0, gives each endpoint of a pipeline's destination
	// a breaker of its own, so that one broken method does not take the others
	// with it; budget and bulkhead stay the destination's. The adapters name the
	// endpoint, see [Call.Endpoint]. It bounds how many endpoints have one; further
	// ones, and calls without an endpoint, share the destination's. At most 10,000;
	// an endpoint costs about 2 KiB. Defaults to 0: one breaker for the destination.
	MaxEndpoints int
	// Off turns the breaker of a pipeline off.
	Off bool
}

func (c *BreakerConfig) fill() error {
	c.Window = orDefault(c.Window, 10*time.Second)
	c.Buckets = orDefault(c.Buckets, 10)
	c.MinCalls = orDefault(c.MinCalls, 20)
	c.FailureRate = orDefault(c.FailureRate, 0.5)
	c.SlowRate = orDefault(c.SlowRate, 0.8)
	c.OpenFor = orDefault(c.OpenFor, time.Second)
	c.Probes = orDefault(c.Probes, 3)
	c.ProbeTimeout = orDefault(c.ProbeTimeout, max(5*time.Second, c.OpenFor))
	if err := firstError(
		checkDuration("Breaker.Window", c.Window),
		checkCount("Breaker.Buckets", c.Buckets),
		checkCount("Breaker.MinCalls", c.MinCalls),
		checkFraction("Breaker.FailureRate", c.FailureRate),
		checkDuration("Breaker.SlowCall", c.SlowCall),
		checkFraction("Breaker.SlowRate", c.SlowRate),
		checkDuration("Breaker.OpenFor", c.OpenFor),
		checkCount("Breaker.Probes", c.Probes),
		checkDuration("Breaker.ProbeTimeout", c.ProbeTimeout),
		checkCount("Breaker.MaxEndpoints", c.MaxEndpoints),
	); err != nil {
		return err
	}
	if c.MaxEndpoints > 10_000 {
		return fieldError("Breaker.MaxEndpoints", c.MaxEndpoints, "at most 10000")
	}
	if c.Buckets < 2 || c.Buckets > 100 {
		return fieldError("Breaker.Buckets", c.Buckets, "a number between 2 and 100")
	}
	if c.Window/time.Duration(c.Buckets) < time.Millisecond {
		return fieldError("Breaker.Window", c.Window, "at least 1ms per bucket")
	}
	return nil
}

// Breaker stops calling a destination that fails, and probes when to start
// again. It judges by failure rate and slow-call rate over a rolling window.
// The state machine is github.com/sony/gobreaker; on top of it come probes
// with a deadline, neutral outcomes and events outside the lock.
//
// A Breaker is safe for concurrent use.
type Breaker struct {
	name     string
	cfg      BreakerConfig
	classify func(error) Class
	cb       *gobreaker.CircuitBreaker[struct{}]
	mode     atomic.Int32
	forcing  sync.Mutex // serialises Force

	// word is the generation and the state, word = generation<<2 | state. It is
	// written under gobreaker's lock and read without it. A result counts only in
	// the generation in which its call began.
	word atomic.Uint64
	// openUntil is when half-open begins, in ns since base.
	openUntil atomic.Int64
	base      time.Time
	halfOpen  *Rejection // all probes are out
	forced    *Rejection

	slow   *slowWindow // nil if calls are not timed
	probes probeSet
	events stateEvents
}

var (
	errNotCounted = errors.New("resilience: outcome does not count") // gobreaker: excluded
	errCounted    = errors.New("resilience: failure")                // gobreaker: failure
)

// NewBreaker returns a breaker; a nil config means the defaults. name appears
// in rejections. onChange, if not nil, is called after each change of state, in
// order and outside every lock.
func NewBreaker(name string, cfg *BreakerConfig, onChange func(from, to BreakerState)) (*Breaker, error) {
	var c BreakerConfig
	if cfg != nil {
		c = *cfg
	}
	return newBreaker(name, c, Classify, onChange)
}

func newBreaker(name string, c BreakerConfig, classify func(error) Class, onChange func(from, to BreakerState)) (*Breaker, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	b := &Breaker{
		name: name, cfg: c, classify: classify, base: time.Now(),
		halfOpen: &Rejection{Policy: "breaker", Name: name, Err: ErrOpen},
		forced:   &Rejection{Policy: "breaker", Name: name, Err: ErrOpen},
		events:   stateEvents{call: onChange},
	}
	if c.SlowCall > 0 {
		b.slow = newSlowWindow(c.Window, c.Buckets)
	}
	b.cb = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name:          name,
		MaxRequests:   uint32(c.Probes),
		Interval:      c.Window,
		BucketPeriod:  c.Window / time.Duration(c.Buckets),
		Timeout:       c.OpenFor,
		ReadyToTrip:   b.readyToTrip,
		OnStateChange: b.changed,
		IsExcluded:    func(err error) bool { return err == errNotCounted }, //nolint:errorlint // never wrapped
	})
	return b, nil
}

// readyToTrip runs under gobreaker's lock, after each failure. A slow call has
// been reported as a failure, so that we are asked; failures proper are what
// remains.
func (b *Breaker) readyToTrip(c gobreaker.Counts) bool {
	total := int(c.TotalSuccesses) + int(c.TotalFailures)
	if total < b.cfg.MinCalls {
		return false
	}
	failures := int(c.TotalFailures)
	if b.slow != nil {
		slow, slowOnly := b.slow.counts()
		if float64(slow) >= b.cfg.SlowRate*float64(total) {
			return true
		}
		failures -= slowOnly
	}
	return float64(failures) >= b.cfg.FailureRate*float64(total)
}

// changed runs under gobreaker's lock.
func (b *Breaker) changed(_ string, _, to gobreaker.State) {
	generation := b.word.Load()>>2 + 1
	b.word.Store(generation<<2 | uint64(stateOf(to)))
	if to == gobreaker.StateOpen {
		b.openUntil.Store(int64(time.Since(b.base) + b.cfg.OpenFor))
	}
	if b.slow != nil {
		b.slow.clear()
	}
	if BreakerMode(b.mode.Load()) == BreakerAuto { // else it is not what callers meet
		b.events.add(stateOf(to))
	}
}

func stateOf(s gobreaker.State) BreakerState {
	switch s {
	case gobreaker.StateOpen:
		return BreakerOpen
	case gobreaker.StateHalfOpen:
		return BreakerHalfOpen
	default:
		return BreakerClosed
	}
}

func wordState(w uint64) BreakerState { return BreakerState(w & 3) }

// Execute calls fn unless the breaker is open, and judges the outcome. If it is
// open, the error is a [*Rejection] that is [ErrOpen].
func (b *Breaker) Execute(ctx context.Context, fn func(context.Context) error) error {
	for {
		if BreakerMode(b.mode.Load()) == BreakerAuto && wordState(b.word.Load()) == BreakerClosed {
			err, again := b.executeClosed(ctx, fn)
			if again {
				continue
			}
			return err
		}
		done, err := b.Begin(ctx)
		if err != nil {
			return err
		}
		return done.run(ctx, fn)
	}
}

// executeClosed is the path of a healthy destination: gobreaker's Execute and
// little else. again is true if the breaker left the closed state before fn was
// called.
func (b *Breaker) executeClosed(ctx context.Context, fn func(context.Context) error) (err error, again bool) {
	defer b.events.dispatch() // also where fn panics and that opens the breaker
	// Nothing here escapes, so the closure costs no allocation.
	_, cbErr := b.cb.Execute(func() (struct{}, error) {
		w := b.word.Load()
		if wordState(w) != BreakerClosed {
			// gobreaker went on to half-open and took this call for a probe. Probes
			// are ours, since gobreaker's have no deadline.
			again = true
			return struct{}{}, errNotCounted
		}
		if b.slow != nil {
			start := time.Now()
			err = fn(ctx)
			return struct{}{}, verdict(b.judgeTimed(ctx, err, time.Since(start), w))
		}
		err = fn(ctx)
		if err == nil {
			return struct{}{}, nil
		}
		return struct{}{}, verdict(b.health(ctx, err))
	})
	if cbErr == gobreaker.ErrOpenState || cbErr == gobreaker.ErrTooManyRequests { //nolint:errorlint // never wrapped
		again = true
	}
	return err, again
}

// health judges an outcome.
func (b *Breaker) health(ctx context.Context, err error) Health {
	if err == nil {
		return Healthy
	}
	if isCallerGone(ctx) || IsLocalRejection(err) {
		return Neutral
	}
	c := b.classify(err)
	if c.Refused {
		return Neutral
	}
	return c.Health
}

func verdict(h Health) error {
	switch h {
	case Healthy:
		return nil
	case Neutral:
		return errNotCounted
	default:
		return errCounted
	}
}

// State returns the state. An open breaker whose time is over is half-open.
func (b *Breaker) State() BreakerState {
	s := b.state()
	b.events.dispatch()
	return s
}

func (b *Breaker) state() BreakerState {
	switch BreakerMode(b.mode.Load()) {
	case BreakerForcedOpen:
		return BreakerOpen
	case BreakerForcedClosed, BreakerOff:
		return BreakerClosed
	}
	b.expireProbes()
	return stateOf(b.cb.State())
}

// Force sets the mode, until the next call of Force. A change of state that
// comes of it is reported like any other.
func (b *Breaker) Force(m BreakerMode) {
	b.forcing.Lock()
	b.mode.Store(int32(m))
	b.events.add(b.state())
	b.forcing.Unlock()
	b.events.dispatch()
}

// Mode returns the mode.
func (b *Breaker) Mode() BreakerMode { return BreakerMode(b.mode.Load()) }

// pinned reports whether a breaker in its place, fresh and closed, would let
// calls pass that this one does not, or the reverse.
func (b *Breaker) pinned() bool {
	return b.Mode() != BreakerAuto ||
		wordState(b.word.Load()) == BreakerOpen && time.Since(b.base) < time.Duration(b.openUntil.Load())
}

// retire reports a breaker that was forgotten as closed, since its successor
// starts closed: a gauge would show its last state for ever.
func (b *Breaker) retire() {
	b.events.add(BreakerClosed)
	b.events.dispatch()
}

// BreakerCounts is what a breaker's window holds.
type BreakerCounts struct {
	Successes, Failures int
}

// Counts returns the outcomes in the window.
func (b *Breaker) Counts() BreakerCounts {
	b.cb.State() // gobreaker expires buckets only when asked for the state
	c := b.cb.Counts()
	b.events.dispatch()
	return BreakerCounts{Successes: int(c.TotalSuccesses), Failures: int(c.TotalFailures)}
}

// stateEvents calls a function for each change of state, in order, outside
// every lock: one caller at a time empties the queue.
type stateEvents struct {
	call    func(from, to BreakerState)
	pending atomic.Bool
	mu      sync.Mutex
	last    BreakerState
	queue   [][2]BreakerState
	busy    bool
}

// add takes note of the state that callers meet now.
func (e *stateEvents) add(now BreakerState) {
	if e.call == nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now == e.last {
		return
	}
	e.queue = append(e.queue, [2]BreakerState{e.last, now})
	e.last = now
	e.pending.Store(true)
}

func (e *stateEvents) dispatch() {
	if !e.pending.Load() {
		return
	}
	e.mu.Lock()
	if e.busy {
		e.mu.Unlock()
		return
	}
	e.busy = true
	defer func() { // also if the caller's function panics
		e.busy = false
		e.mu.Unlock()
	}()
	for len(e.queue) > 0 {
		change := e.queue[0]
		e.queue = e.queue[1:]
		func() {
			e.mu.Unlock()
			defer e.mu.Lock()
			e.call(change[0], change[1])
		}()
	}
	e.pending.Store(false)
}
