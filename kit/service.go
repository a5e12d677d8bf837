package kit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/workload"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/telemetry"
	"github.com/napkin-kit/napkin/telemetry/instrument"
)

// Service is one service's servers, clients and workers. It is a
// [grpc.ServiceRegistrar]. Register and wire everything before [Service.Run];
// apart from that its methods are safe for concurrent use.
type Service struct {
	cfg      Config
	policy   *authn.Policy
	identity authn.Identity
	domain   spiffeid.TrustDomain
	tel      *telemetry.Telemetry
	ins      *instrument.Instruments
	log      *slog.Logger

	grpc                 *grpc.Server
	health               *health.Server
	grpcL, httpL, adminL net.Listener
	mux, adminMux        *http.ServeMux

	destinations *resilience.Destinations
	shedder      *resilience.Shedder
	admission    string // see admission.go; empty where the shedder is not shared

	inFlight    atomic.Int64
	largeBodies chan struct{} // see httpbody.go
	draining    chan struct{}
	checks      readiness
	workers     workers
	clients     clients

	mu      sync.Mutex
	state   lifeState
	closers []closer
}

type lifeState int

const (
	stateNew lifeState = iota
	stateRunning
	stateClosed
)

type closer struct {
	name string
	fn   func(context.Context) error
}

var _ grpc.ServiceRegistrar = (*Service)(nil)

// New opens the listeners and prepares the servers of a service that policy guards;
// nothing is served before [Service.Run]. A Service that is never run must be closed.
// ctx bounds New only. Errors name the field at fault.
func New(ctx context.Context, policy *authn.Policy, cfg Config) (*Service, error) {
	cfg = cfg.withDefaults()
	s := &Service{
		cfg: cfg, policy: policy, mux: http.NewServeMux(), adminMux: http.NewServeMux(),
		draining: make(chan struct{}), largeBodies: make(chan struct{}, largeAtOnce), grpcL: cfg.GRPCListener, httpL: cfg.HTTPListener, adminL: cfg.AdminListener,
	}
	s.workers.init()
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(err, s.Close()) //nolint:contextcheck // closing must not be cut short by ctx
	}
	return s, nil
}

func (s *Service) open(ctx context.Context) error {
	if err := s.cfg.validate(s.policy); err != nil {
		return err
	}
	if err := s.startTelemetry(ctx); err != nil {
		return err
	}
	if err := s.connectIdentity(ctx); err != nil {
		return err
	}
	for _, l := range []struct {
		field, addr string
		l           *net.Listener
	}{
		{"GRPCAddr", s.cfg.GRPCAddr, &s.grpcL}, {"HTTPAddr", s.cfg.HTTPAddr, &s.httpL}, {"AdminAddr", s.cfg.AdminAddr, &s.adminL},
	} {
		if *l.l != nil || l.addr == None {
			continue
		}
		opened, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.addr)
		if err != nil {
			return fmt.Errorf("kit: %s cannot listen on Config.%s %q: %w: choose another address, or stop who holds it", s.cfg.Name, l.field, l.addr, err)
		}
		*l.l = opened
	}
	if err := s.initResilience(); err != nil { //nolint:contextcheck // hooks get the contexts of the calls they see
		return err
	}
	if err := s.observe(); err != nil {
		return err
	}
	s.clients.init(s)
	if err := s.makeVerifier(); err != nil {
		return err
	}
	s.adminRoutes()
	return s.newGRPCServer() //nolint:contextcheck // interceptors get the contexts of their calls
}

func (s *Service) makeVerifier() error {
	if s.cfg.NewVerifier == nil {
		return nil
	}
	v, err := s.cfg.NewVerifier(s)
	if err != nil {
		return fmt.Errorf("kit: %s: Config.NewVerifier: %w", s.cfg.Name, err)
	}
	if v == nil {
		return fmt.Errorf("kit: %s: Config.NewVerifier returned nil: return a verifier, or an error", s.cfg.Name)
	}
	s.cfg.Verifier = v
	s.OnClose("token verifier", func(context.Context) error { return v.Close() })
	return nil
}

// Verifier checks users' tokens; nil where the service has none.
func (s *Service) Verifier() *authn.Verifier { return s.cfg.Verifier }

func (s *Service) startTelemetry(ctx context.Context) error {
	s.tel = s.cfg.Telemetry
	if s.tel == nil {
		tel, err := telemetry.Start(ctx, telemetry.Config{Service: s.cfg.Name, Version: s.cfg.Version})
		if err != nil {
			return fmt.Errorf("kit: %w", err)
		}
		s.tel = tel
		s.OnClose("telemetry", tel.Shutdown)
	}
	ins, err := instrument.New(s.tel)
	if err != nil {
		return fmt.Errorf("kit: %w", err)
	}
	s.ins = ins
	s.log = s.cfg.Logger
	if s.log == nil {
		s.log = s.tel.Logger()
	}
	return nil
}

