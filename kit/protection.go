package kit

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/internal/httpstream"
	"github.com/napkin-kit/napkin/internal/lazyctx"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/grpcresilience"
)

// initResilience makes what protects this service, and what protects others from it.
func (s *Service) initResilience() error {
	s.shedder, s.destinations = s.cfg.Shedder, s.cfg.Destinations
	if s.shedder != nil {
		s.admission = admissionToken(s.shedder)
	} else {
		cfg := s.cfg.Shedding
		cfg.Hooks = resilience.JoinShedderHooks(s.ins.Shedder(), cfg.Hooks)
		shedder, err := resilience.NewShedder(&cfg)
		if err != nil {
			return fmt.Errorf("kit: %w", err)
		}
		s.shedder = shedder
	}
	if s.destinations == nil {
		d, err := s.newDestinations()
		if err != nil {
			return fmt.Errorf("kit: %w", err)
		}
		s.destinations = d
	}
	return nil
}

// Destinations are the pipelines of this service's peers, by peer name: one budget,
// breaker and bulkhead for each, whatever the protocol. Other clients may share them, and
// what publishes events: see package eventresilience.
func (s *Service) Destinations() *resilience.Destinations { return s.destinations }

// loadGuard bounds the time of a call and sheds it under overload.
func (s *Service) loadGuard(shedder *resilience.Shedder) (*grpcresilience.Server, error) {
	cfg := &grpcresilience.ServerConfig{
		Shedder:        shedder,
		Deadline:       s.cfg.DefaultDeadline,
		StreamDeadline: max(s.cfg.StreamDeadline, 0),
		// The gRPC listener is mTLS: whoever gets here is a workload of ours.
		TrustCriticality: true,
	}
	g, err := grpcresilience.NewServer(cfg)
	if err != nil {
		return nil, fmt.Errorf("kit: %w", err)
	}
	return g, nil
}

// keyGuard parses idempotency keys for the methods that Config.Idempotency names.
func (s *Service) keyGuard() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor, error) {
	cfg := grpcidempotency.ServerConfig{Rules: s.cfg.Idempotency, Scope: scopeOf}
	unary, err := grpcidempotency.UnaryServer(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("kit: Config.Idempotency: %w", err)
	}
	stream, err := grpcidempotency.StreamServer(cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("kit: Config.Idempotency: %w", err)
	}
	return unary, stream, nil
}

// scopeOf is whose idempotency key it is: the end user's where there is one, else the
// calling service's. The prefixes keep a user from posing as a service.
func scopeOf(ctx context.Context) (string, error) {
	p, ok := authn.PrincipalFrom(ctx)
	switch {
	case ok && p.IsUser():
		return "user:" + p.Issuer + ":" + p.Subject, nil
	case ok && !p.Workload.IsZero():
		return "workload:" + p.Workload.String(), nil
	}
	return "", authn.ErrPeerUnknown
}

// protect appends what keeps a connection's calls from harming either side.
func (c *clients) protect(name string, cfg dialConfig) []grpc.DialOption {
	var opts []grpc.DialOption
	if !cfg.noIdempotency {
		opts = append(opts,
			grpc.WithChainUnaryInterceptor(grpcidempotency.UnaryClient(grpcidempotency.ClientConfig{})),
			grpc.WithChainStreamInterceptor(grpcidempotency.StreamClient(grpcidempotency.ClientConfig{})))
	}
	if !cfg.noCallSpan {
		opts = append(opts, grpc.WithChainUnaryInterceptor(c.callSpan(name)))
	}
	if !cfg.noResilience {
		return append(opts, grpcresilience.DialOptions(c.s.destinations, name)...)
	}
	return append(opts, grpc.WithChainUnaryInterceptor(c.s.boundUnary))
}

// boundUnary gives a call without resilience the deadline it would have lacked.
func (s *Service) boundUnary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok && s.cfg.DefaultDeadline > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.DefaultDeadline)
		defer cancel()
	}
	return invoker(ctx, method, req, reply, cc, opts...)
}

func (c *clients) protectHTTP(base http.RoundTripper, cfg dialConfig) http.RoundTripper {
	if !cfg.noResilience {
		base = resilience.NewTransport(base, c.s.destinations)
	}
	if !cfg.noIdempotency {
		base = keyTransport{base}
	}
	return base
}

// keyTransport sends the context's idempotency key, one for all attempts.
type keyTransport struct{ next http.RoundTripper }

func (t keyTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if key, ok := idempotency.KeyFrom(r.Context()); ok && r.Header.Get(idempotency.Header) == "" {
		r = r.Clone(r.Context())
		r.Header.Set(idempotency.Header, idempotency.FormatKey(key))
	}
	return t.next.RoundTrip(r)
}

// httpLoad bounds a request's time and sheds it under overload, once its body is there.
// An answer that the handler flushes is a stream: it gives its place back with the first
// flush, and is no sample of the latency, since how long it lives says nothing about
// load. What the client accepts proves nothing: it makes room for StreamDeadline, which
// only a flush within DefaultDeadline lets the handler have.
func (s *Service) httpLoad(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		if !s.cfg.PublicHTTP {
			ctx = loadFromWire(ctx, r.Header)
		}
		r = r.WithContext(ctx)
		arrived, err := s.arrived(r)
		if err != nil {
			WriteError(w, r, err)
			return
		}
		defer arrived()
		streams := &httpstream.Writer{ResponseWriter: w, Began: func() {}}
		limit := s.cfg.DefaultDeadline
		if limit > 0 && wantsEvents(r) {
			silence := new(lazyctx.Context)
			silence.InitTimeout(ctx, time.Now().Add(limit))
			defer silence.Cancel()
			streams.Began = func() { silence.Stop() }
			ctx, limit = silence, s.cfg.StreamDeadline
		}
		if limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, limit)
			defer cancel()
		}
		r = r.WithContext(ctx)
		if s.cfg.NoShedding {
			next.ServeHTTP(streams, r)
			return
		}
		ticket, err := s.shedder.Acquire(ctx)
		if err != nil {
			WriteError(w, r, err)
			return
		}
		var once sync.Once
		release := func(o resilience.ShedOutcome) { once.Do(func() { ticket.Release(o) }) }
		outcome := resilience.ShedIgnore // what a panic leaves
		defer func() { release(outcome) }()
		lift := streams.Began
		held := &heldPlace{Context: ctx, token: s.admission}
		streams.Began = func() { lift(); held.gone.Store(true); release(resilience.ShedIgnore) }
		if s.admission != "" {
			r = r.WithContext(held)
		}
		next.ServeHTTP(streams, r)
		outcome = resilience.OutcomeOf(ctx, nil)
	})
}

func wantsEvents(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.Header.Get("Accept"), "text/event-stream")
}

// loadFromWire believes a workload of ours about how much its request matters.
func loadFromWire(ctx context.Context, h http.Header) context.Context {
	if c, ok := resilience.ParseCriticality(h.Get(resilience.HeaderCriticality)); ok {
		ctx = resilience.WithCriticality(ctx, c)
	}
	if n, ok := resilience.ParseAttempt(h.Get(resilience.HeaderAttempt)); ok {
		ctx = resilience.WithAttempt(ctx, n)
	}
	return ctx
}
