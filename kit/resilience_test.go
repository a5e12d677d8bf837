package kit_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/resilience"
)

// sick is a service that answers as it is told, over gRPC and HTTP, and counts.
type sick struct {
	answered atomic.Int64
	do       atomic.Pointer[func(ctx context.Context) error]
}

func (s *sick) behave(do func(ctx context.Context) error) { s.do.Store(&do); s.answered.Store(0) }

func (s *sick) answer(ctx context.Context) error {
	s.answered.Add(1)
	return (*s.do.Load())(ctx)
}

var errSick = errors.New("sick")

func down(context.Context) error { return errSick }
func well(context.Context) error { return nil }

// hang answers once the caller has left; a second later, where nobody leaves.
func hang(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Second):
		return nil
	}
}

// peersOf runs a sick service and gives a caller one peer per configuration, all of
// which are that service.
func peersOf(t *testing.T, all resilience.Config, each map[string]func(*resilience.Config)) (*sick, *kit.Service) {
	t.Helper()
	w := newWorld(t)
	s := &sick{}
	s.behave(well)
	// The callee bounds nothing of its own: what ends a call is the caller's.
	callee, _ := w.service(t, w.allow(t, authn.NoUser, "caller"), kit.Config{
		Name: "sick", HTTPAddr: "127.0.0.1:0", HTTPCallers: []spiffeid.ID{w.ca.ID(t, "caller")},
		DefaultDeadline: -1, NoShedding: true, MaxInFlight: -1, NoAccessLog: true,
	})
	grpc_testing.RegisterTestServiceServer(callee, &server{unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		if err := s.answer(ctx); err != nil {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
		return &grpc_testing.SimpleResponse{}, nil
	}})
	callee.HTTP().HandleFunc("GET /", func(rw http.ResponseWriter, r *http.Request) {
		if s.answer(r.Context()) != nil {
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	run(t, callee)
	peers := make(map[string]kit.Peer)
	for name, change := range each {
		p := w.peer(t, callee)
		p.Resilience = change
		peers[name] = p
	}
	caller, _ := w.service(t, policy(t), kit.Config{Name: "caller", GRPCAddr: kit.None, AdminAddr: kit.None, Peers: peers, Resilience: all})
	return s, caller
}

// transports call a peer once, over gRPC and over HTTP. The context has no deadline.
func transports(t *testing.T, caller *kit.Service, peer string, opts ...kit.DialOption) map[string]func() error {
	t.Helper()
	rpc := stub(t, caller, peer, opts...)
	web, err := caller.HTTPClient(peer, opts...)
	if err != nil {
		t.Fatal(err)
	}
	ctx := resilience.Idempotent(t.Context())
	return map[string]func() error{
		"gRPC": func() error {
			_, err := rpc.UnaryCall(ctx, &grpc_testing.SimpleRequest{})
			return err
		},
		"HTTP": func() error {
			resp, err := web.Do(request(t, http.MethodGet, "https://"+peer+"/", nil).WithContext(ctx))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, _ = io.Copy(io.Discard, resp.Body)
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("status %d", resp.StatusCode)
			}
			return nil
		},
	}
}

// Every part of what protects a call to a peer is configured per peer and can be left
// out by itself, over gRPC and HTTP.
func TestPartsPerPeer(t *testing.T) {
	fast := resilience.Config{Retry: resilience.RetryConfig{BaseDelay: time.Microsecond}, Breaker: resilience.BreakerConfig{FailureRate: 1}}
	s, caller := peersOf(t, fast, map[string]func(*resilience.Config){
		"inherits":    nil,
		"no-retry":    func(c *resilience.Config) { c.Retry.Off = true },
		"poor":        func(c *resilience.Config) { c.Budget.MinPerSecond = -1 },
		"no-budget":   func(c *resilience.Config) { c.Budget.MinPerSecond, c.Budget.Off = -1, true },
		"fragile":     func(c *resilience.Config) { c.Retry.Off, c.Breaker.MinCalls = true, 2 },
		"no-breaker":  func(c *resilience.Config) { c.Retry.Off, c.Breaker.MinCalls, c.Breaker.Off = true, 2, true },
		"narrow":      func(c *resilience.Config) { c.Bulkhead.MaxConcurrent = 1 },
		"no-bulkhead": func(c *resilience.Config) { c.Bulkhead.MaxConcurrent, c.Bulkhead.Off = 1, true },
		"hurried":     func(c *resilience.Config) { c.Retry.Off, c.Deadline.Total = true, 50*time.Millisecond },
		"no-deadline": func(c *resilience.Config) {
			c.Retry.Off, c.Deadline.Total, c.Deadline.Off = true, 50*time.Millisecond, true
		},
	})
	each := func(peer string, test func(t *testing.T, call func() error), opts ...kit.DialOption) {
		for name, call := range transports(t, caller, peer, opts...) {
			t.Run(peer+" over "+name, func(t *testing.T) { test(t, call) })
		}
	}
	attempts := func(want int64) func(*testing.T, func() error) {
		return func(t *testing.T, call func() error) {
			s.behave(down)
			err := call()
			if got := s.answered.Load(); err == nil || got != want {
				t.Errorf("%d attempts, %v, want %d in vain", got, err, want)
			}
		}
	}
	each("inherits", attempts(3))
	each("inherits", attempts(1), kit.WithoutResilience())
	each("no-retry", attempts(1))
	each("poor", attempts(1))
	each("no-budget", attempts(3))

	// The two transports share what they call through: two failures over one of them
	// open the breaker for both.
	each("fragile", func(t *testing.T, call func() error) {
		s.behave(down)
		_, _, third := call(), call(), call()
		if p, err := caller.Destinations().Get("fragile"); err != nil || p.Snapshot().Breaker != resilience.BreakerOpen {
			t.Errorf("the breaker is %v, %v", p.Snapshot().Breaker, err)
		}
		if got := s.answered.Load(); third == nil || got > 2 || !errors.Is(third, resilience.ErrOpen) {
			t.Errorf("%d calls came through, the third with %v, want ErrOpen", got, third)
		}
	})
	each("no-breaker", func(t *testing.T, call func() error) {
		s.behave(down)
		for range 10 {
			_ = call()
		}
		if got := s.answered.Load(); got != 10 {
			t.Errorf("%d of 10 calls came through", got)
		}
	})

	held := func(peer string) func() {
		p, err := caller.Destinations().Get(peer)
		if err != nil {
			t.Fatal(err)
		}
		pass, err := p.Begin(t.Context(), resilience.Call{})
		if err != nil {
			t.Fatal(err)
		}
		return func() { pass.End(t.Context(), nil) }
	}
	each("narrow", func(t *testing.T, call func() error) {
		s.behave(well)
		defer held("narrow")()
		if err := call(); !errors.Is(err, resilience.ErrBulkheadFull) {
			t.Errorf("got %v, want ErrBulkheadFull", err)
		}
	})
	each("no-bulkhead", func(t *testing.T, call func() error) {
		s.behave(well)
		defer held("no-bulkhead")()
		if err := call(); err != nil {
			t.Error(err)
		}
	})

	each("hurried", func(t *testing.T, call func() error) {
		s.behave(hang)
		if err := call(); err == nil {
			t.Error("the call outlived its deadline")
		}
	})
	each("no-deadline", func(t *testing.T, call func() error) {
		s.behave(hang)
		if err := call(); err != nil {
			t.Errorf("a call without a bound: %v", err)
		}
	})
}

// Hooks and shedding of the configuration stand beside telemetry's, not in their place.
func TestHooksBesideTelemetry(t *testing.T) {
	w := newWorld(t)
	var rejected, shed atomic.Int64
	cfg := kit.Config{
		Name: "echo", Peers: map[string]kit.Peer{"gone": {Addr: "127.0.0.1:1", ID: w.ca.ID(t, "gone")}},
		Resilience: resilience.Config{
			Bulkhead: resilience.BulkheadConfig{MaxConcurrent: 1},
			Hooks:    &resilience.Hooks{Rejected: func(context.Context, string, *resilience.Rejection) { rejected.Add(1) }},
		},
		Shedding: resilience.ShedderConfig{
			MinLimit: 1, InitialLimit: 1, MaxLimit: 1, MaxQueue: 1, MaxWait: time.Millisecond,
			Hooks: &resilience.ShedderHooks{Shed: func(context.Context, resilience.Criticality, string) { shed.Add(1) }},
		},
	}
	entered, release := make(chan struct{}), make(chan struct{})
	s, rec := w.service(t, w.allow(t, authn.NoUser, "caller"), cfg)
	grpc_testing.RegisterTestServiceServer(s, &server{unary: func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		entered <- struct{}{}
		<-release
		return &grpc_testing.SimpleResponse{}, nil
	}})
	run(t, s)
	gone, err := s.Destinations().Get("gone")
	if err != nil {
		t.Fatal(err)
	}
	pass, err := gone.Begin(t.Context(), resilience.Call{})
	if err != nil {
		t.Fatal(err)
	}
	if err := gone.Execute(t.Context(), well); !errors.Is(err, resilience.ErrBulkheadFull) {
		t.Fatalf("got %v, want ErrBulkheadFull", err)
	}
	pass.End(t.Context(), nil)
	caller, _ := w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	c := stub(t, caller, "echo", kit.WithoutResilience())
	first := make(chan error, 1)
	go func() {
		_, err := c.UnaryCall(within(t), &grpc_testing.SimpleRequest{})
		first <- err
	}()
	<-entered
	_, err = c.UnaryCall(within(t), &grpc_testing.SimpleRequest{})
	close(release)
	if status.Code(err) != codes.Unavailable {
		t.Errorf("beside a full limit of one: %v, want UNAVAILABLE", err)
	}
	if err := <-first; err != nil {
		t.Error(err)
	}
	if rejected.Load() != 1 || shed.Load() != 1 {
		t.Errorf("hooks of the configuration saw %d rejections and %d shed, want 1 and 1", rejected.Load(), shed.Load())
	}
	metrics := rec.Metrics(t)
	for _, name := range []string{"napkin.resilience.rejected", "napkin.shedder.shed"} {
		if !strings.Contains(fmt.Sprint(metrics), name) {
			t.Errorf("telemetry has no %s", name)
		}
	}
}

func TestResilienceIsCheckedAtTheStart(t *testing.T) {
	w := newWorld(t)
	id := w.ca.Identity(t, w.ca.ID(t, "echo"))
	peer := func(change func(*resilience.Config)) map[string]kit.Peer {
		return map[string]kit.Peer{"order": {Addr: "h:1", ID: w.ca.ID(t, "order"), Resilience: change}}
	}
	late := func(c *resilience.Config) { c.Deadline.Attempt = time.Hour }
	own, err := resilience.NewDestinations(nil)
	if err != nil {
		t.Fatal(err)
	}
	shedder, err := resilience.NewShedder(nil)
	if err != nil {
		t.Fatal(err)
	}
	for want, cfg := range map[string]kit.Config{
		"Config.Resilience: resilience: Breaker.FailureRate is 50":                        {Resilience: resilience.Config{Breaker: resilience.BreakerConfig{FailureRate: 50}}},
		`Config.Peers["order"].Resilience: resilience: Deadline.Attempt is 1h0m0s`:        {Peers: peer(late)},
		"Config.Shedding: resilience: Shedder.Tolerance is 0.5":                           {Shedding: resilience.ShedderConfig{Tolerance: 0.5}},
		"Config.Resilience and Config.Destinations are both set":                          {Destinations: own, Resilience: resilience.Config{Retry: resilience.RetryConfig{Off: true}}},
		`Config.Peers["order"].Resilience and Config.Destinations are both set`:           {Destinations: own, Peers: peer(late)},
		"Config.Shedding is set, which configures a shedder of this service's own: leave": {Shedder: shedder, Shedding: resilience.ShedderConfig{MinLimit: 2}},
	} {
		cfg.Name, cfg.Identity = "echo", id
		if _, err := kit.New(t.Context(), policy(t), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// The operator's NAPKIN_SHEDDING=off wins over a shedder that the code configures.
func TestSheddingOffWins(t *testing.T) {
	cfg, err := kit.ConfigFromEnv("edge", func(k string) string { return map[string]string{"NAPKIN_SHEDDING": "off"}[k] })
	if err != nil {
		t.Fatal(err)
	}
	cfg.SPIFFEID = spiffeid.ID{} // that of the test's identity
	cfg.Shedding = resilience.ShedderConfig{InitialLimit: 1, MinLimit: 1, MaxLimit: 1, MaxWait: time.Millisecond}
	arrived, end := make(chan struct{}), make(chan struct{})
	s, _, _ := edge(t, cfg, func(m *http.ServeMux) {
		m.HandleFunc("GET /held", func(http.ResponseWriter, *http.Request) { arrived <- struct{}{}; <-end })
		m.HandleFunc("GET /", func(http.ResponseWriter, *http.Request) {})
	})
	var held sync.WaitGroup
	held.Go(func() { do(t, request(t, "GET", "http://"+s.HTTPAddr()+"/held", nil)) })
	<-arrived
	if resp, _ := do(t, request(t, "GET", "http://"+s.HTTPAddr()+"/", nil)); resp.StatusCode != http.StatusOK {
		t.Errorf("beside a request that holds the only place: %d", resp.StatusCode)
	}
	close(end)
	held.Wait()
}

func TestResilienceFromEnv(t *testing.T) {
	env := map[string]string{
		"NAPKIN_PEERS": "order=h:1,cart=h:2", "NAPKIN_SHEDDING": "off",
		"NAPKIN_RESILIENCE_OFF": "bulkhead, order=retry,order=breaker", "NAPKIN_PEER_TIMEOUTS": "order=2s",
	}
	cfg, err := kit.ConfigFromEnv("gateway", func(k string) string { return env[k] })
	if err != nil {
		t.Fatal(err)
	}
	if !cfg.NoShedding || !cfg.Resilience.Bulkhead.Off || cfg.Resilience.Retry.Off {
		t.Errorf("for all: %+v", cfg.Resilience)
	}
	var order resilience.Config
	cfg.Peers["order"].Resilience(&order)
	if !order.Retry.Off || !order.Breaker.Off || order.Budget.Off || order.Deadline.Total != 2*time.Second {
		t.Errorf("order: %+v", order)
	}
	if cfg.Peers["cart"].Resilience != nil {
		t.Error("cart is changed")
	}
	for _, bad := range []map[string]string{
		{"NAPKIN_RESILIENCE_OFF": "order=retry"}, // no such peer
		{"NAPKIN_PEER_TIMEOUTS": "order=0s", "NAPKIN_PEERS": "order=h:1"},
	} {
		if _, err := kit.ConfigFromEnv("gateway", func(k string) string { return bad[k] }); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	for variable, value := range map[string]string{"NAPKIN_RESILIENCE_OFF": "ordr=retry", "NAPKIN_PEER_TIMEOUTS": "ordr=2s"} {
		env := map[string]string{"NAPKIN_PEERS": "order=h:1,cart=h:2", variable: value}
		_, err := kit.ConfigFromEnv("gateway", func(k string) string { return env[k] })
		if err == nil || !strings.Contains(err.Error(), variable+`="`+value+`": the peer "ordr" is unknown, known are cart, order`) {
			t.Errorf("%s=%s: %v", variable, value, err)
		}
	}
}
