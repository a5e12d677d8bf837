package grpcauthn_test

import (
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/grpcauthn"
)

// Check stops a server whose policy forgot a method.
func ExampleServer_Check() {
	order := spiffeid.RequireFromString("spiffe://shop.test/order")
	policy, err := authn.NewPolicy(authn.Rule{Method: "/grpc.testing.ReconnectService/Start", From: []spiffeid.ID{order}})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard := &grpcauthn.Server{Policy: policy}
	srv := grpc.NewServer(
		grpc.ChainUnaryInterceptor(guard.Unary),
		grpc.ChainStreamInterceptor(guard.Stream),
	)
	defer srv.Stop()
	pb.RegisterReconnectServiceServer(srv, pb.UnimplementedReconnectServiceServer{})

	fmt.Println(guard.Check(srv))
	// Output: authn: policy does not fit the server: no rule for /grpc.testing.ReconnectService/Stop
}
