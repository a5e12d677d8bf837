package resilience

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Pass is a call that outlives a function, such as a stream. It is safe for
// concurrent use.
type Pass struct {
	p         *Pipeline
	admission Admission
	answered  atomic.Int64 // ns until the first answer, at least 1; 0: there was none
	once      sync.Once
}

// Begin asks the throttle, limiter, breaker and bulkhead for leave to start a
// call that ends later. It is neither retried nor bounded in time, and holds a
// permit until [Pass.End], which must be called once it is over. Of call only
// Endpoint matters.
func (p *Pipeline) Begin(ctx context.Context, call Call) (*Pass, error) {
	if err := p.gates(ctx); err != nil {
		return nil, err
	}
	pass := &Pass{p: p}
	if breaker := p.breakerOf(call.Endpoint); breaker != nil {
		a, err := breaker.Begin(ctx)
		if err != nil {
			return nil, p.refused(ctx, err)
		}
		pass.admission = a
	}
	if p.bulkhead != nil {
		if err := p.bulkhead.Acquire(ctx); err != nil {
			pass.admission.Done(ctx, err)
			return nil, p.refused(ctx, err)
		}
	}
	return pass, nil
}

func (p *Pipeline) refused(ctx context.Context, err error) error {
	if p.throttle != nil {
		p.throttle.done(ctx, err)
	}
	p.hooks.rejected(ctx, p.name, err)
	return err
}

// Answered says that the destination has answered: the first message of a
// stream has come. A probe of a half-open breaker has then succeeded, since the
// end may be hours away; whether the call was slow is decided now, and that the
// caller's own deadline ends it later is nobody's failure. Only the first call
// counts.
func (s *Pass) Answered(ctx context.Context) {
	if s.answered.Load() != 0 {
		return
	}
	took := s.admission.took()
	if s.answered.CompareAndSwap(0, max(int64(took), 1)) && s.admission.probe != 0 {
		s.admission.doneIn(ctx, nil, took)
	}
}

// End gives the permit back and the outcome to the breaker. ctx is the
// caller's: after its cancellation the outcome is neutral. Only the first call
// counts.
func (s *Pass) End(ctx context.Context, err error) {
	s.once.Do(func() {
		if s.p.bulkhead != nil {
			s.p.bulkhead.Release()
		}
		if answered := s.answered.Load(); answered != 0 {
			if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				err = &marked{err: err, class: Class{Health: Neutral}}
			}
			s.admission.doneIn(ctx, err, time.Duration(answered))
		} else {
			s.admission.Done(ctx, err)
		}
		if s.p.throttle != nil {
			s.p.throttle.done(ctx, err)
		}
		if err == nil {
			s.p.budget.Deposit(true)
		} else if !isCallerGone(ctx) && !IsLocalRejection(err) {
			s.p.budget.Deposit(s.p.classify(err).Health == Healthy)
		}
	})
}

// Snapshot is the state of a pipeline at one moment.
type Snapshot struct {
	Name     string
	Breaker  BreakerState
	Counts   BreakerCounts
	InFlight int // calls that hold a permit
	Waiting  int // calls that wait for one
	Budget   int // retries that could be made now
	// Endpoints are those with a breaker of their own, by name.
	Endpoints []EndpointSnapshot
}

// Snapshot returns the state, for consoles and gauges.
func (p *Pipeline) Snapshot() Snapshot {
	s := Snapshot{Name: p.name, Budget: p.budget.Balance()}
	if p.breaker != nil {
		s.Breaker, s.Counts = p.breaker.State(), p.breaker.Counts()
	}
	if p.bulkhead != nil {
		s.InFlight, s.Waiting = p.bulkhead.InFlight(), p.bulkhead.Waiting()
	}
	s.Endpoints = p.endpoints.snapshot()
	return s
}
