package kit_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// quiet is for examples, whose output is compared.
var quiet = slog.New(slog.DiscardHandler)

// world is a trust domain with a server's and some clients' identities.
type world struct {
	ca     *authntest.CA
	tokens *authntest.TokenIssuer
}

func newWorld(t *testing.T) *world {
	return &world{ca: authntest.NewCA(t, "kit.test"), tokens: authntest.NewTokenIssuer(t, "https://issuer.test", "kit")}
}

const testMethods = "/grpc.testing.TestService/*"

// allow is the policy under which the named workloads may call the test service.
func (w *world) allow(t *testing.T, user authn.UserRule, names ...string) *authn.Policy {
	t.Helper()
	var from []spiffeid.ID
	for _, n := range names {
		from = append(from, w.ca.ID(t, n))
	}
	return policy(t, authn.Rule{Method: testMethods, From: from, User: user})
}

func policy(t testing.TB, rules ...authn.Rule) *authn.Policy {
	t.Helper()
	p, err := authn.NewPolicy(rules...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// service makes, but does not run, a service. It fills in identity and telemetry.
func (w *world) service(t *testing.T, p *authn.Policy, cfg kit.Config) (*kit.Service, *telemetrytest.Recorder) {
	t.Helper()
	rec := telemetrytest.Start(t, cfg.Name)
	cfg.Identity, cfg.Telemetry = w.ca.Identity(t, w.ca.ID(t, cfg.Name)), rec.Telemetry
	s, err := kit.New(t.Context(), p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, rec
}

// run runs a service until the test ends or stop is called; stop returns what Run did.
func run(t *testing.T, s *kit.Service) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	var result error
	stopped := false
	stop = func() error {
		cancel()
		if !stopped {
			select {
			case result = <-ended:
			case <-time.After(40 * time.Second):
				t.Fatal("Run did not return")
			}
			stopped = true
		}
		return result
	}
	t.Cleanup(func() {
		if err := stop(); err != nil && !stopped {
			t.Error(err)
		}
	})
	return stop
}

// client makes a service that only calls: its peers are the given servers.
func (w *world) client(t *testing.T, name string, peers map[string]kit.Peer) (*kit.Service, *telemetrytest.Recorder) {
	t.Helper()
	return w.service(t, policy(t), kit.Config{Name: name, GRPCAddr: kit.None, AdminAddr: kit.None, Peers: peers})
}

func (w *world) peer(t *testing.T, s *kit.Service) kit.Peer {
	return kit.Peer{Addr: s.GRPCAddr(), HTTPAddr: s.HTTPAddr(), ID: w.ca.ID(t, s.Name())}
}

func stub(t *testing.T, s *kit.Service, peer string, opts ...kit.DialOption) grpc_testing.TestServiceClient {
	t.Helper()
	conn, err := s.Dial(peer, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return grpc_testing.NewTestServiceClient(conn)
}

// bare is a client that has an identity and nothing else of kit.
func (w *world) bare(t *testing.T, name string, s *kit.Service) grpc_testing.TestServiceClient {
	t.Helper()
	tls := authn.ClientTLS(w.ca.Identity(t, w.ca.ID(t, name)), tlsconfig.AuthorizeID(w.ca.ID(t, s.Name())))
	conn, err := grpc.NewClient(s.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(tls)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return grpc_testing.NewTestServiceClient(conn)
}

// server answers with what the test says.
type server struct {
	grpc_testing.UnimplementedTestServiceServer
	unary func(ctx context.Context, req *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error)
	// stream handles FullDuplexCall.
	stream func(ss grpc_testing.TestService_FullDuplexCallServer) error
}

func (s *server) UnaryCall(ctx context.Context, req *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	if s.unary == nil {
		return &grpc_testing.SimpleResponse{Username: req.GetPayload().String()}, nil
	}
	return s.unary(ctx, req)
}

func (s *server) EmptyCall(context.Context, *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	return &grpc_testing.Empty{}, nil
}

func (s *server) FullDuplexCall(ss grpc_testing.TestService_FullDuplexCallServer) error {
	if s.stream == nil {
		return echo(ss)
	}
	return s.stream(ss)
}

func echo(ss grpc_testing.TestService_FullDuplexCallServer) error {
	for {
		req, err := ss.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ss.Send(&grpc_testing.StreamingOutputCallResponse{Payload: req.GetPayload()}); err != nil {
			return err
		}
	}
}

// both calls the server once each way and returns both errors.
func both(ctx context.Context, c grpc_testing.TestServiceClient) (unary, stream error) {
	_, unary = c.UnaryCall(ctx, &grpc_testing.SimpleRequest{})
	ss, err := c.FullDuplexCall(ctx)
	if err != nil {
		return unary, err
	}
	if err := ss.Send(&grpc_testing.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return unary, err
	}
	if _, err := ss.Recv(); err != nil {
		return unary, err
	}
	return unary, ss.CloseSend()
}

// within is a context that ends with the test, at the latest in 20 s.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// freePort is an address that is free right now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
