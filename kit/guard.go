package kit

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

// guard is one step around a call. Being written once for unary calls and streams, it
// protects both alike.
type guard func(ctx context.Context, c call, next func(context.Context) error) error

type call struct {
	method string
	stream bool
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	var resp any
	err := g(ctx, call{info.FullMethod, false}, func(ctx context.Context) (err error) {
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return g(ss.Context(), call{info.FullMethod, true}, func(ctx context.Context) error {
		return handler(srv, streamWith{ss, ctx})
	})
}

// streamWith is a stream whose context is another one.
type streamWith struct {
	grpc.ServerStream
	ctx context.Context
}

func (s streamWith) Context() context.Context { return s.ctx }

// unlessHealth lets health checks past a pair of interceptors.
func unlessHealth(u grpc.UnaryServerInterceptor, st grpc.StreamServerInterceptor) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if isHealth(info.FullMethod) {
				return handler(ctx, req)
			}
			return u(ctx, req, info, handler)
		}, func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if isHealth(info.FullMethod) {
				return handler(srv, ss)
			}
			return st(srv, ss, info, handler)
		}
}

// front is the outermost guard. The identifiers are read before anything can fail, so
// that the line about a panic says whose request it was.
func (s *Service) front(ctx context.Context, c call, next func(context.Context) error) (err error) {
	start := time.Now()
	ctx = context.WithValue(ctx, drainKey{}, s.draining)
	ctx, ids := correlation.Ensure(correlation.With(ctx, correlation.IDs{
		RequestID:     firstMetadata(ctx, correlation.RequestIDMetadata),
		CorrelationID: firstMetadata(ctx, correlation.CorrelationIDMetadata),
	}))
	markSpan(ctx, ids)
	defer func() {
		if r := recover(); r != nil {
			err = panicked(r)
		}
		st := statusOf(err)
		if st.Code() == codes.Canceled && ctx.Err() == nil {
			// Something on our side was cancelled; the caller did not hang up and must
			// not be told that it did.
			st = grpcproblem.ToStatus(problem.New(503, "unavailable", "the service is not available right now"))
		}
		s.logCall(ctx, c, st, err, time.Since(start))
		err = st.Err()
	}()
	if isHealth(c.method) {
		return next(ctx)
	}
	leave, err := s.enter()
	if err != nil {
		return err
	}
	defer leave()
	return next(ctx)
}

// enter counts a request in, or refuses it where the ceiling is reached.
func (s *Service) enter() (leave func(), err error) {
	n := s.inFlight.Add(1)
	if ceiling := int64(s.cfg.MaxInFlight); ceiling > 0 && n > ceiling {
		s.inFlight.Add(-1)
		p := problem.New(503, "overloaded", "too many requests at once")
		p.RetryAfter = time.Second
		return nil, p
	}
	return func() { s.inFlight.Add(-1) }, nil
}

func firstMetadata(ctx context.Context, name string) string {
	if v := metadata.ValueFromIncomingContext(ctx, name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func markSpan(ctx context.Context, ids correlation.IDs) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String("napkin.request_id", ids.RequestID), attribute.String("napkin.correlation_id", ids.CorrelationID))
	}
}

// panicError is a recovered panic: its stack is for the log alone.
type panicError struct {
	value any
	stack []byte
}

func panicked(r any) error          { return &panicError{r, debug.Stack()} }
func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }
func (e *panicError) LogValue() slog.Value {
	return slog.StringValue(fmt.Sprintf("panic: %v\n%s", e.value, e.stack))
}

func (s *Service) logCall(ctx context.Context, c call, st *status.Status, err error, took time.Duration) {
	level := slog.LevelInfo
	switch st.Code() {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		level = slog.LevelWarn
	}
	quiet := level == slog.LevelInfo && (s.cfg.NoAccessLog || isHealth(c.method))
	if quiet || !s.log.Enabled(ctx, level) {
		return
	}
	attrs := make([]slog.Attr, 0, 5)
	attrs = append(attrs, slog.String("rpc.method", c.method), slog.String("rpc.status", st.Code().String()), slog.Duration("took", took))
	if id, e := s.callerOf(ctx); e == nil {
		attrs = append(attrs, slog.String("peer", id.String()))
	}
	if err != nil {
		attrs = append(attrs, slog.Any("error", err))
	}
	s.log.LogAttrs(ctx, level, "grpc call", attrs...)
}

// denied logs why a caller was refused; the caller is told only that it was.
func (s *Service) denied(ctx context.Context, method string, caller spiffeid.ID, reason error) {
	s.log.LogAttrs(ctx, slog.LevelWarn, "call refused",
		slog.String("rpc.method", method), slog.String("peer", caller.String()), slog.Any("error", reason))
}

// knowUser puts the verified user into the identifiers and on the span.
func (s *Service) knowUser(ctx context.Context, _ call, next func(context.Context) error) error {
	return next(withUser(ctx))
}

func withUser(ctx context.Context) context.Context {
	p, ok := authn.PrincipalFrom(ctx)
	if !ok || !p.IsUser() {
		return ctx
	}
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(attribute.String("enduser.id", p.Subject))
	}
	return correlation.WithUser(ctx, p.Subject)
}
