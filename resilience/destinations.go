package resilience

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"
)

// DestinationsConfig sets up [Destinations].
type DestinationsConfig struct {
	// Default configures each destination that Configure leaves alone.
	Default Config
	// Configure, if not nil, may change the configuration of one destination.
	// It is called when the destination is first used, outside every lock; a bad
	// value that it sets fails the requests to that destination.
	Configure func(destination string, c *Config)
	// HTTPEndpoint, if not nil, names the endpoint of a request that goes through
	// [NewTransport], such as "POST /v1/orders", for breakers per endpoint
	// (BreakerConfig.MaxEndpoints). It must answer from a fixed set of names; ""
	// means the destination as a whole. Defaults to nil: HTTP requests have no
	// endpoint. gRPC needs nothing of the kind: a call's endpoint is its full method.
	HTTPEndpoint func(*http.Request) string
	// Max bounds how many destinations are remembered; beyond it those not used
	// lately are forgotten, whatever their names: a flood of hosts seen once does
	// not drive out those in use. Defaults to 4096, about 10 MiB; at most
	// 1,000,000.
	Max int
	// IdleTTL is how long a destination without calls is remembered; it is
	// forgotten within a quarter more. One with calls in flight, an open or forced
	// breaker, or a rate limit not yet filled up is kept. Defaults to 10 min; a
	// negative value means that only Max bounds them.
	IdleTTL time.Duration
	// Hooks observe all destinations; Default.Hooks, if set, takes precedence.
	Hooks *Hooks
}

// Destinations owns one [Pipeline] per destination, made on first use. Calls to
// one destination share its breaker, budget and bulkhead, whatever protocol
// they use. A destination that was forgotten starts afresh when it is used
// again. Destinations need not be closed: no goroutine runs between sweeps, and
// no timer once nothing is remembered. It is safe for concurrent use.
type Destinations struct {
	cfg DestinationsConfig

	known sync.Map // string → *destination

	mu    sync.Mutex
	ring  []*destination // for the clock algorithm; hand points into it
	hand  int
	timer *time.Timer // of the next sweep; nil while nothing is remembered
}

type destination struct {
	name     string
	pipeline *Pipeline
	used     atomic.Uint32 // the bits below
	idle     int           // sweeps that found it unused; under mu
}

// A use sets both bits; each of the two that forget clears its own.
const (
	usedSinceHand  = 1
	usedSinceSweep = 2
	usedSinceBoth  = usedSinceHand | usedSinceSweep
)

// NewDestinations returns destinations; a nil config means the defaults. The
// error names the field at fault, in Max and Default: Configure is not called
// yet, so a bad value that it sets surfaces as the error of the first request
// to that destination, and of each one after. A test can call Get for the
// destinations it knows.
func NewDestinations(cfg *DestinationsConfig) (*Destinations, error) {
	var c DestinationsConfig
	if cfg != nil {
		c = *cfg
	}
	c.Max = orDefault(c.Max, 4096)
	c.IdleTTL = orDefault(c.IdleTTL, 10*time.Minute)
	if c.Max < 1 || c.Max > 1_000_000 {
		return nil, fieldError("Destinations.Max", c.Max, "a number between 1 and 1000000, or leave it 0 for the default")
	}
	if c.IdleTTL > 0 && c.IdleTTL < time.Second || c.IdleTTL > maxDuration {
		return nil, fieldError("Destinations.IdleTTL", c.IdleTTL, "a duration between 1s and a year, or a negative value for no bound")
	}
	if c.Default.Hooks == nil {
		c.Default.Hooks = c.Hooks
	}
	if _, err := NewPipeline("default", &c.Default); err != nil {
		return nil, err
	}
	return &Destinations{cfg: c}, nil
}

// errNoName is for Get(""), which is always a mistake.
var errNoName = errors.New("resilience: destination has no name: pass the peer's name or host:port")

// Get returns the pipeline of a destination. It fails only if Configure has
// produced a bad configuration, with an error that names the field, or without
// a name.
func (d *Destinations) Get(name string) (*Pipeline, error) {
	if v, ok := d.known.Load(name); ok {
		dest := v.(*destination)
		if dest.used.Load() != usedSinceBoth { // a plain read keeps the line shared between CPUs
			dest.used.Store(usedSinceBoth)
		}
		return dest.pipeline, nil
	}
	if name == "" {
		return nil, errNoName
	}
	if len(name) > maxName {
		return nil, fmt.Errorf("resilience: destination name of %d bytes, %.20q…: at most %d", len(name), name, maxName)
	}
	name = strings.Clone(name) // it may be a piece of a large URL
	c := d.cfg.Default
	if d.cfg.Configure != nil {
		d.cfg.Configure(name, &c)
	}
	p, err := NewPipeline(name, &c)
	if err != nil {
		return nil, err
	}
	return d.add(&destination{name: name, pipeline: p}), nil
}

