package kit

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// resilienceOf is the configuration of the calls to a peer: Config.Resilience, as
// the peer changes it.
func (c *Config) resilienceOf(peer string) resilience.Config {
	rc := c.Resilience
	if change := c.Peers[peer].Resilience; change != nil {
		change(&rc)
	}
	return rc
}

// checkResilience says what is wrong with the configuration of outbound calls and of
// shedding: at the start, not with the first call.
func (c *Config) checkResilience(fault func(format string, args ...any)) {
	if c.Destinations != nil {
		if !reflect.ValueOf(c.Resilience).IsZero() {
			fault("Config.Resilience and Config.Destinations are both set: configure the destinations, or leave them out")
		}
		for _, name := range c.peerNames() {
			if c.Peers[name].Resilience != nil {
				fault("Config.Peers[%q].Resilience and Config.Destinations are both set: use DestinationsConfig.Configure", name)
			}
		}
	} else {
		if _, err := resilience.NewPipeline("peer", &c.Resilience); err != nil {
			fault("Config.Resilience: %w", err)
			return // the peers have inherited it
		}
		for _, name := range c.peerNames() {
			rc := c.resilienceOf(name)
			if _, err := resilience.NewPipeline(name, &rc); err != nil {
				fault("Config.Peers[%q].Resilience: %w", name, err)
			}
		}
	}
	if c.Shedder != nil && c.Shedding != (resilience.ShedderConfig{}) {
		fault("Config.Shedding is set, which configures a shedder of this service's own: leave out Config.Shedder")
	}
	if _, err := resilience.NewShedder(&c.Shedding); err != nil {
		fault("Config.Shedding: %w", err)
	}
}

func (c *Config) peerNames() []string {
	var names []string
	for name := range c.Peers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// knownPeers lists the peers for a message.
func (c *Config) knownPeers() string {
	if names := c.peerNames(); len(names) > 0 {
		return strings.Join(names, ", ")
	}
	return "none"
}

// newDestinations makes the pipelines of the peers. Hooks that the configuration
// brings are called beside telemetry's.
func (s *Service) newDestinations() (*resilience.Destinations, error) {
	hooks := s.ins.Resilience()
	base := s.cfg.Resilience
	base.Hooks = resilience.JoinHooks(hooks, base.Hooks)
	return resilience.NewDestinations(&resilience.DestinationsConfig{
		Default: base,
		Configure: func(peer string, c *resilience.Config) {
			*c = s.cfg.resilienceOf(peer)
			c.Hooks = resilience.JoinHooks(hooks, c.Hooks)
		},
		HTTPEndpoint: s.cfg.HTTPEndpoint,
	})
}

// httpBound is what an HTTP request to a peer may take that has no deadline: 30 s, more
// where the peer's configuration allows more, 0 for no bound where it is switched off.
func (c *Config) httpBound(peer string, d dialConfig) time.Duration {
	bound := 30 * time.Second
	if c.Destinations != nil || d.noResilience {
		return bound
	}
	rc := c.resilienceOf(peer)
	if rc.Deadline.Off {
		return 0
	}
	return max(bound, rc.Deadline.Total)
}

// parts are what NAPKIN_RESILIENCE_OFF can switch off.
var parts = map[string]func(c *resilience.Config){
	"deadline": func(c *resilience.Config) { c.Deadline.Off = true },
	"retry":    func(c *resilience.Config) { c.Retry.Off = true },
	"budget":   func(c *resilience.Config) { c.Budget.Off = true },
	"breaker":  func(c *resilience.Config) { c.Breaker.Off = true },
	"bulkhead": func(c *resilience.Config) { c.Bulkhead.Off = true },
}

// resilience reads what changes the calls to all peers, or to one.
func (e *env) resilience(cfg *Config) {
	each := func(variable string, take func(peer, value string) (change func(*resilience.Config), ok bool)) {
		for _, entry := range list(e.getenv(variable)) {
			peer, value, named := strings.Cut(entry, "=")
			if !named {
				peer, value = "", entry
			}
			peer, value = strings.TrimSpace(peer), strings.TrimSpace(value)
			p, known := cfg.Peers[peer]
			change, ok := take(peer, value)
			switch {
			case !ok:
				e.fault(variable, entry)
			case named && !known:
				e.faults = append(e.faults, fmt.Errorf("%s=%q: the peer %q is unknown, known are %s: name it in NAPKIN_PEERS or NAPKIN_HTTP_PEERS", variable, entry, peer, cfg.knownPeers()))
			case !named:
				change(&cfg.Resilience)
			default:
				p.Resilience = both(p.Resilience, change)
				cfg.Peers[peer] = p
			}
		}
	}
	each("NAPKIN_RESILIENCE_OFF", func(_, value string) (func(*resilience.Config), bool) {
		off, ok := parts[value]
		return off, ok
	})
	each("NAPKIN_PEER_TIMEOUTS", func(peer, value string) (func(*resilience.Config), bool) {
		d, err := time.ParseDuration(value)
		return func(c *resilience.Config) { c.Deadline.Total = d }, err == nil && d > 0 && peer != ""
	})
}

func both(first, then func(*resilience.Config)) func(*resilience.Config) {
	if first == nil {
		return then
	}
	return func(c *resilience.Config) { first(c); then(c) }
}
