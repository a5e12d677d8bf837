package grpcresilience

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/napkin-kit/napkin/resilience"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers as its functions say.
type service struct {
	healthpb.UnimplementedHealthServer
	calls atomic.Int64
	check func(ctx context.Context, n int64) error
	watch func(stream healthpb.Health_WatchServer) error
}

func (s *service) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if err := s.check(ctx, s.calls.Add(1)); err != nil {
		return nil, err
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (s *service) Watch(_ *healthpb.HealthCheckRequest, stream healthpb.Health_WatchServer) error {
	s.calls.Add(1)
	return s.watch(stream)
}

// serve starts the service on loopback and returns a client through a pipeline.
func serve(t *testing.T, s *service, cfg resilience.Config, guard *Server) (healthpb.HealthClient, *resilience.Pipeline) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var opts []grpc.ServerOption
	if guard != nil {
		opts = append(opts, grpc.ChainUnaryInterceptor(guard.Unary), grpc.ChainStreamInterceptor(guard.Stream))
	}
	srv := grpc.NewServer(opts...)
	healthpb.RegisterHealthServer(srv, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(lis) }()
	t.Cleanup(func() { srv.Stop(); <-done })
	return dial(t, lis.Addr().String(), cfg)
}

func dial(t *testing.T, addr string, cfg resilience.Config) (healthpb.HealthClient, *resilience.Pipeline) {
	t.Helper()
	cfg.Retry.BaseDelay = time.Microsecond
	d, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: cfg})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(addr, append(DialOptions(d, "health"), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	p, err := d.Get("health")
	if err != nil {
		t.Fatal(err)
	}
	return healthpb.NewHealthClient(conn), p
}

func failing(code codes.Code, times int64) func(context.Context, int64) error {
	return func(_ context.Context, n int64) error {
		if n <= times {
			return status.Error(code, "down")
		}
		return nil
	}
}

func TestUnaryIsRetriedOnlyWhenSafe(t *testing.T) {
	withKey := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "idempotency-key", "k-1")
	}
	for name, tc := range map[string]struct {
		ctx   func(context.Context) context.Context
		check func(context.Context, int64) error
		want  int64
		code  codes.Code
	}{
		"unmarked":                 {nil, failing(codes.Unavailable, 1), 1, codes.Unavailable},
		"idempotent":               {resilience.Idempotent, failing(codes.Unavailable, 1), 2, codes.OK},
		"with key":                 {withKey, failing(codes.Unavailable, 1), 2, codes.OK},
		"with key, an answer":      {withKey, failing(codes.NotFound, 1), 1, codes.NotFound},
		"with key, internal":       {withKey, failing(codes.Internal, 1), 1, codes.Internal},
		"with key, always down":    {withKey, failing(codes.Unavailable, 9), 3, codes.Unavailable},
		"with key, limited":        {withKey, failing(codes.ResourceExhausted, 1), 1, codes.ResourceExhausted},
		"with key, limited, timed": {withKey, timed(codes.ResourceExhausted), 2, codes.OK},
		"with key, pushed back":    {withKey, pushedBack("-1", codes.Unavailable), 1, codes.Unavailable},
		"with key, pushback 1ms":   {withKey, pushedBack("1", codes.Unavailable), 2, codes.OK},
		"limited, pushback 1ms":    {withKey, pushedBack("1", codes.ResourceExhausted), 2, codes.OK},
		"an answer, pushback 1ms":  {withKey, pushedBack("1", codes.InvalidArgument), 1, codes.InvalidArgument},
		"internal, pushback 1ms":   {withKey, pushedBack("1", codes.Internal), 1, codes.Internal},
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{check: tc.check}
			client, _ := serve(t, s, resilience.Config{}, nil)
			ctx := t.Context()
			if tc.ctx != nil {
				ctx = tc.ctx(ctx)
			}
			_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
			if status.Code(err) != tc.code || s.calls.Load() != tc.want {
				t.Fatalf("%d calls, %v, want %d and %v", s.calls.Load(), err, tc.want, tc.code)
			}
		})
	}
}

