package grpcresilience

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/napkin-kit/napkin/internal/lazyctx"
	"github.com/napkin-kit/napkin/resilience"
)

// ServerConfig sets up a [Server].
type ServerConfig struct {
	// Shedder drops calls under overload. nil: none.
	Shedder *resilience.Shedder
	// Deadline is how long a unary call may take where the caller set no
	// deadline. Defaults to 10 s. A negative value means no bound.
	Deadline time.Duration
	// StreamDeadline is the same for streams. Defaults to 0: no bound.
	StreamDeadline time.Duration
	// TrustCriticality believes the caller's criticality and attempt number.
	// Leave it false where the outside world calls.
	TrustCriticality bool
	// Exempt says which methods are never shed, such as health checks. nil: none.
	Exempt func(fullMethod string) bool
}

// Server bounds the time of calls and sheds them under overload, in this order.
// A unary call holds its place with the shedder until it is answered and its
// latency is measured. A stream holds one while it is set up, until its first
// response and for a second at most, and is not measured: how long a stream
// lives says nothing about load.
type Server struct{ cfg ServerConfig }

// streamHold bounds how long a stream that sends nothing holds a place.
const streamHold = time.Second

// NewServer returns the server side; a nil config means the defaults.
func NewServer(cfg *ServerConfig) (*Server, error) {
	var c ServerConfig
	if cfg != nil {
		c = *cfg
	}
	if c.Deadline == 0 {
		c.Deadline = 10 * time.Second
	}
	if c.StreamDeadline < 0 {
		return nil, fmt.Errorf("grpcresilience: Server.StreamDeadline is %v: set it to a positive duration, or leave it 0 for no bound", c.StreamDeadline)
	}
	return &Server{cfg: c}, nil
}

// fromWire believes the caller's criticality and attempt number, if it may.
func (s *Server) fromWire(ctx context.Context) context.Context {
	if !s.cfg.TrustCriticality {
		return ctx
	}
	if c, ok := resilience.ParseCriticality(first(ctx, metaCriticality)); ok {
		ctx = resilience.WithCriticality(ctx, c)
	}
	if n, ok := resilience.ParseAttempt(first(ctx, metaAttempt)); ok {
		ctx = resilience.WithAttempt(ctx, n)
	}
	return ctx
}

func first(ctx context.Context, key string) string {
	if v := metadata.ValueFromIncomingContext(ctx, key); len(v) > 0 {
		return v[0]
	}
	return ""
}

// bound gives the context a deadline where the caller set none.
func bound(ctx context.Context, deadline time.Duration) (context.Context, func()) {
	if _, ok := ctx.Deadline(); ok || deadline <= 0 {
		return ctx, func() {}
	}
	c := new(lazyctx.Context)
	c.Init(ctx, time.Now().Add(deadline))
	return c, c.Cancel
}

func (s *Server) sheds(method string) bool {
	return s.cfg.Shedder != nil && (s.cfg.Exempt == nil || !s.cfg.Exempt(method))
}

// Unary is a grpc.UnaryServerInterceptor.
func (s *Server) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	ctx, cancel := bound(s.fromWire(ctx), s.cfg.Deadline)
	defer cancel()
	if !s.sheds(info.FullMethod) {
		resp, err := handler(ctx, req)
		return resp, StatusError(err)
	}
	ticket, err := s.cfg.Shedder.Acquire(ctx)
	if err != nil {
		return nil, StatusError(err)
	}
	outcome := resilience.ShedIgnore // what a panic leaves
	defer func() { ticket.Release(outcome) }()
	resp, err := handler(ctx, req)
	outcome = resilience.OutcomeOf(ctx, err)
	return resp, StatusError(err)
}

// Stream is a grpc.StreamServerInterceptor.
func (s *Server) Stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	ctx, cancel := bound(s.fromWire(stream.Context()), s.cfg.StreamDeadline)
	defer cancel()
	ss := &serverStream{ServerStream: stream, ctx: ctx, release: func() {}}
	if s.sheds(info.FullMethod) {
		ticket, err := s.cfg.Shedder.Acquire(ctx)
		if err != nil {
			return StatusError(err)
		}
		ss.release = sync.OnceFunc(func() { ticket.Release(resilience.ShedIgnore) })
		defer ss.release()
		hold := time.AfterFunc(streamHold, ss.release)
		defer hold.Stop()
	}
	return StatusError(handler(srv, ss))
}

type serverStream struct {
	grpc.ServerStream
	ctx     context.Context //nolint:containedctx // grpc's way to change a stream's context
	release func()
}

func (s *serverStream) Context() context.Context { return s.ctx }

func (s *serverStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	s.release()
	return err
}

// CeilingUnary bounds the calls in flight, before anything is known of them: the
// outermost protection, whose refusals cost almost nothing.
func CeilingUnary(b *resilience.Bulkhead) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		if err := b.Acquire(ctx); err != nil {
			return nil, StatusError(err)
		}
		defer b.Release()
		return handler(ctx, req)
	}
}

// CeilingStream bounds the streams in flight, as [CeilingUnary] does for calls.
func CeilingStream(b *resilience.Bulkhead) grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if err := b.Acquire(stream.Context()); err != nil {
			return StatusError(err)
		}
		defer b.Release()
		return handler(srv, stream)
	}
}
