package kit_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/telemetry"
)

type empty struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (empty) EmptyCall(context.Context, *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	return &grpc_testing.Empty{}, nil
}

func quietTelemetry(b *testing.B, name string) *telemetry.Telemetry {
	tel, err := telemetry.Start(b.Context(), telemetry.Config{Service: name, Logs: discard{}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tel.Shutdown(context.Background()) })
	return tel
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkCall compares kit's client and server, with all their parts, to grpc-go with
// mTLS and otelgrpc, one call at a time.
func BenchmarkCall(b *testing.B) {
	ca := authntest.NewCA(b, "bench.test")
	server, caller := ca.ID(b, "server"), ca.ID(b, "caller")
	b.Run("grpc-go, mTLS, otelgrpc", func(b *testing.B) {
		tel := quietTelemetry(b, "plain")
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		s := grpc.NewServer(
			grpc.Creds(credentials.NewTLS(authn.ServerTLS(ca.Identity(b, server), tlsconfig.AuthorizeID(caller)))),
			grpc.StatsHandler(otelgrpc.NewServerHandler(otelgrpc.WithTracerProvider(tel.TracerProvider()), otelgrpc.WithMeterProvider(tel.MeterProvider()))))
		grpc_testing.RegisterTestServiceServer(s, empty{})
		go func() { _ = s.Serve(l) }()
		defer s.Stop()
		conn, err := grpc.NewClient(l.Addr().String(),
			grpc.WithTransportCredentials(credentials.NewTLS(authn.ClientTLS(ca.Identity(b, caller), tlsconfig.AuthorizeID(server)))),
			grpc.WithStatsHandler(otelgrpc.NewClientHandler(otelgrpc.WithTracerProvider(tel.TracerProvider()), otelgrpc.WithMeterProvider(tel.MeterProvider()))))
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		benchCall(b, conn)
	})
	b.Run("kit, everything on", func(b *testing.B) {
		policy, err := authn.NewPolicy(authn.Rule{Method: testMethods, From: []spiffeid.ID{caller}})
		if err != nil {
			b.Fatal(err)
		}
		s, err := kit.New(b.Context(), policy, kit.Config{Name: "server", Identity: ca.Identity(b, server), Telemetry: quietTelemetry(b, "server")})
		if err != nil {
			b.Fatal(err)
		}
		grpc_testing.RegisterTestServiceServer(s, empty{})
		ctx, stop := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		defer func() { stop(); <-ended }()
		none, _ := authn.NewPolicy()
		c, err := kit.New(b.Context(), none, kit.Config{
			Name: "caller", Identity: ca.Identity(b, caller), Telemetry: quietTelemetry(b, "caller"), GRPCAddr: kit.None, AdminAddr: kit.None,
			Peers: map[string]kit.Peer{"server": {Addr: s.GRPCAddr(), ID: server}},
		})
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conn, err := c.Dial("server")
		if err != nil {
			b.Fatal(err)
		}
		benchCall(b, conn)
	})
}

func benchCall(b *testing.B, conn *grpc.ClientConn) {
	b.Helper()
	c := grpc_testing.NewTestServiceClient(conn)
	if _, err := c.EmptyCall(b.Context(), &grpc_testing.Empty{}, grpc.WaitForReady(true)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.EmptyCall(b.Context(), &grpc_testing.Empty{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMux is the floor of the HTTP chain: net/http's mux alone.
func BenchmarkMux(b *testing.B) {
	m := http.NewServeMux()
	m.HandleFunc("GET /v1/x/{id}", func(http.ResponseWriter, *http.Request) {})
	r := httptest.NewRequest(http.MethodGet, "/v1/x/1", nil)
	b.ReportAllocs()
	for b.Loop() {
		m.ServeHTTP(nil, r)
	}
}
