package kit

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/grpcauthn"
)

const healthPrefix = "/grpc.health.v1.Health/"

// isHealth reports whether method is a health check: any member of the trust domain
// may ask, and neither the policy nor overload hides the answer.
func isHealth(method string) bool { return strings.HasPrefix(method, healthPrefix) }

func (s *Service) newGRPCServer() error {
	unary, stream, err := s.serverChain()
	if err != nil {
		return err
	}
	opts := []grpc.ServerOption{
		grpc.Creds(credentials.NewTLS(authn.ServerTLS(s.identity, s.admits()))),
		grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.tel.TracerProvider()),
			otelgrpc.WithMeterProvider(s.tel.MeterProvider()),
			otelgrpc.WithPropagators(s.tel.Propagator()),
		)),
		grpc.ChainUnaryInterceptor(unary...),
		grpc.ChainStreamInterceptor(stream...),
		grpc.MaxRecvMsgSize(int(s.cfg.MaxRequestBytes)),
		grpc.ConnectionTimeout(10 * time.Second),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
	}
	if s.cfg.MaxInFlight > 0 {
		opts = append(opts, grpc.MaxConcurrentStreams(uint32(s.cfg.MaxInFlight)))
	}
	s.grpc = grpc.NewServer(opts...)
	s.health = health.NewServer()
	s.health.SetServingStatus("", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	grpc_health_v1.RegisterHealthServer(s.grpc, s.health)
	return nil
}

// serverChain is the order that the package documentation promises. Each entry is one
// function with a unary and a stream form, so the two cannot drift apart.
func (s *Service) serverChain() ([]grpc.UnaryServerInterceptor, []grpc.StreamServerInterceptor, error) {
	var unary []grpc.UnaryServerInterceptor
	var stream []grpc.StreamServerInterceptor
	add := func(u grpc.UnaryServerInterceptor, st grpc.StreamServerInterceptor) {
		unary, stream = append(unary, u), append(stream, st)
	}
	around := func(g guard) { add(g.unary, g.stream) }

	around(s.front) // telemetry's log line, recover, correlation, in-flight ceiling
	judge := &grpcauthn.Server{Policy: s.policy, Verifier: s.cfg.Verifier, Denied: s.denied}
	add(unlessHealth(judge.Unary, judge.Stream)) // peer identity, user token, policy
	around(s.knowUser)
	loadUnary, loadStream, err := s.loadGuards() // deadline, shedding
	if err != nil {
		return nil, nil, err
	}
	add(unlessHealth(loadUnary, loadStream))
	if s.admission != "" {
		around(s.markAdmitted)
	}
	if !s.cfg.NoValidation {
		v, err := newValidator()
		if err != nil {
			return nil, nil, err
		}
		add(v.unary, v.stream)
	}
	if len(s.cfg.Idempotency) > 0 {
		keyUnary, keyStream, err := s.keyGuard()
		if err != nil {
			return nil, nil, err
		}
		add(keyUnary, keyStream)
	}
	return unary, stream, nil
}

// admits is the TLS authorizer: members of our trust domain, who learn from the policy
// what they may do, and whoever else the policy names.
func (s *Service) admits() tlsconfig.Authorizer {
	named := s.policy.Authorizer(s.domain)
	for _, id := range s.cfg.HTTPCallers {
		if !id.MemberOf(s.domain) {
			named = either(named, tlsconfig.AuthorizeOneOf(s.cfg.HTTPCallers...))
			break
		}
	}
	return either(tlsconfig.AuthorizeMemberOf(s.domain), named)
}

func either(a, b tlsconfig.Authorizer) tlsconfig.Authorizer {
	return func(id spiffeid.ID, chains [][]*x509.Certificate) error {
		if a(id, chains) == nil {
			return nil
		}
		return b(id, chains)
	}
}

// checkPolicy refuses to start with a method that no rule names, or the reverse.
func (s *Service) checkPolicy() error {
	var methods []string
	for _, m := range grpcauthn.Methods(s.grpc) {
		if !isHealth(m) {
			methods = append(methods, m)
		}
	}
	if err := s.policy.Check(methods); err != nil {
		return fmt.Errorf("kit: %s: %w", s.cfg.Name, err)
	}
	if len(methods) > 0 && s.grpcL == nil {
		return errors.New("kit: " + s.cfg.Name + " has gRPC methods registered but Config.GRPCAddr is \"none\": give it an address")
	}
	return nil
}
