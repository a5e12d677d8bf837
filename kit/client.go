package kit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/grpcauthn"
	"github.com/napkin-kit/napkin/kit/correlation"
)

// clients are the connections to peers.
type clients struct {
	s      *Service
	tracer trace.Tracer

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn // as Dial(peer) without options gives them
	other []*grpc.ClientConn
	idle  []func() // of HTTP transports
}

func (c *clients) init(s *Service) {
	c.s, c.tracer, c.conns = s, s.tel.TracerProvider().Tracer("github.com/napkin-kit/napkin/kit"), make(map[string]*grpc.ClientConn)
}

// DialOption switches off, or adds to, what [Service.Dial] and [Service.HTTPClient] do.
type DialOption func(*dialConfig)

type dialConfig struct {
	noResilience, noToken, noCallSpan, noIdempotency bool
	grpc                                             []grpc.DialOption
}

// WithoutResilience makes each call once, without retry, breaker, bulkhead or attempt
// timeout: for a caller that does its own retrying, and for tests.
func WithoutResilience() DialOption { return func(c *dialConfig) { c.noResilience = true } }

// WithoutToken leaves the user's token at home: for a peer that has no business with it.
func WithoutToken() DialOption { return func(c *dialConfig) { c.noToken = true } }

// WithoutCallSpan leaves out the span around all attempts of a call; each attempt
// keeps its own.
func WithoutCallSpan() DialOption { return func(c *dialConfig) { c.noCallSpan = true } }

// WithoutIdempotencyKey does not send the key that idempotency.WithKey has put into the
// context.
func WithoutIdempotencyKey() DialOption { return func(c *dialConfig) { c.noIdempotency = true } }

// WithGRPC adds gRPC's own options; interceptors among them stand inside all of kit's.
// [Service.HTTPClient] ignores it.
func WithGRPC(opts ...grpc.DialOption) DialOption {
	return func(c *dialConfig) { c.grpc = append(c.grpc, opts...) }
}

func dialConfigOf(opts []DialOption) dialConfig {
	var c dialConfig
	for _, o := range opts {
		o(&c)
	}
	return c
}

// Dial returns a connection to the named peer, made on first use and made again
// whenever the peer comes back. Without options it is one connection for all callers;
// the service closes it at its end, not the caller. An error says which peers there are.
func (s *Service) Dial(peer string, opts ...DialOption) (*grpc.ClientConn, error) {
	p, err := s.peer(peer)
	if err != nil {
		return nil, err
	}
	if p.Addr == "" {
		return nil, fmt.Errorf("kit: %s: Config.Peers[%q].Addr is empty: give its gRPC address", s.cfg.Name, peer)
	}
	c := &s.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[peer]; conn != nil && len(opts) == 0 {
		return conn, nil
	}
	conn, err := c.connect(peer, p, dialConfigOf(opts))
	if err != nil {
		return nil, fmt.Errorf("kit: %s: dialling %s: %w", s.cfg.Name, peer, err)
	}
	if len(opts) == 0 {
		c.conns[peer] = conn
	} else {
		c.other = append(c.other, conn)
	}
	return conn, nil
}

func (s *Service) peer(name string) (Peer, error) {
	p, ok := s.cfg.Peers[name]
	if ok {
		return p, nil
	}
	var names []string
	for n := range s.cfg.Peers {
		names = append(names, n)
	}
	slices.Sort(names)
	return Peer{}, fmt.Errorf("kit: %s has no peer %q in Config.Peers, only: %s", s.cfg.Name, name, strings.Join(names, ", "))
}

func (c *clients) connect(name string, p Peer, cfg dialConfig) (*grpc.ClientConn, error) {
	s := c.s
	target, opts := targetOf(p.Addr)
	opts = append(opts,
		grpc.WithTransportCredentials(credentials.NewTLS(authn.ClientTLS(s.identity, tlsconfig.AuthorizeID(p.ID)))),
		grpc.WithNoProxy(), // peers are reached directly; their identity is what is checked
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithIdleTimeout(0), // stay connected: the first call after a pause is as fast as any
		grpc.WithStatsHandler(otelgrpc.NewClientHandler( // a span per attempt
			otelgrpc.WithTracerProvider(s.tel.TracerProvider()),
			otelgrpc.WithMeterProvider(s.tel.MeterProvider()),
			otelgrpc.WithPropagators(s.tel.Propagator()),
		)),
		grpc.WithChainUnaryInterceptor(correlateUnary),
		grpc.WithChainStreamInterceptor(correlateStream),
	)
	if !cfg.noToken {
		opts = append(opts, grpcauthn.ForwardToken())
	}
	opts = append(opts, c.protect(name, cfg)...)
	conn, err := grpc.NewClient(target, append(opts, cfg.grpc...)...)
	if err != nil {
		return nil, err
	}
	conn.Connect() // do not make the first call wait for the handshake
	return conn, nil
}

// targetOf turns a peer's address into a gRPC target: one address is resolved by DNS,
// with all its records; several are the replicas themselves.
func targetOf(addr string) (string, []grpc.DialOption) {
	list := strings.Split(addr, ",")
	if len(list) == 1 {
		if strings.Contains(addr, "://") {
			return addr, nil
		}
		return "dns:///" + addr, nil
	}
	static := manual.NewBuilderWithScheme("replicas")
	var state resolver.State
	for _, a := range list {
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: strings.TrimSpace(a)}}})
	}
	static.InitialState(state)
	return "replicas:///" + strings.TrimSpace(list[0]), []grpc.DialOption{grpc.WithResolvers(static)}
}

// correlated puts the identifiers into the outgoing metadata.
func correlated(ctx context.Context) context.Context {
	ids := correlation.From(ctx)
	if ids.RequestID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, correlation.RequestIDMetadata, ids.RequestID)
	}
	if ids.CorrelationID != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, correlation.CorrelationIDMetadata, ids.CorrelationID)
	}
	if token, ok := ctx.Value(admittedKey{}).(string); ok {
		ctx = metadata.AppendToOutgoingContext(ctx, admittedMetadata, token)
	}
	return ctx
}

func correlateUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoker(correlated(ctx), method, req, reply, cc, opts...)
}

func correlateStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(correlated(ctx), desc, cc, method, opts...)
}

// callSpan spans a call with all its attempts. A stream is one attempt and has its own.
func (c *clients) callSpan(peer string) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		ctx, span := c.tracer.Start(ctx, "call "+strings.TrimPrefix(method, "/"), trace.WithAttributes(attribute.String("peer.service", peer)))
		defer span.End()
		err := invoker(ctx, method, req, reply, cc, opts...)
		if err != nil && span.IsRecording() {
			span.SetStatus(otelcodes.Error, status.Code(err).String())
		}
		return err
	}
}

// states are the peers' connections as /readyz shows them.
func (c *clients) states() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]string, len(c.conns))
	for name, conn := range c.conns {
		out[name] = conn.GetState().String()
	}
	return out
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		_ = conn.Close() // only says that it was closed before
	}
	for _, conn := range c.other {
		_ = conn.Close()
	}
	for _, closeIdle := range c.idle {
		closeIdle()
	}
	c.conns, c.other, c.idle = nil, nil, nil
}

// callerOf is the SPIFFE ID at the other end of a served call.
func (s *Service) callerOf(ctx context.Context) (spiffeid.ID, error) { return grpcauthn.PeerID(ctx) }

var errPeerURL = errors.New("kit: the URL's host is not this client's peer")
