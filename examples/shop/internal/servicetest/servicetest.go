// Package servicetest runs services of the store inside a test as they run in
// production: on the chassis, over mTLS with SPIFFE identities, with users'
// tokens, each on a database of its own. The broker is the caller's.
package servicetest

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// World is a trust domain, an issuer of users' tokens, and the services that run.
type World struct {
	CA     *authntest.CA
	Tokens *authntest.TokenIssuer
	Peers  map[string]kit.Peer
}

// New returns an empty world.
func New(t testing.TB) *World {
	t.Helper()
	return &World{
		CA:     authntest.NewCA(t, "shop.test"),
		Tokens: authntest.NewTokenIssuer(t, "https://issuer.test", "shop"),
		Peers:  map[string]kit.Peer{},
	}
}

// DB opens an empty SQLite database.
func DB(t testing.TB, name string) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), name+".db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// Service is one running service.
type Service struct {
	*kit.Service
	Recorder *telemetrytest.Recorder
	// Stop ends the service in order. The end of the test does so too.
	Stop func()
}

// Start runs a service: policy and wire are its package's Policy and New. Its
// peers are the services started before it.
func (w *World) Start(t testing.TB, name string, idem map[string]grpcidempotency.Rule,
	policy func(spiffeid.TrustDomain) (*authn.Policy, error), wire func(ctx context.Context, svc *kit.Service) error,
) *Service {
	t.Helper()
	return w.StartWith(t, kit.Config{Name: name, Idempotency: idem}, policy, wire)
}

// StartWith is [World.Start] for a service that needs more of its chassis, such as an HTTP listener.
func (w *World) StartWith(t testing.TB, cfg kit.Config,
	policy func(spiffeid.TrustDomain) (*authn.Policy, error), wire func(ctx context.Context, svc *kit.Service) error,
) *Service {
	t.Helper()
	name := cfg.Name
	p, err := policy(w.CA.TrustDomain())
	if err != nil {
		t.Fatal(err)
	}
	rec := telemetrytest.Start(t, name)
	cfg.Identity, cfg.Verifier, cfg.Telemetry = w.CA.Identity(t, w.CA.ID(t, name)), w.Tokens.Verifier(t), rec.Telemetry
	cfg.Peers, cfg.AdminAddr, cfg.NoAccessLog = w.Peers, kit.None, true
	svc, err := kit.New(t.Context(), p, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := wire(t.Context(), svc); err != nil {
		_ = svc.Close()
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- svc.Run(ctx) }()
	stopped := false
	stop := func() {
		cancel()
		if stopped {
			return
		}
		stopped = true
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(40 * time.Second):
			t.Errorf("%s did not stop", name)
		}
	}
	t.Cleanup(stop)
	w.Peers[name] = kit.Peer{Addr: svc.GRPCAddr(), HTTPAddr: svc.HTTPAddr(), ID: w.CA.ID(t, name)}
	return &Service{Service: svc, Recorder: rec, Stop: stop}
}

// Conn returns a connection to a service that was started, with the identity of
// another.
func (w *World) Conn(t testing.TB, as, to string) *grpc.ClientConn {
	t.Helper()
	peer := w.Peers[to]
	tls := authn.ClientTLS(w.CA.Identity(t, w.CA.ID(t, as)), tlsconfig.AuthorizeID(peer.ID))
	conn, err := grpc.NewClient(peer.Addr, grpc.WithTransportCredentials(credentials.NewTLS(tls)),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// As returns a context whose calls are made on behalf of a user.
func (w *World) As(ctx context.Context, t testing.TB, user string, scopes ...string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+w.Tokens.Token(t, user, scopes...))
}

// WithKey returns a context whose calls carry an idempotency key.
func WithKey(ctx context.Context, key string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, grpcidempotency.MetadataKey, key)
}

// Until waits until a condition holds, or ends the test.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		select {
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