func (s *Service) connectIdentity(ctx context.Context) error {
	s.identity = s.cfg.Identity
	if s.identity == nil {
		source, err := workload.Connect(ctx, s.cfg.WorkloadAPI, s.cfg.SPIFFEID, &workload.Config{Logger: s.log})
		if err != nil {
			return fmt.Errorf("kit: %s gets no identity from Config.WorkloadAPI %q: %w", s.cfg.Name, s.cfg.WorkloadAPI, err)
		}
		s.identity = source
		s.OnClose("workload API", func(context.Context) error { return source.Close() })
	}
	svid, err := s.identity.GetX509SVID()
	if err != nil {
		return fmt.Errorf("kit: %s has no identity: %w", s.cfg.Name, err)
	}
	if want := s.cfg.SPIFFEID; !want.IsZero() && want != svid.ID {
		return fmt.Errorf("kit: %s is to be %s but its identity is %s: correct Config.SPIFFEID, or the registration at the issuer", s.cfg.Name, want, svid.ID)
	}
	s.domain = svid.ID.TrustDomain()
	s.Ready("identity", s.identityValid)
	return nil
}

// RegisterService implements [grpc.ServiceRegistrar]; generated code calls it.
func (s *Service) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
}

// HTTP is the mux of the HTTP listener. Its handlers stand behind the same guards as
// gRPC methods do.
func (s *Service) HTTP() *http.ServeMux { return s.mux }

// Admin is the mux of the admin listener, for an operator's pages beside the built-in
// ones. It is served in clear and guarded by nothing but its address.
func (s *Service) Admin() *http.ServeMux { return s.adminMux }

// Name is the service's name.
func (s *Service) Name() string { return s.cfg.Name }

// Logger is the service's logger.
func (s *Service) Logger() *slog.Logger { return s.log }

// Telemetry is what the service reports to.
func (s *Service) Telemetry() *telemetry.Telemetry { return s.tel }

// Instruments makes the hooks through which the service's outbox, consumers, sagas and
// pools report to its telemetry.
func (s *Service) Instruments() *instrument.Instruments { return s.ins }

// ID is the SPIFFE ID that the service presents right now.
func (s *Service) ID() (spiffeid.ID, error) {
	svid, err := s.identity.GetX509SVID()
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("kit: %s has no identity: %w", s.cfg.Name, err)
	}
	return svid.ID, nil
}

// GRPCAddr is the address of the gRPC listener, "" where it is off.
func (s *Service) GRPCAddr() string { return addrOf(s.grpcL) }

// HTTPAddr is the address of the HTTP listener, "" where it is off.
func (s *Service) HTTPAddr() string { return addrOf(s.httpL) }

// AdminAddr is the address of the admin listener, "" where it is off.
func (s *Service) AdminAddr() string { return addrOf(s.adminL) }

func addrOf(l net.Listener) string {
	if l == nil {
		return ""
	}
	return l.Addr().String()
}

// Go runs fn as a worker of the service: from Run on, or at once where Run has begun,
// until its context ends, which happens after the last request was served. A worker
// that returns an error or panics stops the service, and Run returns the error; one
// that returns nil is done. name appears in logs and errors.
func (s *Service) Go(name string, fn func(ctx context.Context) error) { s.workers.add(name, fn) }

// Ready adds a named check that must pass for the service to be ready: /readyz lists
// it and grpc.health.v1 follows it. check gets 2 s. Check what this service cannot work
// without and owns (its database, its broker), never a peer: one peer's fault would
// take everybody down. A name given twice replaces the first.
func (s *Service) Ready(name string, check func(ctx context.Context) error) {
	s.checks.add(name, check)
}

// OnClose has fn called at the very end of Run, or of Close, last added first.
func (s *Service) OnClose(name string, fn func(ctx context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closers = append(s.closers, closer{name, fn})
}

type drainKey struct{}

// Draining returns a channel that is closed when the service that serves ctx begins to
// drain, so that a handler of a long stream can end it; the client reconnects
// elsewhere. It is nil, and blocks for ever, where ctx belongs to no service.
func Draining(ctx context.Context) <-chan struct{} {
	ch, _ := ctx.Value(drainKey{}).(chan struct{})
	return ch
}
