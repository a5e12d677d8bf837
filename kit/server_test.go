package kit_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// pair runs server "echo" with impl, and returns a client "caller" of it.
func pair(t *testing.T, impl *server, cfg kit.Config) (w *world, s *kit.Service, client *kit.Service, rec *telemetrytest.Recorder) {
	t.Helper()
	w = newWorld(t)
	cfg.Name = "echo"
	s, rec = w.service(t, w.allow(t, authn.NoUser, "caller"), cfg)
	grpc_testing.RegisterTestServiceServer(s, impl)
	run(t, s)
	client, _ = w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	return w, s, client, rec
}

func TestGuardsProtectUnaryAndStreamAlike(t *testing.T) {
	boom := func() error { panic("boom: hunter2") }
	tests := []struct {
		name   string
		err    func() error
		code   codes.Code
		detail string
	}{
		{"panic", boom, codes.Internal, "something went wrong on our side"},
		{"unknown error", func() error { return errors.New("pq: hunter2") }, codes.Internal, "something went wrong on our side"},
		{"problem", func() error { return problem.New(409, "taken", "already taken") }, codes.Aborted, "already taken"},
		{"status", func() error { return status.Error(codes.NotFound, "no such cart") }, codes.NotFound, "no such cart"},
		{"a dependency's cancellation is not the caller's", func() error { return context.Canceled }, codes.Unavailable, "the service is not available right now"},
		{"denied below", func() error { return authn.ErrScopeMissing }, codes.PermissionDenied, "the caller may not do this"},
		{"nothing", func() error { return nil }, codes.OK, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, client, rec := pair(t, &server{
				unary: func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
					return &grpc_testing.SimpleResponse{}, tt.err()
				},
				stream: func(ss grpc_testing.TestService_FullDuplexCallServer) error {
					if err := tt.err(); err != nil {
						return err
					}
					return echo(ss)
				},
			}, kit.Config{})
			u, s := both(within(t), stub(t, client, "echo"))
			for kind, err := range map[string]error{"unary": u, "stream": s} {
				if got := status.Convert(err); got.Code() != tt.code || got.Message() != tt.detail {
					t.Errorf("%s: got %v %q, want %v %q", kind, got.Code(), got.Message(), tt.code, tt.detail)
				}
			}
			if tt.name == "panic" {
				logs := rec.Logs(t)
				found := 0
				for _, l := range logs {
					if l["level"] == "ERROR" && strings.Contains(l["error"].(string), "boom: hunter2\n") {
						found++
					}
				}
				if found != 2 {
					t.Errorf("want both panics logged with their stacks, got %v", logs)
				}
			}
		})
	}
}

func TestStrangersAreRefused(t *testing.T) {
	w, s, _, _ := pair(t, &server{}, kit.Config{})
	other, _ := w.client(t, "other", map[string]kit.Peer{"echo": w.peer(t, s)})
	u, st := both(within(t), stub(t, other, "echo", kit.WithoutResilience()))
	if status.Code(u) != codes.PermissionDenied || status.Code(st) != codes.PermissionDenied {
		t.Errorf("a member that no rule names: unary %v, stream %v", u, st)
	}

	elsewhere := newWorld(t) // the same names under another authority
	forged, _ := elsewhere.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	u, st = both(ctx, stub(t, forged, "echo", kit.WithoutResilience()))
	if u == nil || st == nil {
		t.Errorf("a forged identity got through: unary %v, stream %v", u, st)
	}

	impostor, _ := w.client(t, "caller", map[string]kit.Peer{"echo": {Addr: s.GRPCAddr(), ID: w.ca.ID(t, "payment")}})
	ctx2, cancel2 := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel2()
	if u, _ := both(ctx2, stub(t, impostor, "echo", kit.WithoutResilience())); u == nil {
		t.Error("the client talked to a server that is not the peer it meant")
	}
}