func timed(code codes.Code) func(context.Context, int64) error {
	return func(_ context.Context, n int64) error {
		if n > 1 {
			return nil
		}
		st, err := status.New(code, "later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Millisecond)})
		if err != nil {
			return err
		}
		return st.Err()
	}
}

func pushedBack(ms string, code codes.Code) func(context.Context, int64) error {
	return func(ctx context.Context, n int64) error {
		if n > 1 {
			return nil
		}
		_ = grpc.SetTrailer(ctx, metadata.Pairs(pushbackKey, ms))
		return status.Error(code, "down")
	}
}

func TestUnaryNeverSentIsRetriedForAnyCall(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	lis.Close() // nobody listens there
	var retries atomic.Int64
	client, _ := dial(t, lis.Addr().String(), resilience.Config{Hooks: &resilience.Hooks{
		Retry: func(context.Context, string, int, time.Duration, error) { retries.Add(1) },
	}})
	_, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable || !errors.Is(err, resilience.ErrAttemptsExhausted) || retries.Load() != 2 {
		t.Fatalf("%v after %d retries, want 2", err, retries.Load())
	}
}

// A text that is not UTF-8 is the caller's fault: no number of them opens the breaker.
func TestUnsendableRequestsSayNothingOfTheDestination(t *testing.T) {
	s := &service{
		check: func(context.Context, int64) error { return nil },
		watch: func(healthpb.Health_WatchServer) error { return nil },
	}
	client, _ := serve(t, s, resilience.Config{}, nil)
	bad := &healthpb.HealthCheckRequest{Service: "\xff"}
	for range 100 {
		if _, err := client.Check(resilience.Idempotent(t.Context()), bad); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("unary: %v", err)
		}
		if _, err := client.Watch(t.Context(), bad); status.Code(err) != codes.InvalidArgument {
			t.Fatalf("stream: %v", err)
		}
	}
	if n := s.calls.Load(); n != 0 {
		t.Errorf("the service was called %d times", n)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("a good request afterwards: %v", err)
	}
}

