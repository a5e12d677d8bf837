package resilience

import (
	"slices"
	"strings"
	"sync"
)

// endpoints are the breakers of a destination's endpoints, for those who asked
// for them with BreakerConfig.MaxEndpoints. The first so many endpoints get one;
// further ones share the destination's, as a forged path should not push out the
// breaker of a real one.
type endpoints struct {
	max  int
	make func(endpoint string) *Breaker

	known sync.Map // string → *Breaker

	mu    sync.Mutex
	count int
}

// maxName bounds the names that are remembered: a host has 253 characters, a
// gRPC method rarely more than 100. Longer ones come from a forged address.
const maxName = 512

// of returns the endpoint's breaker, nil if it has none of its own.
func (e *endpoints) of(endpoint string) *Breaker {
	if b, ok := e.known.Load(endpoint); ok {
		return b.(*Breaker)
	}
	if len(endpoint) > maxName {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if b, ok := e.known.Load(endpoint); ok { // another was faster
		return b.(*Breaker)
	}
	if e.count >= e.max {
		return nil
	}
	e.count++
	endpoint = strings.Clone(endpoint) // it may be a piece of a large request
	b := e.make(endpoint)
	e.known.Store(endpoint, b)
	return b
}

// breakerOf is the breaker that judges a call; nil if breakers are off.
func (p *Pipeline) breakerOf(endpoint string) *Breaker {
	if endpoint != "" && p.endpoints != nil {
		if b := p.endpoints.of(endpoint); b != nil {
			return b
		}
	}
	return p.breaker
}

// EndpointBreaker returns the breaker of an endpoint, to force its mode: its own
// where BreakerConfig.MaxEndpoints gives it one, else the destination's; nil if
// breakers are off.
func (p *Pipeline) EndpointBreaker(endpoint string) *Breaker { return p.breakerOf(endpoint) }

// EndpointSnapshot is the state of an endpoint's breaker at one moment.
type EndpointSnapshot struct {
	Endpoint string
	Breaker  BreakerState
	Counts   BreakerCounts
}

// each calls f for every endpoint with a breaker of its own; e may be nil.
func (e *endpoints) each(f func(endpoint string, b *Breaker)) {
	if e == nil {
		return
	}
	e.known.Range(func(name, b any) bool {
		f(name.(string), b.(*Breaker))
		return true
	})
}

// snapshot returns the endpoints in the order of their names.
func (e *endpoints) snapshot() []EndpointSnapshot {
	var all []EndpointSnapshot
	e.each(func(name string, b *Breaker) {
		all = append(all, EndpointSnapshot{Endpoint: name, Breaker: b.State(), Counts: b.Counts()})
	})
	slices.SortFunc(all, func(a, b EndpointSnapshot) int { return strings.Compare(a.Endpoint, b.Endpoint) })
	return all
}
