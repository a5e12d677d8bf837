package grpcauthn_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
	"github.com/napkin-kit/napkin/authn/grpcauthn"
)

const (
	unary  = "/grpc.testing.TestService/UnaryCall"
	stream = "/grpc.testing.TestService/FullDuplexCall"
)

// service answers with the principal it sees, and notes each time it is run.
type service struct {
	pb.UnimplementedTestServiceServer
	mu   sync.Mutex
	seen []authn.Principal
	next pb.TestServiceClient // asked on behalf of the caller, if set
}

func (s *service) note(ctx context.Context) {
	p, _ := authn.PrincipalFrom(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, p)
}

func (s *service) take() []authn.Principal {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

func (s *service) UnaryCall(ctx context.Context, req *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	s.note(ctx)
	if s.next != nil {
		return s.next.UnaryCall(ctx, req)
	}
	return &pb.SimpleResponse{}, nil
}

func (s *service) FullDuplexCall(ss grpc.BidiStreamingServer[pb.StreamingOutputCallRequest, pb.StreamingOutputCallResponse]) error {
	s.note(ss.Context())
	if s.next != nil {
		next, err := s.next.FullDuplexCall(ss.Context())
		if err != nil {
			return err
		}
		if err := next.CloseSend(); err != nil {
			return err
		}
		if _, err := next.Recv(); !errors.Is(err, io.EOF) {
			return err
		}
	}
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

// A telemetry interceptor outside sees the reason that the caller is not told.
func TestTheReasonStaysInTheProcess(t *testing.T) {
	policy := policyFor(t, authn.Rule{AnyWorkload: true})
	notCalled := func(context.Context, any) (any, error) { t.Error("the handler ran"); return nil, nil }
	_, err := grpcauthn.UnaryServer(policy, nil)(t.Context(), nil, &grpc.UnaryServerInfo{FullMethod: unary}, notCalled)
	if !errors.Is(err, authn.ErrPeerUnknown) || status.Code(err) != codes.Unauthenticated {
		t.Errorf("unary: %v", err)
	}
	noDetail(t, err)
	err = grpcauthn.StreamServer(policy, nil)(nil, bareStream{ctx: t.Context()}, &grpc.StreamServerInfo{FullMethod: stream},
		func(any, grpc.ServerStream) error { t.Error("the handler ran"); return nil })
	if !errors.Is(err, authn.ErrPeerUnknown) || status.Code(err) != codes.Unauthenticated {
		t.Errorf("stream: %v", err)
	}
	noDetail(t, err)
}

type bareStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s bareStream) Context() context.Context { return s.ctx }

// start serves svc and returns its address.
func start(t *testing.T, svc *service, guard *grpcauthn.Server, opts ...grpc.ServerOption) string {
	t.Helper()
	srv := grpc.NewServer(append(opts, grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))...)
	pb.RegisterTestServiceServer(srv, svc)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := srv.Serve(lis); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { srv.Stop(); wg.Wait() })
	return lis.Addr().String()
}

func dial(t *testing.T, addr string, creds credentials.TransportCredentials, opts ...grpc.DialOption) pb.TestServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return pb.NewTestServiceClient(conn)
}

func callUnary(ctx context.Context, c pb.TestServiceClient) error {
	_, err := c.UnaryCall(ctx, &pb.SimpleRequest{})
	return err
}

