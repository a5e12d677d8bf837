package kit

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/napkin-kit/napkin/resilience"
)

// Services in one process may share a shedder. A call from one to another then belongs
// to a request that the shedder has admitted and that holds a place: judged again, it
// could wait for the very place that its caller holds. The token says "admitted here";
// being random, no other process can say so before it was told.
type admittedKey struct{}

const admittedMetadata = "napkin-admitted"

var process = sync.OnceValue(rand.Text)

func admissionToken(s *resilience.Shedder) string { return fmt.Sprintf("%s-%p", process(), s) }

// markAdmitted tells the calls that this one makes.
func (s *Service) markAdmitted(ctx context.Context, _ call, next func(context.Context) error) error {
	return next(context.WithValue(ctx, admittedKey{}, s.admission))
}

// heldPlace marks the calls of an HTTP request as admitted while it holds its place,
// which a stream gives back.
type heldPlace struct {
	context.Context //nolint:containedctx // it is one
	token           string
	gone            atomic.Bool
}

func (h *heldPlace) Value(key any) any {
	if _, ok := key.(admittedKey); ok && !h.gone.Load() {
		return h.token
	}
	return h.Context.Value(key)
}

// loadGuards bounds calls and sheds those that no service of this process has admitted.
func (s *Service) loadGuards() (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor, error) {
	bound, err := s.loadGuard(nil)
	if err != nil {
		return nil, nil, err
	}
	if s.cfg.NoShedding {
		return bound.Unary, bound.Stream, nil
	}
	shed, err := s.loadGuard(s.shedder)
	if err != nil {
		return nil, nil, err
	}
	if s.admission == "" {
		return shed.Unary, shed.Stream, nil
	}
	admitted := func(ctx context.Context) bool { return firstMetadata(ctx, admittedMetadata) == s.admission }
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			if admitted(ctx) {
				return bound.Unary(ctx, req, info, handler)
			}
			return shed.Unary(ctx, req, info, handler)
		}, func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			if admitted(ss.Context()) {
				return bound.Stream(srv, ss, info, handler)
			}
			return shed.Stream(srv, ss, info, handler)
		}, nil
}