func TestUnsendableMetadataSaysNothingOfTheDestination(t *testing.T) {
	s := &service{check: failing(codes.Unavailable, 0), watch: func(healthpb.Health_WatchServer) error { return nil }}
	client, p := serve(t, s, resilience.Config{Breaker: resilience.BreakerConfig{MinCalls: 1}}, nil)
	ctx := metadata.AppendToOutgoingContext(resilience.Idempotent(t.Context()), "x-note", "a\nb")
	var retries *resilience.RetryError
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Internal || errors.As(err, &retries) {
		t.Errorf("got %v, want INTERNAL at once", err)
	}
	if _, err := client.Watch(ctx, &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Internal {
		t.Errorf("got %v, want INTERNAL", err)
	}
	if snap := p.Snapshot(); snap.Counts != (resilience.BreakerCounts{}) || snap.InFlight != 0 || s.calls.Load() != 0 {
		t.Errorf("%+v after %d calls, want nothing counted and nothing sent", snap, s.calls.Load())
	}
}

func TestAttemptAndCriticalityTravel(t *testing.T) {
	guard, err := NewServer(&ServerConfig{TrustCriticality: true})
	if err != nil {
		t.Fatal(err)
	}
	var attempt atomic.Int64
	var class atomic.Value
	s := &service{check: func(ctx context.Context, n int64) error {
		attempt.Store(int64(resilience.AttemptFrom(ctx)))
		class.Store(resilience.CriticalityFrom(ctx))
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		return failing(codes.Unavailable, 1)(ctx, n)
	}}
	client, _ := serve(t, s, resilience.Config{}, guard)
	ctx := resilience.WithCriticality(resilience.Idempotent(t.Context()), resilience.CriticalPlus)
	if _, err := client.Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if attempt.Load() != 2 || class.Load() != resilience.CriticalPlus {
		t.Fatalf("attempt %d, class %v", attempt.Load(), class.Load())
	}
}

func TestLocalRejectionsHaveTheirCode(t *testing.T) {
	s := &service{check: failing(codes.OK, 0)}
	client, p := serve(t, s, resilience.Config{Bulkhead: resilience.BulkheadConfig{MaxConcurrent: 1}}, nil)
	p.Breaker().Force(resilience.BreakerForcedOpen)
	_, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.Unavailable || !errors.Is(err, resilience.ErrOpen) || !resilience.IsLocalRejection(err) {
		t.Fatalf("open: %v", err)
	}
	if _, err = client.Watch(t.Context(), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable || !errors.Is(err, resilience.ErrOpen) {
		t.Fatalf("open, stream: %v", err)
	}
	p.Breaker().Force(resilience.BreakerAuto)
	pass, err := p.Begin(t.Context(), resilience.Call{})
	if err != nil {
		t.Fatal(err)
	}
	defer pass.End(t.Context(), nil)
	_, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if status.Code(err) != codes.ResourceExhausted || !errors.Is(err, resilience.ErrBulkheadFull) {
		t.Fatalf("full: %v", err)
	}
	if s.calls.Load() != 0 {
		t.Fatalf("%d calls reached the server", s.calls.Load())
	}
}

func TestStreamHoldsItsPermitToItsEnd(t *testing.T) {
	release := make(chan error)
	s := &service{watch: func(stream healthpb.Health_WatchServer) error {
		if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
			return err
		}
		select {
		case err := <-release:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}}
	client, p := serve(t, s, resilience.Config{}, nil)
	open := func(ctx context.Context) healthpb.Health_WatchClient {
		t.Helper()
		w, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); err != nil {
			t.Fatal(err)
		}
		if n := p.Snapshot().InFlight; n != 1 {
			t.Fatalf("%d permits are out while the stream is open, want 1", n)
		}
		return w
	}
	settled := func(want resilience.BreakerCounts) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for {
			snap := p.Snapshot()
			if snap.InFlight == 0 && snap.Counts == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%+v, want no permit out and %+v", snap, want)
			}
			<-time.After(time.Millisecond)
		}
	}

	w := open(t.Context())
	release <- nil
	if _, err := w.Recv(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	settled(resilience.BreakerCounts{Successes: 1})

	w = open(t.Context())
	release <- status.Error(codes.Internal, "boom")
	if _, err := w.Recv(); status.Code(err) != codes.Internal {
		t.Fatal(err)
	}
	settled(resilience.BreakerCounts{Successes: 1, Failures: 1})

	// Dropped without reading it to its end: neutral, and the permit comes back.
	ctx, cancel := context.WithCancel(t.Context())
	open(ctx)
	cancel()
	settled(resilience.BreakerCounts{Successes: 1, Failures: 1})
}

