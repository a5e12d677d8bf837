package resilience

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
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
	// lately are forgotten. Defaults to 4096, about 8 MiB.
	Max int
	// Hooks observe all destinations; Default.Hooks, if set, takes precedence.
	Hooks *Hooks
}

// Destinations owns one [Pipeline] per destination, made on first use. Calls to
// one destination share its breaker, budget and bulkhead, whatever protocol
// they use. It is safe for concurrent use.
type Destinations struct {
	cfg DestinationsConfig

	known sync.Map // string → *destination

	mu   sync.Mutex
	ring []*destination // for the clock algorithm; hand points into it
	hand int
}

type destination struct {
	name     string
	pipeline *Pipeline
	used     atomic.Bool // since the hand last passed
}

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
	if c.Max < 1 || c.Max > 1_000_000 {
		return nil, fieldError("Destinations.Max", c.Max, "a number between 1 and 1000000, or leave it 0 for the default")
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
		if !dest.used.Load() { // a plain read keeps the line shared between CPUs
			dest.used.Store(true)
		}
		return dest.pipeline, nil
	}
	if name == "" {
		return nil, errNoName
	}
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
	d.mu.Lock()
	defer d.mu.Unlock()
	if v, ok := d.known.Load(dest.name); ok { // another was faster
		return v.(*destination).pipeline
	}
	if len(d.ring) < d.cfg.Max {
		d.ring = append(d.ring, dest)
	} else {
		d.ring[d.victim()] = dest
	}
	d.known.Store(dest.name, dest)
	return dest.pipeline
}

// victim forgets one destination and returns its place: second chance for what
// was used since the hand last passed. A flood of names seen once therefore
// passes through without driving out those in use.
func (d *Destinations) victim() int {
	for {
		i := d.hand
		d.hand = (d.hand + 1) % len(d.ring)
		if dest := d.ring[i]; !dest.used.Swap(false) {
			d.known.Delete(dest.name)
			return i
		}
	}
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