func callStream(ctx context.Context, c pb.TestServiceClient) error {
	s, err := c.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	if err := s.Send(&pb.StreamingOutputCallRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if _, err := s.Recv(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// each runs a subtest per kind of call: they must not differ.
func each(t *testing.T, test func(t *testing.T, call func(context.Context, pb.TestServiceClient) error)) {
	t.Helper()
	t.Run("unary", func(t *testing.T) { test(t, callUnary) })
	t.Run("stream", func(t *testing.T) { test(t, callStream) })
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func policyFor(t *testing.T, rule authn.Rule) *authn.Policy {
	t.Helper()
	one, two := rule, rule
	one.Method, two.Method = unary, stream
	p, err := authn.NewPolicy(one, two)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCallsAreJudgedAlikeUnaryAndStreaming(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	order, cart, payment := ca.ID(t, "order"), ca.ID(t, "cart"), ca.ID(t, "payment")
	tokens := authntest.NewTokenIssuer(t, "https://auth.shop.test", "shop")
	down := authntest.NewTokenIssuer(t, "https://auth.shop.test", "shop")
	down.SetDown(true)

	workloadOnly := authn.Rule{From: []spiffeid.ID{order}}
	optional := authn.Rule{From: []spiffeid.ID{order}, User: authn.UserOptional}
	admin := authn.Rule{From: []spiffeid.ID{order}, User: authn.UserRequired, Scopes: []string{"shop:admin"}}
	good := "Bearer " + tokens.Token(t, "u1", "shop:admin")
	expired := "Bearer " + tokens.Mint(t, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})
	foreign := "Bearer " + tokens.Mint(t, map[string]any{"aud": "bank"})

	for name, c := range map[string]struct {
		rule    authn.Rule
		caller  spiffeid.ID
		auth    []string
		keys    *authntest.TokenIssuer
		want    codes.Code
		subject string
		reason  error
	}{
		"a named workload":                {rule: workloadOnly, caller: order},
		"another workload":                {rule: workloadOnly, caller: cart, want: codes.PermissionDenied, reason: authn.ErrDenied},
		"another workload with a token":   {rule: admin, caller: cart, auth: []string{good}, want: codes.PermissionDenied, reason: authn.ErrDenied},
		"a token nobody asked for":        {rule: workloadOnly, caller: order, auth: []string{"Bearer rubbish"}},
		"no token where one may be":       {rule: optional, caller: order},
		"a token where one may be":        {rule: optional, caller: order, auth: []string{good}, subject: "u1"},
		"a bad token where one may be":    {rule: optional, caller: order, auth: []string{"Bearer rubbish"}, want: codes.Unauthenticated, reason: authn.ErrTokenInvalid},
		"no token where one must be":      {rule: admin, caller: order, want: codes.Unauthenticated, reason: authn.ErrTokenMissing},
		"an empty header":                 {rule: admin, caller: order, auth: []string{""}, want: codes.Unauthenticated, reason: authn.ErrTokenMissing},
		"a user with the scope":           {rule: admin, caller: order, auth: []string{good}, subject: "u1"},
		"a lower-case scheme":             {rule: admin, caller: order, auth: []string{"b" + good[1:]}, subject: "u1"},
		"a user without the scope":        {rule: admin, caller: order, auth: []string{"Bearer " + tokens.Token(t, "u2")}, want: codes.PermissionDenied, reason: authn.ErrScopeMissing},
		"an expired token":                {rule: admin, caller: order, auth: []string{expired}, want: codes.Unauthenticated, reason: authn.ErrTokenExpired},
		"a token for another audience":    {rule: admin, caller: order, auth: []string{foreign}, want: codes.Unauthenticated, reason: authn.ErrTokenInvalid},
		"basic authentication":            {rule: admin, caller: order, auth: []string{"Basic dTpw"}, want: codes.Unauthenticated, reason: authn.ErrTokenInvalid},
		"two tokens":                      {rule: admin, caller: order, auth: []string{good, good}, want: codes.Unauthenticated, reason: authn.ErrTokenInvalid},
		"an issuer that is down":          {rule: admin, caller: order, auth: []string{good}, keys: down, want: codes.Unavailable, reason: authn.ErrUnavailable},
		"any workload, if the rule so is": {rule: authn.Rule{AnyWorkload: true}, caller: cart},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, call func(context.Context, pb.TestServiceClient) error) {
				keys := c.keys
				if keys == nil {
					keys = tokens
				}
				var mu sync.Mutex
				var reasons []error
				svc := &service{}
				addr := start(t, svc, &grpcauthn.Server{
					Policy: policyFor(t, c.rule), Verifier: keys.Verifier(t),
					Denied: func(_ context.Context, _ string, _ spiffeid.ID, reason error) {
						mu.Lock()
						defer mu.Unlock()
						reasons = append(reasons, reason)
					},
				}, grpc.Creds(credentials.NewTLS(authn.ServerTLS(ca.Identity(t, payment), tlsconfig.AuthorizeAny()))))
				client := dial(t, addr, credentials.NewTLS(authn.ClientTLS(ca.Identity(t, c.caller), tlsconfig.AuthorizeID(payment))))

				ctx := testContext(t)
				for _, v := range c.auth {
					ctx = metadata.AppendToOutgoingContext(ctx, "authorization", v)
				}
				err := call(ctx, client)
				if got := status.Code(err); got != c.want {
					t.Fatalf("%v (%v), want %v", got, err, c.want)
				}
				seen := svc.take()
				mu.Lock()
				defer mu.Unlock()
				if c.want != codes.OK {
					if len(seen) != 0 {
						t.Error("the handler ran")
					}
					if len(reasons) != 1 || !errors.Is(reasons[0], c.reason) {
						t.Errorf("Denied was told %v, want %v", reasons, c.reason)
					}
					noDetail(t, err)
					return
				}
				if len(seen) != 1 || seen[0].Workload != c.caller || seen[0].Subject != c.subject || len(reasons) != 0 {
					t.Errorf("the handler saw %v, want %v for %q; denied: %v", seen, c.caller, c.subject, reasons)
				}
			})
		})
	}
}

