package devworkload_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	pb "google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/devworkload"
	"github.com/napkin-kit/napkin/authn/grpcauthn"
	source "github.com/napkin-kit/napkin/authn/workload"
)

// echo answers each message of a stream.
type echo struct {
	pb.UnimplementedTestServiceServer
}

func (echo) FullDuplexCall(ss grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	for {
		if _, err := ss.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := ss.Send(&pb.StreamingOutputCallResponse{}); err != nil {
			return err
		}
	}
}

func (echo) EmptyCall(context.Context, *pb.Empty) (*pb.Empty, error) { return &pb.Empty{}, nil }

// serveEcho runs echo as payment, open to order, and counts connections.
func serveEcho(t *testing.T, id authn.Identity) (addr string, connections func() int) {
	t.Helper()
	policy, err := authn.NewPolicy(authn.Rule{Method: "/grpc.testing.TestService/*", From: []spiffeid.ID{order}})
	if err != nil {
		t.Fatal(err)
	}
	guard := &grpcauthn.Server{Policy: policy}
	srv := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(authn.ServerTLS(id, policy.Authorizer(order.TrustDomain())))),
		grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream),
	)
	pb.RegisterTestServiceServer(srv, echo{})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counted := &countingListener{Listener: lis}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(counted); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	return lis.Addr().String(), counted.count
}

type countingListener struct {
	net.Listener
	mu sync.Mutex
	n  int
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.n++
		l.mu.Unlock()
	}
	return conn, err
}

func (l *countingListener) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// seen records the server certificate of each handshake.
type seen struct {
	mu    sync.Mutex
	certs []*x509.Certificate
}

func (s *seen) tls(id authn.Identity) *tls.Config {
	return authn.ClientTLS(id, func(_ spiffeid.ID, chains [][]*x509.Certificate) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.certs = append(s.certs, chains[0][0])
		return nil
	})
}

func (s *seen) last() *x509.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.certs[len(s.certs)-1]
}

func dialEcho(t *testing.T, addr string, cfg *tls.Config) pb.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pb.NewTestServiceClient(conn)
}

// The point of rotation: a stream that is open while both ends' SVIDs are
// replaced, and until the ones it was opened with have expired, goes on over
// the same connection, and new connections show the new SVIDs.
func TestAStreamOutlivesTheSVIDsItWasOpenedWith(t *testing.T) {
	i := newIssuer(t, devworkload.Config{TTL: 2 * time.Second})
	server, client := connect(t, listen(t, i, payment, ""), payment), connect(t, listen(t, i, order, ""), order)
	addr, connections := serveEcho(t, server)

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var handshakes seen
	stream, err := dialEcho(t, addr, handshakes.tls(client)).FullDuplexCall(ctx)
	if err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		if err := stream.Send(&pb.StreamingOutputCallRequest{}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	exchange()
	serverCert, clientCert := handshakes.last(), leaf(t, client)
	expired := func(c *x509.Certificate) bool { return time.Now().After(c.NotAfter) }

	rounds := 0
	for _, s := range []*source.Source{client, server} {
		until(t, s, "both first SVIDs to expire", func() bool {
			exchange()
			rounds++
			return expired(serverCert) && expired(clientCert)
		})
	}
	exchange()
	if rounds < 3 {
		t.Errorf("only %d exchanges over the rotation", rounds)
	}
	if n := connections(); n != 1 {
		t.Errorf("%d connections, want the one", n)
	}
	if err := client.Ready(ctx); err != nil {
		t.Error(err)
	}

	var later seen
	if _, err := dialEcho(t, addr, later.tls(client)).EmptyCall(ctx, &pb.Empty{}); err != nil {
		t.Fatalf("a new connection: %v", err)
	}
	if later.last().Equal(serverCert) {
		t.Error("a new connection shows the old certificate")
	}
	exchange()
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

// handshake makes one TLS connection between two identities.
func handshake(t testing.TB, from, to *source.Source) error {
	t.Helper()
	lis, err := tls.Listen("tcp", "127.0.0.1:0", authn.ServerTLS(to, tlsconfig.AuthorizeID(from.ID())))
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := lis.Accept()
		if err == nil {
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err = io.Copy(conn, conn)
			err = errors.Join(err, conn.Close())
		}
		served <- err
	}()
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: 10 * time.Second}, Config: authn.ClientTLS(from, tlsconfig.AuthorizeID(to.ID()))}
	conn, err := dialer.DialContext(t.Context(), "tcp", lis.Addr().String())
	if err == nil {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Write([]byte{1})
		if err == nil {
			_, err = io.ReadFull(conn, make([]byte, 1))
		}
		err = errors.Join(err, conn.Close())
	} else {
		_ = lis.Close()
	}
	return errors.Join(err, <-served)
}

