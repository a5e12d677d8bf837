package grpcresilience_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/grpcresilience"
)

// flaky fails its first call.
type flaky struct {
	healthpb.UnimplementedHealthServer
	calls int
}

func (f *flaky) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if f.calls++; f.calls == 1 {
		return nil, status.Error(codes.Unavailable, "starting")
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// A server sheds under overload, a client retries what may be repeated.
func ExampleDialOptions() {
	shedder, err := resilience.NewShedder(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := grpcresilience.NewServer(&grpcresilience.ServerConfig{Shedder: shedder})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))
	healthpb.RegisterHealthServer(server, &flaky{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	done := make(chan error)
	go func() { done <- server.Serve(lis) }()
	defer func() { server.Stop(); <-done }()

	destinations, err := resilience.NewDestinations(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	options := grpcresilience.DialOptions(destinations, "payments")
	conn, err := grpc.NewClient(lis.Addr().String(), append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()

	ctx := metadata.AppendToOutgoingContext(context.Background(), "idempotency-key", "order-17")
	answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	fmt.Println(answer.GetStatus(), err)
	// Output: SERVING <nil>
}

// The interceptors one by one, for a chain of one's own. What stands after
// client.Unary runs once per attempt.
func ExampleNewClient() {
	destinations, err := resilience.NewDestinations(&resilience.DestinationsConfig{
		Configure: func(destination string, c *resilience.Config) {
			if destination == "search" { // slow now and then, for no reason of its load
				c.Hedge = resilience.HedgeConfig{On: true, Quantile: 0.95}
			}
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := grpcresilience.NewClient(destinations, "search")
	perAttempt := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoker(ctx, method, req, reply, cc, opts...)
	}
	conn, err := grpc.NewClient("passthrough:///search",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(), // nothing retries on top of a retry
		grpc.WithChainUnaryInterceptor(client.Unary, perAttempt),
		grpc.WithChainStreamInterceptor(client.Stream),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	fmt.Println(conn.Target())
	// Output: passthrough:///search
}

// A server bounds the time of its calls and sheds under overload; health checks
// are never shed.
func ExampleNewServer() {
	shedder, err := resilience.NewShedder(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := grpcresilience.NewServer(&grpcresilience.ServerConfig{
		Shedder:          shedder,
		Deadline:         2 * time.Second,
		TrustCriticality: true, // callers are services of ours, over mTLS
		Exempt:           func(method string) bool { return method == healthpb.Health_Check_FullMethodName },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))
	defer server.Stop()

	_, err = guard.Unary(context.Background(), nil, &grpc.UnaryServerInfo{FullMethod: "/shop.order.v1.Orders/Get"},
		func(ctx context.Context, _ any) (any, error) {
			deadline, ok := ctx.Deadline()
			fmt.Println(ok, time.Until(deadline) <= 2*time.Second)
			return nil, nil
		})
	fmt.Println(err)
	// Output:
	// true true
	// <nil>
}

// ceiling lets one call in at a time.
func ceiling() *resilience.Bulkhead {
	b, err := resilience.NewBulkhead("server", &resilience.BulkheadConfig{MaxConcurrent: 1})
	if err != nil {
		panic(err)
	}
	return b
}

// The outermost protection of a server: a bound on the calls in flight.
func ExampleCeilingUnary() {
	unary := grpcresilience.CeilingUnary(ceiling())
	_, err := unary(context.Background(), nil, nil, func(ctx context.Context, _ any) (any, error) {
		// While this call is served, another comes.
		return unary(ctx, nil, nil, func(context.Context, any) (any, error) { return "served", nil })
	})
	fmt.Println(status.Code(err), errors.Is(err, resilience.ErrBulkheadFull))
	// Output: ResourceExhausted true
}

// The same bound for streams; one bulkhead may serve both.
func ExampleCeilingStream() {
	all := ceiling()
	server := grpc.NewServer(
		grpc.ChainUnaryInterceptor(grpcresilience.CeilingUnary(all)),
		grpc.ChainStreamInterceptor(grpcresilience.CeilingStream(all)),
	)
	defer server.Stop()
	fmt.Println(all.InFlight())
	// Output: 0
}

// Classify is for policies that are called by hand around a gRPC client.
func ExampleClassify() {
	p, err := resilience.NewPipeline("payments", &resilience.Config{Classify: grpcresilience.Classify})
	if err != nil {
		fmt.Println(err)
		return
	}
	attempts := 0
	err = p.Execute(resilience.Idempotent(context.Background()), func(context.Context) error {
		attempts++
		return status.Error(codes.NotFound, "no such payment")
	})
	fmt.Println(attempts, status.Code(err)) // an answer is not asked for twice
	// Output: 1 NotFound
}

// A handler that was refused by a policy of its own tells its caller so.
func ExampleStatusError() {
	limiter, err := resilience.NewLimiter("exports", &resilience.LimiterConfig{PerSecond: 0.1, Burst: 1})
	if err != nil {
		fmt.Println(err)
		return
	}
	export := func() error { return grpcresilience.StatusError(limiter.Allow()) }
	fmt.Println(status.Code(export()))
	fmt.Println(status.Code(export()))
	// Output:
	// OK
	// ResourceExhausted
}