// A destination that is called by streams alone, none of which ends, has a breaker
// that closes again.
func TestAnsweredStreamsCloseTheBreaker(t *testing.T) {
	var up atomic.Bool
	s := &service{watch: func(stream healthpb.Health_WatchServer) error {
		if !up.Load() {
			return status.Error(codes.Unavailable, "down")
		}
		if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}}
	client, p := serve(t, s, resilience.Config{Breaker: resilience.BreakerConfig{
		MinCalls: 2, Probes: 2, OpenFor: time.Millisecond, ProbeTimeout: time.Hour,
	}}, nil)
	watch := func(ctx context.Context) error {
		w, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
		if err == nil {
			_, err = w.Recv()
		}
		return err
	}
	for range 2 {
		if err := watch(t.Context()); status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	up.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 2 {
		for err := watch(ctx); err != nil; err = watch(ctx) {
			if !errors.Is(err, resilience.ErrOpen) {
				t.Fatal(err)
			}
			<-time.After(time.Millisecond)
		}
	}
	if s := p.Snapshot(); s.Breaker != resilience.BreakerClosed || s.InFlight != 2 {
		t.Errorf("%+v, want closed, with two streams under way", s)
	}
}

func TestServerShedsUnaryAndStreams(t *testing.T) {
	shedder, err := resilience.NewShedder(&resilience.ShedderConfig{
		MinLimit: 1, InitialLimit: 1, MaxLimit: 1, MaxQueue: 1, MaxWait: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := NewServer(&ServerConfig{Shedder: shedder})
	if err != nil {
		t.Fatal(err)
	}
	s := &service{
		check: failing(codes.OK, 0),
		watch: func(stream healthpb.Health_WatchServer) error {
			if err := stream.Send(&healthpb.HealthCheckResponse{}); err != nil {
				return err
			}
			if n := shedder.Snapshot().InFlight; n != 0 {
				t.Errorf("the stream holds a place after its first response")
			}
			return nil
		},
	}
	client, _ := serve(t, s, resilience.Config{Retry: resilience.RetryConfig{Off: true}}, guard)
	w, err := client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = w.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}

	busy, err := shedder.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Check(t.Context(), &healthpb.HealthCheckRequest{})
	st := status.Convert(err)
	if st.Code() != codes.Unavailable || len(st.Details()) != 1 {
		t.Fatalf("unary: %v with %v, want UNAVAILABLE with RetryInfo", st, st.Details())
	}
	if resilience.IsLocalRejection(err) {
		t.Fatal("the server's refusal is no local rejection of the client's")
	}
	w, err = client.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Fatalf("stream: %v, want UNAVAILABLE", err)
	}
	busy.Release(resilience.ShedIgnore)
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
}

func TestCeiling(t *testing.T) {
	b, err := resilience.NewBulkhead("server", &resilience.BulkheadConfig{MaxConcurrent: 1})
	if err != nil {
		t.Fatal(err)
	}
	unary := CeilingUnary(b)
	_, err = unary(t.Context(), nil, nil, func(ctx context.Context, _ any) (any, error) {
		return unary(ctx, nil, nil, func(context.Context, any) (any, error) { return "inner", nil })
	})
	if status.Code(err) != codes.ResourceExhausted || b.InFlight() != 0 {
		t.Fatalf("%v, %d in flight", err, b.InFlight())
	}
}

func TestDeclaredIdempotency(t *testing.T) {
	registerTestService(t)
	for method, want := range map[string]bool{
		"/napkintest.S/Get": true, "/napkintest.S/Put": false, "/napkintest.S/None": false, "nonsense": false, "": false,
	} {
		if got := declaredIdempotent(method); got != want {
			t.Errorf("%q: %t, want %t", method, got, want)
		}
	}
}

// registerTestService makes a service known as generated code does: once per
// process.
func registerTestService(t *testing.T) {
	t.Helper()
	if _, err := protoregistry.GlobalFiles.FindFileByPath("napkin_test.proto"); err == nil {
		return
	}
	level := descriptorpb.MethodOptions_NO_SIDE_EFFECTS
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("napkin_test.proto"), Package: proto.String("napkintest"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{
			Name: proto.String("S"),
			Method: []*descriptorpb.MethodDescriptorProto{
				{Name: proto.String("Get"), InputType: proto.String(".napkintest.M"), OutputType: proto.String(".napkintest.M"), Options: &descriptorpb.MethodOptions{IdempotencyLevel: &level}},
				{Name: proto.String("Put"), InputType: proto.String(".napkintest.M"), OutputType: proto.String(".napkintest.M")},
			},
		}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		t.Fatal(err)
	}
	if err := protoregistry.GlobalFiles.RegisterFile(file); err != nil {
		t.Fatal(err)
	}
}

func TestStatusError(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{nil, codes.OK},
		{&resilience.Rejection{Err: resilience.ErrShed, After: time.Second}, codes.Unavailable},
		{&resilience.Rejection{Err: resilience.ErrThrottled}, codes.Unavailable},
		{&resilience.Rejection{Err: resilience.ErrLimited}, codes.ResourceExhausted},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{status.Error(codes.NotFound, "x"), codes.NotFound},
		{errors.New("x"), codes.Unknown},
	} {
		err := StatusError(tc.err)
		if got := status.Code(err); got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("%v: %v, want %v", tc.err, got, tc.want)
		}
	}
}
