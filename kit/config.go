package kit

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/telemetry"
)

// None as an address turns that listener off.
const None = "none"

// Config is what a service is made from. Name, and Identity or WorkloadAPI, are
// required; the zero value of everything else is a working default. A listener given
// wins over its address; [New] takes ownership of it.
type Config struct {
	// Name is the service's name, as its peers and its telemetry know it.
	Name string
	// Version is what telemetry and /buildinfo report. Defaults to the main
	// module's version.
	Version string

	// GRPCAddr is where the gRPC server listens. Defaults to "127.0.0.1:0";
	// "none" turns it off.
	GRPCAddr     string
	GRPCListener net.Listener
	// HTTPAddr is where the HTTP server listens. Defaults to "none".
	HTTPAddr     string
	HTTPListener net.Listener
	// AdminAddr is where /livez, /readyz, /metrics and the rest are served in
	// clear, for operators only. Defaults to "127.0.0.1:0"; "none" turns it off.
	AdminAddr     string
	AdminListener net.Listener

	// Identity is who this service is and whom it trusts. The caller owns it.
	Identity authn.Identity
	// WorkloadAPI is the address of a SPIFFE Workload API to take the identity
	// from where Identity is nil, such as "unix:///run/spire/agent.sock".
	WorkloadAPI string
	// SPIFFEID is the identity to run as. Required with WorkloadAPI, which may
	// offer several; where Identity is given, it must be this one.
	SPIFFEID spiffeid.ID
	// Peers are the services this one calls, by name.
	Peers map[string]Peer

	// PublicHTTP makes the HTTP listener the edge: plain HTTP, open to callers
	// without an identity, whose criticality and attempt headers are ignored.
	PublicHTTP bool
	// HTTPCallers may call the HTTP listener when it is not public. Nobody else may.
	HTTPCallers []spiffeid.ID
	// Verifier checks users' tokens. Required where the policy wants a user, unless
	// NewVerifier is given. The caller owns it.
	Verifier *authn.Verifier
	// NewVerifier makes the Verifier where it takes the service itself to do so:
	// its HTTPClient fetches the issuer's keys over mTLS. The service owns what it
	// returns.
	NewVerifier func(s *Service) (*authn.Verifier, error)

	// Resilience configures the calls to all peers, over gRPC and HTTP; a Peer may
	// change it for itself. Its zero value is the defaults of package resilience:
	// deadline, retry, budget, breaker and bulkhead on, each with a field Off. Its
	// hooks are called beside telemetry's.
	Resilience resilience.Config
	// HTTPEndpoint names the endpoint of a request to a peer, for breakers per
	// endpoint: see resilience.DestinationsConfig. gRPC needs nothing of the kind.
	HTTPEndpoint func(*http.Request) string
	// Destinations are the resilience pipelines of the peers, by peer name, to be
	// shared with others. Defaults to this service's own, made from Resilience.
	Destinations *resilience.Destinations

	// Shedder drops requests under overload. Services that share a process, and so
	// its CPUs, should share one: what one of them has admitted, the others do not
	// judge again, since a request that holds a place and waits for one further
	// down would starve both. Defaults to one of this service's own.
	Shedder *resilience.Shedder
	// Shedding configures the shedder of this service's own; its hooks are called
	// beside telemetry's.
	Shedding resilience.ShedderConfig
	// NoShedding leaves shedding out, whatever Shedder and Shedding say: with
	// NAPKIN_SHEDDING=off it is the operator's switch.
	NoShedding bool
	// Idempotency says which gRPC methods take an idempotency key, by full method.
	// The key is the end user's where there is one, else the calling service's.
	Idempotency map[string]grpcidempotency.Rule

	// Telemetry is where spans, metrics and logs go. The caller owns it. Defaults
	// to one started from the OTEL_* variables, which Run shuts down.
	Telemetry *telemetry.Telemetry
	// Logger receives the log. Defaults to Telemetry's.
	Logger *slog.Logger
	// NoAccessLog leaves out the line per request; failures are still logged.
	NoAccessLog bool

	// DefaultDeadline bounds a unary call or HTTP request whose caller set no
	// deadline. Defaults to 10 s; negative means none.
	DefaultDeadline time.Duration
	// StreamDeadline bounds a gRPC stream without a deadline, and a stream of
	// server-sent events: a GET that accepts text/event-stream, and whose handler
	// flushes within DefaultDeadline. Defaults to 15 min; negative means none.
	StreamDeadline time.Duration
	// MaxInFlight is how many requests are served at once; more are refused at
	// once. Defaults to 4096; negative means no ceiling.
	MaxInFlight int
	// MaxRequestBytes bounds an HTTP request's body and a gRPC message. Defaults
	// to 1 MiB for both.
	MaxRequestBytes int64
	// NoValidation leaves out the check of requests against their protovalidate rules.
	NoValidation bool

	// DrainDelay is the time between not being ready and not accepting, for load
	// balancers to notice. Defaults to 0; 5 s suits Kubernetes.
	DrainDelay time.Duration
	// DrainTimeout bounds finishing what is in flight, after which it is cut off.
	// Defaults to 30 s.
	DrainTimeout time.Duration
	// StopTimeout bounds the stopping of workers, then of the rest. Defaults to 15 s.
	StopTimeout time.Duration
}

