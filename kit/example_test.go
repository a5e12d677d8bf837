package kit_test

import (
	"context"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/devworkload"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
)

// greeter is a service with one method.
type greeter struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (greeter) UnaryCall(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	caller, _ := authn.PrincipalFrom(ctx)
	return &grpc_testing.SimpleResponse{Username: caller.Workload.Path()}, nil
}

// Two services with identities from an in-process SPIFFE issuer: one serves, the other
// may call it.
func Example() {
	ctx := context.Background()
	issuer, err := devworkload.New("example.test", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer issuer.Close()
	server := spiffeid.RequireFromString("spiffe://example.test/greeter")
	caller := spiffeid.RequireFromString("spiffe://example.test/caller")
	sockets, err := issuer.ListenAll(ctx, "", server, caller)
	if err != nil {
		fmt.Println(err)
		return
	}

	policy, err := authn.NewPolicy(authn.Rule{Method: "/grpc.testing.TestService/*", From: []spiffeid.ID{caller}})
	if err != nil {
		fmt.Println(err)
		return
	}
	svc, err := kit.New(ctx, policy, kit.Config{Name: "greeter", SPIFFEID: server, WorkloadAPI: sockets[server], NoAccessLog: true, Logger: quiet})
	if err != nil {
		fmt.Println(err)
		return
	}
	grpc_testing.RegisterTestServiceServer(svc, greeter{})
	running, stop := context.WithCancel(ctx)
	defer stop()
	stopped := make(chan error)
	go func() { stopped <- svc.Run(running) }()

	none, _ := authn.NewPolicy() // it serves nobody
	client, err := kit.New(ctx, none, kit.Config{
		Name: "caller", SPIFFEID: caller, WorkloadAPI: sockets[caller], GRPCAddr: kit.None, AdminAddr: kit.None, Logger: quiet,
		Peers: map[string]kit.Peer{"greeter": {Addr: svc.GRPCAddr(), ID: server}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	conn, err := client.Dial("greeter")
	if err != nil {
		fmt.Println(err)
		return
	}
	reply, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(ctx, &grpc_testing.SimpleRequest{})
	fmt.Println(reply.GetUsername(), err)

	stop()
	fmt.Println(<-stopped)
	// Output:
	// /caller <nil>
	// <nil>
}

// A bad value is refused with the variable's name and what it accepts.
func ExampleConfigFromEnv() {
	env := map[string]string{"NAPKIN_GRPC_ADDR": "127.0.0.1:9000", "NAPKIN_PEERS": "payment=10.0.0.7:9000"}
	cfg, err := kit.ConfigFromEnv("order", func(name string) string { return env[name] })
	fmt.Println(cfg.SPIFFEID, cfg.Peers["payment"].ID, err)

	env["NAPKIN_DRAIN_DELAY"] = "5"
	_, err = kit.ConfigFromEnv("order", func(name string) string { return env[name] })
	fmt.Println(err)
	// Output:
	// spiffe://napkin.local/order spiffe://napkin.local/payment <nil>
	// order: NAPKIN_DRAIN_DELAY="5": it accepts a duration, such as 5s
}

// Errors of every package of the module come out as one kind of answer.
func ExampleProblem() {
	for _, err := range []error{
		problem.New(404, "order_not_found", "no such order"),
		authn.ErrTokenExpired,
		fmt.Errorf("dial tcp 10.0.0.7:5432: connection refused"),
	} {
		p := kit.Problem(err)
		fmt.Println(p.Status, p.Code, "-", p.Detail)
	}
	// Output:
	// 404 order_not_found - no such order
	// 401 token_expired - the access token has expired
	// 500 internal - something went wrong on our side
}
