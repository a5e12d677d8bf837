package grpcresilience_test

import (
	"context"
	"fmt"
	"net"

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
