package resilience

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	"github.com/failsafe-go/failsafe-go/failsafehttp"
	kratosratelimit "github.com/go-kratos/kratos/v2/middleware/ratelimit"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/grpcresilience"
)

// trivial is the transport below: a response in memory.
type trivial struct{}

func (trivial) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{}, Body: io.NopCloser(strings.NewReader("ok")), Request: req,
	}, nil
}

// watching looks at its request's context first, as http.Transport does.
type watching struct{}

func (watching) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	defer cancel(nil)
	_ = ctx
	return trivial{}.RoundTrip(req)
}

func destinations(b *testing.B, cfg resilience.Config) *resilience.Destinations {
	b.Helper()
	return must[*resilience.Destinations](b)(resilience.NewDestinations(&resilience.DestinationsConfig{Default: cfg}))
}

// exchange makes a GET whose context can be cancelled, as that of a handler's
// call can, and reads nothing.
func exchange(b *testing.B, rt http.RoundTripper, url string) func() error {
	b.Helper()
	ctx, cancel := context.WithCancel(ctx)
	b.Cleanup(cancel)
	req := must[*http.Request](b)(http.NewRequestWithContext(ctx, http.MethodGet, url, nil))
	return func() error {
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
}

// transports: base is what is below; the others add to it.
func transports(base http.RoundTripper, url func(b *testing.B) string) []contender {
	return []contender{
		{"base", func(b *testing.B) func() error { return exchange(b, base, url(b)) }},
		{"napkin", func(b *testing.B) func() error {
			return exchange(b, resilience.NewTransport(base, destinations(b, resilience.Config{})), url(b))
		}},
		{"napkin-without-deadlines", func(b *testing.B) func() error {
			return exchange(b, resilience.NewTransport(base, destinations(b, withoutDeadline)), url(b))
		}},
		{"failsafe-without-deadlines", func(b *testing.B) func() error { return exchange(b, failsafeHTTP(base), url(b)) }},
	}
}

func inMemory(*testing.B) string { return "http://shop.test/" }

func BenchmarkRoundTripper(b *testing.B) { run(b, false, false, transports(trivial{}, inMemory)) }
func BenchmarkParallelRoundTripper(b *testing.B) {
	run(b, true, false, transports(trivial{}, inMemory))
}
func BenchmarkWatchingRoundTripper(b *testing.B) {
	run(b, false, false, transports(watching{}, inMemory))
}

// Over loopback, to see the share that the adapter has in a real request.
func BenchmarkLoopbackRoundTripper(b *testing.B) {
	base := &http.Transport{}
	defer base.CloseIdleConnections()
	run(b, false, false, transports(base, func(b *testing.B) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
		b.Cleanup(s.Close)
		return s.URL
	}))
}

func BenchmarkRejectedRoundTripper(b *testing.B) {
	run(b, false, true, []contender{{"napkin", func(b *testing.B) func() error {
		d := destinations(b, resilience.Config{})
		must[*resilience.Pipeline](b)(d.Get("shop.test")).Breaker().Force(resilience.BreakerForcedOpen)
		return exchange(b, resilience.NewTransport(trivial{}, d), inMemory(b))
	}}})
}

// Middleware for servers: beside a bare handler.

type nothing struct{}

func (nothing) ServeHTTP(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }

// void is a ResponseWriter that keeps nothing.
type void struct{ h http.Header }

func (v void) Header() http.Header       { return v.h }
func (void) Write(p []byte) (int, error) { return len(p), nil }
func (void) WriteHeader(int)             {}
func serve(h http.Handler) func() error {
	w, req := void{http.Header{}}, httptest.NewRequest(http.MethodGet, "/", nil)
	return func() error { h.ServeHTTP(w, req); return nil }
}