// noDetail fails if the status tells the caller more than its class.
func noDetail(t *testing.T, err error) {
	t.Helper()
	st := status.Convert(err)
	if len(st.Details()) != 0 {
		t.Errorf("details: %v", st.Details())
	}
	for _, leak := range []string{"authn", "spiffe", "shop", "aud", "scope", "kid", "key", "expired", "issuer", "http", "jwt"} {
		if strings.Contains(strings.ToLower(st.Message()), leak) {
			t.Errorf("the message %q tells about %q", st.Message(), leak)
		}
	}
}

func TestWithoutMutualTLSNobodyIsAdmitted(t *testing.T) {
	each(t, func(t *testing.T, call func(context.Context, pb.TestServiceClient) error) {
		svc := &service{}
		addr := start(t, svc, &grpcauthn.Server{Policy: policyFor(t, authn.Rule{AnyWorkload: true})})
		err := call(testContext(t), dial(t, addr, insecure.NewCredentials()))
		if status.Code(err) != codes.Unauthenticated || len(svc.take()) != 0 {
			t.Errorf("got %v", err)
		}
	})
}

func TestTheZeroServerDeniesEverything(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	each(t, func(t *testing.T, call func(context.Context, pb.TestServiceClient) error) {
		svc := &service{}
		addr := start(t, svc, &grpcauthn.Server{}, grpc.Creds(credentials.NewTLS(authn.ServerTLS(ca.Identity(t, ca.ID(t, "a")), tlsconfig.AuthorizeAny()))))
		err := call(testContext(t), dial(t, addr, credentials.NewTLS(authn.ClientTLS(ca.Identity(t, ca.ID(t, "b")), tlsconfig.AuthorizeAny()))))
		if status.Code(err) != codes.PermissionDenied || len(svc.take()) != 0 {
			t.Errorf("got %v", err)
		}
	})
}

func TestAMissingVerifierRefusesTokens(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	rule := authn.Rule{AnyWorkload: true, User: authn.UserOptional}
	guard := &grpcauthn.Server{Policy: policyFor(t, rule)}
	each(t, func(t *testing.T, call func(context.Context, pb.TestServiceClient) error) {
		svc := &service{}
		addr := start(t, svc, guard, grpc.Creds(credentials.NewTLS(authn.ServerTLS(ca.Identity(t, ca.ID(t, "a")), tlsconfig.AuthorizeAny()))))
		client := dial(t, addr, credentials.NewTLS(authn.ClientTLS(ca.Identity(t, ca.ID(t, "b")), tlsconfig.AuthorizeAny())))
		err := call(metadata.AppendToOutgoingContext(testContext(t), "authorization", "Bearer x"), client)
		if status.Code(err) != codes.Unavailable || len(svc.take()) != 0 {
			t.Errorf("got %v", err)
		}
	})
}