func TestUserTokenReachesTheHandlerAndTheNextService(t *testing.T) {
	w := newWorld(t)
	seen := make(chan correlation.IDs, 4)
	back, _ := w.service(t, w.allow(t, authn.UserRequired, "front"), kit.Config{Name: "back", Verifier: w.tokens.Verifier(t)})
	grpc_testing.RegisterTestServiceServer(back, &server{unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		seen <- correlation.From(ctx)
		return &grpc_testing.SimpleResponse{}, nil
	}})
	run(t, back)

	front, _ := w.service(t, w.allow(t, authn.UserRequired, "caller"), kit.Config{
		Name: "front", Verifier: w.tokens.Verifier(t), Peers: map[string]kit.Peer{"back": w.peer(t, back)},
	})
	next := stub(t, front, "back")
	grpc_testing.RegisterTestServiceServer(front, &server{unary: func(ctx context.Context, req *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		return next.UnaryCall(ctx, req)
	}})
	run(t, front)
	caller, _ := w.client(t, "caller", map[string]kit.Peer{"front": w.peer(t, front)})
	c := stub(t, caller, "front")

	ctx := correlation.With(within(t), correlation.IDs{RequestID: "req-1", CorrelationID: "flow-1"})
	if _, err := c.UnaryCall(ctx, &grpc_testing.SimpleRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without a token: %v", err)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+w.tokens.Token(t, "alice"))
	if _, err := c.UnaryCall(ctx, &grpc_testing.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if got, want := <-seen, (correlation.IDs{RequestID: "req-1", CorrelationID: "flow-1", UserID: "alice"}); got != want {
		t.Errorf("two hops away: %+v, want %+v", got, want)
	}
}

func TestDeadlines(t *testing.T) {
	left := make(chan time.Duration, 2)
	note := func(ctx context.Context) {
		at, ok := ctx.Deadline()
		if !ok {
			t.Error("the handler has no deadline")
		}
		left <- time.Until(at)
	}
	w, s, client, _ := pair(t, &server{
		unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
			note(ctx)
			return &grpc_testing.SimpleResponse{}, nil
		},
		stream: func(ss grpc_testing.TestService_FullDuplexCallServer) error {
			note(ss.Context())
			return echo(ss)
		},
	}, kit.Config{DefaultDeadline: 7 * time.Second, StreamDeadline: 30 * time.Second})
	c := stub(t, client, "echo", kit.WithoutResilience())

	both(t.Context(), w.bare(t, "caller", s)) // kit's own client would set one
	if u, s := <-left, <-left; u > 7*time.Second || u < time.Second || s > 30*time.Second || s < 20*time.Second {
		t.Errorf("defaults: unary %v left, stream %v left", u, s)
	}
	if _, err := c.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	if u := <-left; u > 10*time.Second || u < 7*time.Second {
		t.Errorf("the client's default: %v left", u)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	both(ctx, c)
	if u, s := <-left, <-left; u > 3*time.Second || s > 3*time.Second {
		t.Errorf("the caller's deadline is kept: unary %v left, stream %v left", u, s)
	}
}

func TestInFlightCeiling(t *testing.T) {
	held, release := make(chan struct{}), make(chan struct{})
	_, s, client, _ := pair(t, &server{stream: func(ss grpc_testing.TestService_FullDuplexCallServer) error {
		held <- struct{}{}
		<-release
		return nil
	}}, kit.Config{MaxInFlight: 1})
	// A connection of its own for each: HTTP/2 bounds streams by connection.
	hold, err := stub(t, client, "echo", kit.WithoutResilience()).FullDuplexCall(within(t))
	if err != nil {
		t.Fatal(err)
	}
	<-held
	u, st := both(within(t), stub(t, client, "echo", kit.WithoutResilience()))
	for kind, err := range map[string]error{"unary": u, "stream": st} {
		p := grpcproblem.Of(err)
		if p.Code != "overloaded" || p.RetryAfter <= 0 || p.Status != 503 {
			t.Errorf("%s over the ceiling: %+v", kind, p)
		}
	}
	if code, _ := get(t, s.AdminAddr(), "/readyz"); code != 200 {
		t.Errorf("the admin port answers under load: %d", code)
	}
	close(release)
	if _, err := hold.Recv(); err == nil {
		t.Error("the held stream went on")
	}
	telemetrytest.Wait(t, "a free place", func() bool {
		_, err := stub(t, client, "echo").UnaryCall(within(t), &grpc_testing.SimpleRequest{})
		return err == nil
	})
}

func TestPolicyMustFitTheMethods(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service(t, policy(t), kit.Config{Name: "echo"})
	grpc_testing.RegisterTestServiceServer(s, &server{})
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no rule for /grpc.testing.TestService/UnaryCall") {
		t.Errorf("a method without a rule: %v", err)
	}
	s2, _ := w.service(t, w.allow(t, authn.NoUser, "x"), kit.Config{Name: "echo"})
	if err := s2.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("a rule without a method: %v", err)
	}
}

func TestOneTraceAndOneCorrelationIDOnBothSides(t *testing.T) {
	w := newWorld(t)
	s, srv := w.service(t, w.allow(t, authn.NoUser, "caller"), kit.Config{Name: "echo"})
	grpc_testing.RegisterTestServiceServer(s, &server{})
	run(t, s)
	client, cli := w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})

	ctx := correlation.With(within(t), correlation.IDs{RequestID: "req-9", CorrelationID: "flow-9"})
	if _, err := stub(t, client, "echo").UnaryCall(ctx, &grpc_testing.SimpleRequest{}); err != nil {
		t.Fatal(err)
	}
	telemetrytest.Wait(t, "the spans", func() bool { return len(srv.Spans()) == 1 && len(cli.Spans()) == 2 })
	attempt, call, served := cli.Spans()[0], cli.Spans()[1], srv.Spans()[0]
	if attempt.Parent().SpanID() != call.SpanContext().SpanID() || served.Parent().SpanID() != attempt.SpanContext().SpanID() {
		t.Errorf("want call %q → attempt %q → served %q", call.Name(), attempt.Name(), served.Name())
	}
	if got := telemetrytest.Attr(served, "napkin.correlation_id"); got != "flow-9" {
		t.Errorf("the server's span has correlation ID %q", got)
	}
	var line map[string]any
	telemetrytest.Wait(t, "the access line", func() bool {
		for _, l := range srv.Logs(t) {
			if l["msg"] == "grpc call" {
				line = l
			}
		}
		return line != nil
	})
	want := map[string]any{
		"service": "echo", "request_id": "req-9", "correlation_id": "flow-9", "rpc.status": "OK",
		"rpc.method": "/grpc.testing.TestService/UnaryCall", "trace_id": served.SpanContext().TraceID().String(),
		"span_id": served.SpanContext().SpanID().String(), "peer": "spiffe://kit.test/caller",
	}
	for k, v := range want {
		if line[k] != v {
			t.Errorf("access line: %s is %v, want %v", k, line[k], v)
		}
	}
}