// A new authority is trusted by all before it signs for any, so handshakes
// succeed at every moment of the change.
func TestRotateCARefusesNobody(t *testing.T) {
	i := newIssuer(t, devworkload.Config{CAOverlap: time.Second})
	server, client := connect(t, listen(t, i, payment, ""), payment), connect(t, listen(t, i, order, ""), order)
	first := leaf(t, client)

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	handshakes := 0
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := handshake(t, client, server); err != nil {
				t.Errorf("during the change: %v", err)
				return
			}
			handshakes++
		}
	})
	if err := i.RotateCA(); err != nil {
		t.Fatal(err)
	}
	trusted := func(s *source.Source) int {
		bundle, err := s.GetX509BundleForTrustDomain(i.TrustDomain())
		if err != nil {
			t.Error(err)
			return 0
		}
		return len(bundle.X509Authorities())
	}
	for _, s := range []*source.Source{client, server} {
		until(t, s, "the new authority in the bundle", func() bool { return trusted(s) == 2 })
		if leaf(t, s).Issuer.SerialNumber != first.Issuer.SerialNumber {
			t.Errorf("the new authority signed for %s before the overlap was over", s.ID())
		}
	}
	for _, s := range []*source.Source{client, server} {
		until(t, s, "an SVID of the new authority", func() bool {
			return leaf(t, s).Issuer.SerialNumber != first.Issuer.SerialNumber
		})
	}
	if err := handshake(t, client, server); err != nil {
		t.Errorf("after the change: %v", err)
	}
	cancel()
	wg.Wait()
	if handshakes < 2 {
		t.Errorf("only %d handshakes during the change", handshakes)
	}
	if n := trusted(client); n != 2 {
		t.Errorf("%d authorities trusted: the old one is to be until it expires", n)
	}
}

func TestTheAuthorityRenewsItself(t *testing.T) {
	i := newIssuer(t, devworkload.Config{TTL: 2 * time.Second, CATTL: 4 * time.Second, CAOverlap: 500 * time.Millisecond})
	server, client := connect(t, listen(t, i, payment, ""), payment), connect(t, listen(t, i, order, ""), order)
	first := leaf(t, client)
	end := time.Now().Add(6 * time.Second) // the first authority is gone by then
	until(t, client, "the first authority to expire", func() bool {
		if err := handshake(t, client, server); err != nil {
			t.Errorf("during renewal: %v", err)
		}
		return time.Now().After(end)
	})
	if leaf(t, client).Issuer.SerialNumber == first.Issuer.SerialNumber {
		t.Error("the authority was not renewed")
	}
}

func TestWithoutAnIssuerAnSVIDEndsAndThenComesBack(t *testing.T) {
	dir, sockets := t.TempDir(), shortDir(t)
	cfg := devworkload.Config{Dir: dir, TTL: 2 * time.Second}
	i := newIssuer(t, cfg)
	server, client := connect(t, listen(t, i, payment, sockets), payment), connect(t, listen(t, i, order, sockets), order)
	if err := i.Close(); err != nil {
		t.Fatal(err)
	}
	end := leaf(t, client).NotAfter
	select {
	case <-time.After(time.Until(end) + time.Second):
	case <-t.Context().Done():
	}
	if err := client.Ready(t.Context()); err == nil {
		t.Error("Ready with an expired SVID")
	}
	if err := handshake(t, client, server); err == nil {
		t.Error("an expired SVID was admitted")
	}
	again := newIssuer(t, cfg)
	listen(t, again, payment, sockets)
	listen(t, again, order, sockets)
	for _, s := range []*source.Source{client, server} {
		until(t, s, "a new SVID", func() bool { return s.Ready(t.Context()) == nil })
	}
	if err := handshake(t, client, server); err != nil {
		t.Errorf("after the issuer came back: %v", err)
	}
}