func BenchmarkMiddleware(b *testing.B) {
	run(b, false, false, []contender{
		{"base", func(*testing.B) func() error { return serve(nothing{}) }},
		{"napkin-shedder", func(b *testing.B) func() error {
			mw := must[func(http.Handler) http.Handler](b)(resilience.Middleware(&resilience.MiddlewareConfig{
				Shedder: must[*resilience.Shedder](b)(resilience.NewShedder(nil)),
			}))
			return serve(mw(nothing{}))
		}},
		{"failsafe-adaptive-limiter", func(*testing.B) func() error {
			return serve(failsafehttp.NewHandler(nothing{}, adaptivelimiter.NewWithDefaults[*http.Response]()))
		}},
	})
}

// gRPC: interceptors around an invoker and a handler that do nothing.

func invoke(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
	return nil
}

const method = "/napkin.bench.v1.Bench/Call"

func clientCall(interceptor grpc.UnaryClientInterceptor) func() error {
	req, reply := new(emptypb.Empty), new(emptypb.Empty)
	return func() error { return interceptor(ctx, method, req, reply, nil, invoke) }
}

var unaryClients = []contender{
	{"base", func(*testing.B) func() error {
		return clientCall(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return invoker(ctx, method, req, reply, cc, opts...)
		})
	}},
	{"napkin", func(b *testing.B) func() error {
		return clientCall(grpcresilience.NewClient(destinations(b, resilience.Config{}), "bench").Unary)
	}},
	{"napkin-without-deadlines", func(b *testing.B) func() error {
		return clientCall(grpcresilience.NewClient(destinations(b, withoutDeadline), "bench").Unary)
	}},
	{"failsafe-without-deadlines", func(*testing.B) func() error {
		retry := failsafegrpc.NewRetryPolicyBuilder[*emptypb.Empty]().WithBudget(failsafeBudget()).Build()
		return clientCall(failsafegrpc.NewUnaryClientInterceptor[*emptypb.Empty](retry, failsafeBreaker[*emptypb.Empty](), failsafeBulkhead[*emptypb.Empty]()))
	}},
}

func BenchmarkUnaryClient(b *testing.B)         { run(b, false, false, unaryClients) }
func BenchmarkParallelUnaryClient(b *testing.B) { run(b, true, false, unaryClients) }

func BenchmarkRejectedUnaryClient(b *testing.B) {
	run(b, false, true, []contender{{"napkin", func(b *testing.B) func() error {
		d := destinations(b, resilience.Config{})
		must[*resilience.Pipeline](b)(d.Get("bench")).Breaker().Force(resilience.BreakerForcedOpen)
		return clientCall(grpcresilience.NewClient(d, "bench").Unary)
	}}})
}

func serverCall(interceptor grpc.UnaryServerInterceptor) func() error {
	req, reply := new(emptypb.Empty), new(emptypb.Empty)
	info := &grpc.UnaryServerInfo{FullMethod: method}
	handler := func(context.Context, any) (any, error) { return reply, nil }
	return func() error { _, err := interceptor(ctx, req, info, handler); return err }
}

var unaryServers = []contender{
	{"base", func(*testing.B) func() error {
		return serverCall(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
			return handler(ctx, req)
		})
	}},
	{"napkin-deadline-shedder", func(b *testing.B) func() error { // a caller without a deadline gets one
		guard := must[*grpcresilience.Server](b)(grpcresilience.NewServer(&grpcresilience.ServerConfig{
			Shedder: must[*resilience.Shedder](b)(resilience.NewShedder(nil)), TrustCriticality: true,
		}))
		return serverCall(guard.Unary)
	}},
	{"failsafe-adaptive-limiter", func(*testing.B) func() error {
		return serverCall(failsafegrpc.NewUnaryServerInterceptorWithExecutor(failsafe.With[*emptypb.Empty](adaptivelimiter.NewWithDefaults[*emptypb.Empty]())))
	}},
	{"kratos-ratelimit", func(*testing.B) func() error {
		h := kratosratelimit.Server(kratosratelimit.WithLimiter(kratosBBR()))(func(context.Context, any) (any, error) { return nil, nil })
		return func() error { _, _ = h(ctx, nil); return nil } // refused while the CPU is over 80 %
	}},
}

func BenchmarkUnaryServer(b *testing.B) { run(b, false, false, unaryServers) }
