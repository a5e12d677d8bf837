package resilience

import (
	"context"
	"sync"
	"time"
)

// Admission is a call that a breaker has let pass. Exactly one of its results
// counts; it must be given one. For calls that outlive a function.
type Admission struct {
	b     *Breaker
	word  uint64 // generation and state at the start; a later one makes it stale
	probe uint64 // 0: not a probe
	mode  BreakerMode
	start time.Time
}

// Begin asks for leave to make a call. The error is a [*Rejection] that is
// [ErrOpen].
func (b *Breaker) Begin(_ context.Context) (Admission, error) {
	switch m := BreakerMode(b.mode.Load()); m {
	case BreakerForcedOpen:
		return Admission{}, b.forced
	case BreakerOff:
		return Admission{mode: m}, nil
	case BreakerForcedClosed:
		return Admission{b: b, mode: m, word: b.word.Load(), start: b.now()}, nil
	}
	for {
		b.expireProbes()               // the branches below dispatch
		switch stateOf(b.cb.State()) { // takes an open breaker to half-open in time
		case BreakerOpen:
			b.events.dispatch()
			until := time.Duration(b.openUntil.Load()) - time.Since(b.base)
			return Admission{}, &Rejection{Policy: "breaker", Name: b.name, After: max(until, 0), Err: ErrOpen}
		case BreakerClosed:
			b.events.dispatch()
			if w := b.word.Load(); wordState(w) == BreakerClosed {
				return Admission{b: b, word: w, start: b.now()}, nil
			}
		case BreakerHalfOpen:
			b.events.dispatch()
			w := b.word.Load()
			if wordState(w) != BreakerHalfOpen {
				continue // it changed meanwhile
			}
			id, ok := b.probes.take(w, b.cfg.Probes)
			if !ok {
				return Admission{}, b.halfOpen
			}
			return Admission{b: b, word: w, probe: id, start: b.now()}, nil
		}
	}
}

func (b *Breaker) now() time.Time {
	if b.slow == nil {
		return time.Time{}
	}
	return time.Now()
}

// Done gives the outcome. ctx is the caller's: an outcome after its
// cancellation is neutral.
func (a Admission) Done(ctx context.Context, err error) {
	if a.b == nil {
		return
	}
	a.doneIn(ctx, err, a.took())
}

// took is how long the call has taken, 0 if calls are not timed.
func (a Admission) took() time.Duration {
	if a.start.IsZero() {
		return 0
	}
	return time.Since(a.start)
}

// doneIn is Done for a call that took so long.
func (a Admission) doneIn(ctx context.Context, err error, took time.Duration) {
	if a.b == nil {
		return
	}
	if a.b.slow != nil {
		a.done(a.b.judgeTimed(ctx, err, took, a.word))
		return
	}
	a.done(a.b.health(ctx, err))
}

func (a Admission) done(h Health) {
	if a.b == nil {
		return
	}
	if a.probe != 0 && !a.b.probes.give(a.probe) {
		return // its time was over: it has counted as a failure
	}
	a.b.record(a.word, verdict(h))
	a.b.events.dispatch()
}

// record counts an outcome if the breaker is still in the generation w. The
// events are the caller's to dispatch.
func (b *Breaker) record(w uint64, verdict error) {
	if verdict == errNotCounted || b.word.Load() != w { //nolint:errorlint // never wrapped
		return
	}
	_, _ = b.cb.Execute(func() (struct{}, error) {
		if b.word.Load() != w {
			return struct{}{}, errNotCounted
		}
		return struct{}{}, verdict
	})
}

// run makes the call of an admission. A panic is a failure; a goroutine that is
// ended by runtime.Goexit says nothing.
func (a Admission) run(ctx context.Context, fn func(context.Context) error) error {
	returned := false
	defer func() {
		if returned {
			return
		}
		if p := recover(); p != nil {
			a.done(Unhealthy)
			panic(p)
		}
		a.done(Neutral)
	}()
	err := fn(ctx)
	returned = true
	a.Done(ctx, err)
	return err
}

// expireProbes counts probes that are out for too long as failures, which opens
// the breaker again.
func (b *Breaker) expireProbes() {
	w := b.word.Load()
	if wordState(w) == BreakerHalfOpen && b.probes.expire(w, b.cfg.ProbeTimeout) {
		b.record(w, errCounted)
	}
}

// probeSet holds the probes that are out. Probes of an earlier generation are
// forgotten.
type probeSet struct {
	mu   sync.Mutex
	word uint64
	last uint64
	out  map[uint64]time.Time
}

func (p *probeSet) take(word uint64, limit int) (id uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.word != word {
		p.word = word
		clear(p.out)
	}
	if len(p.out) >= limit {
		return 0, false
	}
	if p.out == nil {
		p.out = make(map[uint64]time.Time, limit)
	}
	p.last++
	p.out[p.last] = time.Now()
	return p.last, true
}

// give returns a probe, and reports whether it was still out.
func (p *probeSet) give(id uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.out[id]
	delete(p.out, id)
	return ok
}

// expire drops the probes of a generation that are out for too long.
func (p *probeSet) expire(word uint64, timeout time.Duration) (expired bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.word != word {
		return false
	}
	for id, since := range p.out {
		if time.Since(since) >= timeout {
			delete(p.out, id)
			expired = true
		}
	}
	return expired
}
