package grpcresilience

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/resilience"
)

// interceptor is the client side whose second attempt starts after 10 ms.
func interceptor(t *testing.T, cfg resilience.Config) (grpc.UnaryClientInterceptor, *resilience.Pipeline) {
	t.Helper()
	cfg.Hedge.On, cfg.Hedge.Delay = true, 10*time.Millisecond
	d, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: cfg})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Get("health")
	if err != nil {
		t.Fatal(err)
	}
	return NewClient(d, "health").Unary, p
}

const checkMethod = "/grpc.health.v1.Health/Check"

// set does what grpc does with the options of a call that ends.
func set(opts []grpc.CallOption, name string) {
	for _, o := range opts {
		switch o := o.(type) {
		case grpc.HeaderCallOption:
			*o.HeaderAddr = metadata.Pairs("from", name)
		case grpc.TrailerCallOption:
			*o.TrailerAddr = metadata.Pairs("from", name)
		case grpc.PeerCallOption:
			*o.PeerAddr = peer.Peer{Addr: addr(name), LocalAddr: addr("here")}
		}
	}
}

type addr string

func (a addr) Network() string { return "test" }
func (a addr) String() string  { return string(a) }

// Each attempt has its own reply and its own place for header, trailer and peer.
// A loser that ends late touches nothing that the caller sees: run with -race.
func TestUnaryHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call, p := interceptor(t, resilience.Config{})
		var n atomic.Int64
		var told atomic.Bool
		invoke := func(ctx context.Context, _ string, _, reply any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
			answer := reply.(*healthpb.HealthCheckResponse)
			if n.Add(1) == 1 {
				<-ctx.Done()
				told.Store(true)
				time.Sleep(time.Second) // heedless
				answer.Status = healthpb.HealthCheckResponse_NOT_SERVING
				set(opts, "first")
				return nil
			}
			if md, _ := metadata.FromOutgoingContext(ctx); len(md.Get(metaAttempt)) != 1 || md.Get(metaAttempt)[0] != "2" {
				t.Errorf("metadata %v", md)
			}
			answer.Status = healthpb.HealthCheckResponse_SERVING
			set(opts, "second")
			return nil
		}
		var header, trailer metadata.MD
		var on peer.Peer
		reply := &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_UNKNOWN}
		start := time.Now()
		err := call(resilience.Idempotent(t.Context()), checkMethod, &healthpb.HealthCheckRequest{}, reply, nil, invoke,
			grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&on))
		took := time.Since(start)
		if err != nil || reply.GetStatus() != healthpb.HealthCheckResponse_SERVING || took != 10*time.Millisecond {
			t.Errorf("%v, %v after %v", reply, err, took)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if header.Get("from")[0] != "second" || trailer.Get("from")[0] != "second" || on.Addr != addr("second") {
			t.Errorf("header %v, trailer %v, peer %v: want those of the winner", header, trailer, on)
		}
		if reply.GetStatus() != healthpb.HealthCheckResponse_SERVING || !told.Load() {
			t.Errorf("%v; the loser was told: %t", reply, told.Load())
		}
		if s := p.Snapshot(); s.InFlight != 0 || s.Counts.Failures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestUnaryHedgesOnlyWhatMayBeRepeated(t *testing.T) {
	withKey := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "idempotency-key", "k-1")
	}
	none := resilience.Config{Budget: resilience.BudgetConfig{MinPerSecond: -1, Ratio: 1e-6}}
	for name, tc := range map[string]struct {
		cfg  resilience.Config
		ctx  func(context.Context) context.Context
		want int64
	}{
		"unmarked":         {resilience.Config{}, func(ctx context.Context) context.Context { return ctx }, 1},
		"idempotent":       {resilience.Config{}, resilience.Idempotent, 2},
		"with key":         {resilience.Config{}, withKey, 2},
		"with key, no end": {none, withKey, 1},
		"retries off":      {resilience.Config{}, func(ctx context.Context) context.Context { return resilience.NoRetry(withKey(ctx)) }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				call, _ := interceptor(t, tc.cfg)
				var n atomic.Int64
				err := call(tc.ctx(t.Context()), checkMethod, nil, &healthpb.HealthCheckResponse{}, nil,
					func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
						n.Add(1)
						time.Sleep(50 * time.Millisecond)
						return nil
					})
				time.Sleep(time.Second)
				synctest.Wait()
				if err != nil || n.Load() != tc.want {
					t.Errorf("%v after %d attempts, want %d", err, n.Load(), tc.want)
				}
			})
		})
	}
}