// The token goes through two services, each of which checks it.
func TestForwardToken(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	gateway, order, payment := ca.ID(t, "gateway"), ca.ID(t, "order"), ca.ID(t, "payment")
	tokens := authntest.NewTokenIssuer(t, "https://auth.shop.test", "shop")
	creds := func(self, peer spiffeid.ID) credentials.TransportCredentials {
		return credentials.NewTLS(authn.ClientTLS(ca.Identity(t, self), tlsconfig.AuthorizeID(peer)))
	}
	serverCreds := func(self spiffeid.ID) grpc.ServerOption {
		return grpc.Creds(credentials.NewTLS(authn.ServerTLS(ca.Identity(t, self), tlsconfig.AuthorizeAny())))
	}
	each(t, func(t *testing.T, call func(context.Context, pb.TestServiceClient) error) {
		paymentService := &service{}
		paymentAddr := start(t, paymentService, &grpcauthn.Server{
			Policy:   policyFor(t, authn.Rule{From: []spiffeid.ID{order}, User: authn.UserRequired}),
			Verifier: tokens.Verifier(t),
		}, serverCreds(payment))
		orderService := &service{next: dial(t, paymentAddr, creds(order, payment), grpcauthn.ForwardToken())}
		orderAddr := start(t, orderService, &grpcauthn.Server{
			Policy:   policyFor(t, authn.Rule{From: []spiffeid.ID{gateway}, User: authn.UserOptional}),
			Verifier: tokens.Verifier(t),
		}, serverCreds(order))
		client := dial(t, orderAddr, creds(gateway, order), grpcauthn.ForwardToken())

		user, err := tokens.Verifier(t).Verify(t.Context(), tokens.Token(t, "u1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := call(authn.WithPrincipal(testContext(t), user), client); err != nil {
			t.Fatal(err)
		}
		if seen := paymentService.take(); len(seen) != 1 || seen[0].Subject != "u1" || seen[0].Workload != order {
			t.Errorf("payment saw %v", seen)
		}
		if err := call(testContext(t), client); status.Code(err) != codes.Unauthenticated {
			t.Errorf("without a user: %v", err)
		}
		if seen := paymentService.take(); len(seen) != 0 {
			t.Errorf("payment saw %v", seen)
		}
	})
}

func TestForwardTokenKeepsToEncryptedConnections(t *testing.T) {
	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()), grpcauthn.ForwardToken())
	if err == nil {
		defer conn.Close()
		err = callUnary(testContext(t), pb.NewTestServiceClient(conn))
	}
	if err == nil || !strings.Contains(err.Error(), "security") {
		t.Errorf("got %v; want a refusal to send credentials in the clear", err)
	}
}

func TestForwardTokenThroughMesh(t *testing.T) {
	tokens := authntest.NewTokenIssuer(t, "https://auth.shop.test", "shop")
	sidecarSays := spiffeid.RequireFromString("spiffe://shop.test/order")
	each(t, func(t *testing.T, call func(context.Context, pb.TestServiceClient) error) {
		svc := &service{}
		addr := start(t, svc, &grpcauthn.Server{
			Policy:   policyFor(t, authn.Rule{From: []spiffeid.ID{sidecarSays}, User: authn.UserRequired}),
			Verifier: tokens.Verifier(t),
			Peer:     func(context.Context) (spiffeid.ID, error) { return sidecarSays, nil },
		})
		client := dial(t, addr, insecure.NewCredentials(), grpcauthn.ForwardTokenThroughMesh())
		ctx := authn.WithPrincipal(testContext(t), authn.Principal{Subject: "u1"}.WithBearerToken(tokens.Token(t, "u1")))
		if err := call(ctx, client); err != nil {
			t.Fatal(err)
		}
		if seen := svc.take(); len(seen) != 1 || seen[0].Subject != "u1" || seen[0].Workload != sidecarSays {
			t.Errorf("saw %v", seen)
		}
	})
}

func TestCheckComparesWithWhatIsRegistered(t *testing.T) {
	srv := grpc.NewServer()
	defer srv.Stop()
	pb.RegisterReconnectServiceServer(srv, pb.UnimplementedReconnectServiceServer{})
	from := []spiffeid.ID{spiffeid.RequireFromString("spiffe://shop.test/order")}

	complete, err := authn.NewPolicy(authn.Rule{Method: "/grpc.testing.ReconnectService/*", From: from, User: authn.UserRequired})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&grpcauthn.Server{Policy: complete}).Check(srv); err == nil || !strings.Contains(err.Error(), "Verifier") {
		t.Errorf("a policy with users and no verifier: %v", err)
	}
	verifier := authntest.NewTokenIssuer(t, "https://auth.shop.test", "shop").Verifier(t)
	if err := (&grpcauthn.Server{Policy: complete, Verifier: verifier}).Check(srv); err != nil {
		t.Error(err)
	}
	forgotten, err := authn.NewPolicy(authn.Rule{Method: "/grpc.testing.ReconnectService/Start", From: from})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&grpcauthn.Server{Policy: forgotten}).Check(srv); err == nil || !strings.Contains(err.Error(), "no rule for /grpc.testing.ReconnectService/Stop") {
		t.Errorf("a forgotten method: %v", err)
	}
}