func (d *Destinations) add(dest *destination) *Pipeline {
	var forgotten *Pipeline
	defer func() { forgotten.retire() }() // hooks are called outside the lock
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.known.Load(dest.name); ok { // another was faster
		return v.(*destination).pipeline
	}
	dest.used.Store(usedSinceSweep)
	if len(d.ring) < d.cfg.Max {
		d.ring = append(d.ring, dest)
	} else {
		i := d.victim()
		forgotten, d.ring[i] = d.ring[i].pipeline, dest
	}
	d.known.Store(dest.name, dest)
	if d.timer == nil && d.cfg.IdleTTL > 0 {
		d.sweepLater()
	}
	return dest.pipeline
}

// maxPinned bounds how many destinations are passed by since they are pinned
// when room is needed: Max holds in any case.
const maxPinned = 64

// victim drops one destination from those known and returns its place: second chance for what
// was used since the hand last passed. A flood of names seen once therefore
// passes through without driving out those in use.
func (d *Destinations) victim() int {
	pinned := 0
	for {
		i := d.hand
		d.hand = (d.hand + 1) % len(d.ring)
		dest := d.ring[i]
		if dest.used.And(^uint32(usedSinceHand))&usedSinceHand != 0 {
			continue
		}
		if pinned < maxPinned && dest.pipeline.pinned() {
			pinned++
			continue
		}
		d.known.Delete(dest.name)
		return i
	}
}

// idleSweeps is how many sweeps in a row find a destination unused before it is
// forgotten; they are IdleTTL/idleSweeps apart.
const idleSweeps = 4

// sweepLater arms the timer. It holds the destinations by a weak pointer: those
// that their owner drops are not kept.
func (d *Destinations) sweepLater() {
	self := weak.Make(d)
	d.timer = time.AfterFunc(d.cfg.IdleTTL/idleSweeps, func() {
		if d := self.Value(); d != nil {
			d.sweep()
		}
	})
}

// sweep forgets what is idle.
func (d *Destinations) sweep() {
	var forgotten []*Pipeline
	d.mu.Lock()
	kept := d.ring[:0]
	for _, dest := range d.ring {
		dest.idle++
		if dest.used.And(^uint32(usedSinceSweep))&usedSinceSweep != 0 {
			dest.idle = 0
		}
		if dest.idle < idleSweeps || dest.pipeline.pinned() {
			kept = append(kept, dest)
			continue
		}
		d.known.Delete(dest.name)
		forgotten = append(forgotten, dest.pipeline)
	}
	clear(d.ring[len(kept):])
	d.ring = kept
	if cap(kept) > 64 && len(kept) < cap(kept)/4 {
		d.ring = slices.Clone(kept)
	}
	d.hand = 0
	d.timer = nil
	if len(d.ring) > 0 {
		d.sweepLater()
	}
	d.mu.Unlock()
	for _, p := range forgotten {
		p.retire()
	}
}

// pinned reports whether forgetting the pipeline would lose something: calls
// that it counts, an operator's word, or a limit that a fresh one would not keep.
func (p *Pipeline) pinned() bool {
	if p.bulkhead != nil && (p.bulkhead.InFlight() > 0 || p.bulkhead.Waiting() > 0) {
		return true
	}
	if p.limiter != nil && p.limiter.l.Tokens() < float64(p.limiter.cfg.Burst) {
		return true
	}
	if p.breaker == nil {
		return false
	}
	pinned := p.breaker.pinned()
	p.endpoints.each(func(_ string, b *Breaker) { pinned = pinned || b.pinned() })
	return pinned
}

// retire is for a pipeline that was forgotten; p may be nil.
func (p *Pipeline) retire() {
	if p == nil || p.breaker == nil {
		return
	}
	p.breaker.retire()
	p.endpoints.each(func(_ string, b *Breaker) { b.retire() })
}

// httpEndpoint is the endpoint of a request, for [Call.Endpoint].
func (d *Destinations) httpEndpoint(r *http.Request) string {
	if d.cfg.HTTPEndpoint == nil {
		return ""
	}
	return d.cfg.HTTPEndpoint(r)
}

// Snapshot returns the state of each destination remembered, in no order.
func (d *Destinations) Snapshot() []Snapshot {
	d.mu.Lock()
	pipelines := make([]*Pipeline, len(d.ring))
	for i, dest := range d.ring {
		pipelines[i] = dest.pipeline
	}
	d.mu.Unlock()
	all := make([]Snapshot, len(pipelines))
	for i, p := range pipelines {
		all[i] = p.Snapshot()
	}
	return all
}