// Peer is a service that this one calls.
type Peer struct {
	// Addr is its gRPC address, host:port; several replicas are separated by commas.
	Addr string
	// HTTPAddr is its HTTP address, host:port.
	HTTPAddr string
	// ID is the SPIFFE ID it must prove to have.
	ID spiffeid.ID
	// Resilience, if not nil, changes Config.Resilience for the calls to this peer:
	// another time, no retries, no breaker. It is called more than once and must
	// only set fields.
	Resilience func(c *resilience.Config)
}

func (c Config) withDefaults() Config {
	str := func(p *string, d string) {
		if *p == "" {
			*p = d
		}
	}
	dur := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	str(&c.GRPCAddr, "127.0.0.1:0")
	str(&c.HTTPAddr, None)
	str(&c.AdminAddr, "127.0.0.1:0")
	dur(&c.DefaultDeadline, 10*time.Second)
	dur(&c.StreamDeadline, 15*time.Minute)
	dur(&c.DrainTimeout, 30*time.Second)
	dur(&c.StopTimeout, 15*time.Second)
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 4096
	}
	if c.MaxRequestBytes == 0 {
		c.MaxRequestBytes = 1 << 20
	}
	return c
}

func (c Config) validate(policy *authn.Policy) error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n/,=") {
		fault("Config.Name is %q: give a name without spaces, '/', ',' or '='", c.Name)
	}
	if c.Identity == nil && c.WorkloadAPI == "" {
		fault("Config.Identity is nil and Config.WorkloadAPI is empty: every service needs an identity; set one of them")
	}
	if c.Identity == nil && c.SPIFFEID.IsZero() {
		fault("Config.SPIFFEID is empty: name the identity that the Workload API is to give")
	}
	if policy == nil {
		fault("the policy is nil: say who may call what with authn.NewPolicy")
	} else if c.Verifier == nil && c.NewVerifier == nil && policy.NeedsVerifier() {
		fault("the policy looks at users' tokens, and Config.Verifier and Config.NewVerifier are nil: set one")
	}
	if c.Verifier != nil && c.NewVerifier != nil {
		fault("Config.Verifier and Config.NewVerifier are both set: keep one")
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"DrainDelay", c.DrainDelay}, {"DrainTimeout", c.DrainTimeout}, {"StopTimeout", c.StopTimeout}} {
		if d.v < 0 {
			fault("Config.%s is %v: it must not be negative", d.name, d.v)
		}
	}
	if c.MaxRequestBytes < 0 {
		fault("Config.MaxRequestBytes is %d: it must not be negative", c.MaxRequestBytes)
	}
	httpOn := c.HTTPListener != nil || c.HTTPAddr != None
	if httpOn && !c.PublicHTTP && len(c.HTTPCallers) == 0 {
		fault("the HTTP listener is on and Config.HTTPCallers is empty, so nobody may call it: list the callers, set PublicHTTP, or set HTTPAddr to %q", None)
	}
	c.checkResilience(fault)
	for name, p := range c.Peers {
		if p.Addr == "" && p.HTTPAddr == "" {
			fault("Config.Peers[%q] has no address: set Addr or HTTPAddr", name)
		}
		if p.ID.IsZero() {
			fault("Config.Peers[%q].ID is empty: name the SPIFFE ID that this peer must prove", name)
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return fmt.Errorf("kit: %w", errors.Join(faults...))
}