// An answer ends the hedging, as gRFC A6 has it; a failure waits for the others.
func TestUnaryHedgedAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		first codes.Code
		want  codes.Code
		took  time.Duration
	}{
		"not found":   {codes.NotFound, codes.NotFound, 20 * time.Millisecond},
		"unavailable": {codes.Unavailable, codes.OK, 40 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				call, _ := interceptor(t, resilience.Config{})
				var n atomic.Int64
				var trailer metadata.MD
				start := time.Now()
				err := call(resilience.Idempotent(t.Context()), checkMethod, nil, &healthpb.HealthCheckResponse{}, nil,
					func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
						if n.Add(1) == 1 {
							time.Sleep(20 * time.Millisecond)
							set(opts, "first")
							return status.Error(tc.first, "first")
						}
						select {
						case <-time.After(30 * time.Millisecond):
						case <-ctx.Done():
							return status.FromContextError(ctx.Err()).Err()
						}
						set(opts, "second")
						return nil
					}, grpc.Trailer(&trailer))
				took := time.Since(start)
				time.Sleep(time.Second)
				synctest.Wait()
				from := map[codes.Code]string{codes.OK: "second", codes.NotFound: "first"}[tc.want]
				if status.Code(err) != tc.want || took != tc.took || trailer.Get("from")[0] != from {
					t.Errorf("%v after %v, trailer %v", err, took, trailer)
				}
			})
		})
	}
}

// What is no message cannot be hedged, since an attempt needs a reply of its own.
func TestUnaryOfNoMessageIsNotHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call, _ := interceptor(t, resilience.Config{})
		var n atomic.Int64
		var reply []byte
		err := call(resilience.Idempotent(t.Context()), checkMethod, nil, &reply, nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
				n.Add(1)
				time.Sleep(time.Second)
				return nil
			})
		if err != nil || n.Load() != 1 {
			t.Errorf("%v after %d attempts", err, n.Load())
		}
	})
}

func TestNilDestinationsHaveTheDefaults(t *testing.T) {
	if n := len(DialOptions(nil, "health")); n != 3 {
		t.Fatalf("%d options", n)
	}
	c := NewClient(nil, "health")
	err := c.Unary(t.Context(), checkMethod, nil, nil, nil,
		func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
	if err != nil {
		t.Error(err)
	}
}

// A mistake in this process is INTERNAL, not UNKNOWN, for calls and streams.
func TestMistakesHaveACode(t *testing.T) {
	d, err := resilience.NewDestinations(&resilience.DestinationsConfig{
		Configure: func(name string, c *resilience.Config) { c.Retry.MaxAttempts = -1 },
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Client{"no name": NewClient(nil, ""), "bad configuration": NewClient(d, "health")} {
		err := c.Unary(t.Context(), checkMethod, nil, nil, nil, nil)
		_, streamErr := c.Stream(t.Context(), &grpc.StreamDesc{}, nil, checkMethod, nil)
		if status.Code(err) != codes.Internal || status.Code(streamErr) != codes.Internal {
			t.Errorf("%s: %v, stream %v", name, err, streamErr)
		}
	}
}

// What a server asks for is honoured, up to RetryConfig.MaxRetryAfter.
func TestPushbackIsCapped(t *testing.T) {
	for name, asked := range map[string]func(opts []grpc.CallOption) error{
		"pushback": func(opts []grpc.CallOption) error {
			for _, o := range opts {
				if o, ok := o.(grpc.TrailerCallOption); ok {
					*o.TrailerAddr = metadata.Pairs(pushbackKey, "2147483647")
				}
			}
			return status.Error(codes.Unavailable, "later")
		},
		"RetryInfo": func([]grpc.CallOption) error {
			return (&rejected{err: errors.New("later"), code: codes.Unavailable, after: 1000 * time.Hour}).GRPCStatus().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := resilience.Config{Deadline: resilience.DeadlineConfig{Off: true}, Retry: resilience.RetryConfig{BaseDelay: 1, MaxRetryAfter: 3 * time.Second}}
				d, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: cfg})
				if err != nil {
					t.Fatal(err)
				}
				n := 0
				start := time.Now()
				err = NewClient(d, "health").Unary(resilience.Idempotent(t.Context()), checkMethod, nil, nil, nil,
					func(_ context.Context, _ string, _, _ any, _ *grpc.ClientConn, opts ...grpc.CallOption) error {
						if n++; n == 1 {
							return asked(opts)
						}
						return nil
					})
				if took := time.Since(start); err != nil || took != 3*time.Second {
					t.Errorf("%v after %v, want 3s", err, took)
				}
			})
		})
	}
}

func TestMethodSetIsBounded(t *testing.T) {
	var s methodSet
	for i := range 2 * maxMethods {
		s.has("/s/m" + string(rune('a'+i%26)) + time.Duration(i).String())
	}
	if n := len(*s.known.Load()); n != maxMethods {
		t.Errorf("%d methods are kept, want %d", n, maxMethods)
	}
}
