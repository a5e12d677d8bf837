package kit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// replica is one instance of a service that is restarted on its addresses.
type replica struct {
	w                 *world
	grpc, http, admin string
	stop              func() error
}

func (r *replica) start(t *testing.T) {
	t.Helper()
	s, _ := r.w.service(t, r.w.allow(t, authn.NoUser, "caller"), kit.Config{
		Name: "echo", GRPCAddr: r.grpc, HTTPAddr: r.http, AdminAddr: r.admin, PublicHTTP: true,
		DrainDelay: time.Second, NoAccessLog: true, NoShedding: true,
	})
	grpc_testing.RegisterTestServiceServer(s, &server{unary: func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		return &grpc_testing.SimpleResponse{}, nil
	}})
	s.HTTP().HandleFunc("POST /work", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	r.stop = run(t, s)
	telemetrytest.Wait(t, "the replica to be ready", r.ready)
}

func (r *replica) ready() bool {
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}).Get("http://" + r.admin + "/readyz")
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Two replicas are restarted in turn, under load that repeats nothing by itself: gRPC
// over one balanced connection, HTTP through what a load balancer does, which is to
// ask /readyz and to send to whoever is ready.
func TestRollingRestartLosesNoRequest(t *testing.T) {
	w := newWorld(t)
	replicas := [2]*replica{}
	for i := range replicas {
		replicas[i] = &replica{w: w, grpc: freePort(t), http: freePort(t), admin: freePort(t)}
		replicas[i].start(t)
	}
	client, _ := w.client(t, "caller", map[string]kit.Peer{
		"echo": {Addr: replicas[0].grpc + "," + replicas[1].grpc, ID: w.ca.ID(t, "echo")},
	})
	c := stub(t, client, "echo", kit.WithoutResilience())
	if err := warm(t, c); err != nil {
		t.Fatal(err)
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var done, lost [3]atomic.Int64
	var failures sync.Map
	fire := func(kind int, call func(context.Context) error) {
		for ctx.Err() == nil {
			one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			if err := call(one); err != nil {
				lost[kind].Add(1)
				failures.Store(err.Error(), kind)
			} else {
				done[kind].Add(1)
			}
			cancel()
		}
	}
	for range 4 {
		load.Go(func() {
			fire(0, func(ctx context.Context) error {
				_, err := c.UnaryCall(ctx, &grpc_testing.SimpleRequest{})
				return err
			})
		})
	}
	load.Go(func() {
		fire(1, func(ctx context.Context) error {
			u, s := both(ctx, c)
			if u != nil {
				return u
			}
			return s
		})
	})
	balancer := newBalancer(ctx, replicas[:])
	defer balancer.close()
	for range 2 {
		load.Go(func() { fire(2, balancer.post) })
	}

	for round := range 4 {
		r := replicas[round%2]
		if err := r.stop(); err != nil {
			t.Errorf("restart %d: Run returned %v", round, err)
		}
		r.start(t)
		before := done[0].Load()
		telemetrytest.Wait(t, "traffic after the restart", func() bool {
			return done[0].Load() > before+200 && balancer.ok[0].Load() && balancer.ok[1].Load()
		})
	}
	stop()
	load.Wait()
	for kind, name := range []string{"gRPC unary", "gRPC stream", "HTTP POST"} {
		t.Logf("%s: %d served, %d lost", name, done[kind].Load(), lost[kind].Load())
		if lost[kind].Load() > 0 || done[kind].Load() < 100 {
			t.Errorf("%s: %d served, %d lost", name, done[kind].Load(), lost[kind].Load())
		}
	}
	failures.Range(func(err, kind any) bool {
		t.Logf("kind %v: %v", kind, err)
		return true
	})
}

func warm(t *testing.T, c grpc_testing.TestServiceClient) error {
	_, err := c.UnaryCall(within(t), &grpc_testing.SimpleRequest{})
	return err
}

var errAnswer = errors.New("not what was sent")

// balancer sends to the replicas that answered their last health check, in turn.
type balancer struct {
	replicas []*replica
	ok       []atomic.Bool
	next     atomic.Int64
	client   *http.Client
	done     chan struct{}
}

func newBalancer(ctx context.Context, replicas []*replica) *balancer {
	b := &balancer{replicas: replicas, ok: make([]atomic.Bool, len(replicas)), client: &http.Client{Transport: &http.Transport{}}, done: make(chan struct{})}
	check := func() {
		for i, r := range replicas {
			b.ok[i].Store(r.ready())
		}
	}
	check()
	go func() {
		defer close(b.done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				check()
			}
		}
	}()
	return b
}

func (b *balancer) close() {
	<-b.done
	b.client.CloseIdleConnections()
}

func (b *balancer) post(ctx context.Context) error {
	first := int(b.next.Add(1))
	for k := range b.replicas {
		i := (first + k) % len(b.replicas)
		if !b.ok[i].Load() {
			continue
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+b.replicas[i].http+"/work", strings.NewReader("payload"))
		if err != nil {
			return err
		}
		req.GetBody = nil // net/http must not repeat it either
		resp, err := b.client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != "payload" || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%d %q: %w", resp.StatusCode, body, errors.Join(err, errAnswer))
		}
		return nil
	}
	return fmt.Errorf("no replica is ready")
}

func TestConnectionComesBackWhenThePeerDoes(t *testing.T) {
	w := newWorld(t)
	r := &replica{w: w, grpc: freePort(t), http: kit.None, admin: freePort(t)}
	r.start(t)
	client, _ := w.client(t, "caller", map[string]kit.Peer{"echo": {Addr: r.grpc, ID: w.ca.ID(t, "echo")}})
	c := stub(t, client, "echo")
	if err := warm(t, c); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := warm(t, c); status.Code(err) != codes.Unavailable {
		t.Errorf("while the peer is away: %v", err)
	}
	r.start(t)
	telemetrytest.Wait(t, "the connection to come back", func() bool { return warm(t, c) == nil })
}

func TestShutdownOrder(t *testing.T) {
	var mu sync.Mutex
	var order []string
	note := func(what string) {
		mu.Lock()
		defer mu.Unlock()
		order = append(order, what)
	}
	started, finish := make(chan struct{}), make(chan struct{})
	w := newWorld(t)
	s, _ := w.service(t, w.allow(t, authn.NoUser, "caller"), kit.Config{Name: "echo"})
	grpc_testing.RegisterTestServiceServer(s, &server{
		unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
			close(started)
			<-kit.Draining(ctx)
			note("draining")
			<-finish
			note("request finished")
			return &grpc_testing.SimpleResponse{}, nil
		},
		stream: func(ss grpc_testing.TestService_FullDuplexCallServer) error {
			<-kit.Draining(ss.Context()) // as a watch does, so that nobody waits for it
			return status.Error(codes.Unavailable, "moving")
		},
	})
	s.Go("consumer", func(ctx context.Context) error {
		<-ctx.Done()
		note("worker stopped")
		return ctx.Err()
	})
	s.OnClose("database", func(context.Context) error { note("closed database"); return nil })
	s.OnClose("broker", func(context.Context) error { note("closed broker"); return nil })
	stop := run(t, s)
	client, _ := w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	c := stub(t, client, "echo", kit.WithoutResilience())
	answered := make(chan error, 2)
	go func() {
		_, err := c.UnaryCall(within(t), &grpc_testing.SimpleRequest{})
		answered <- err
	}()
	<-started
	ss, err := c.FullDuplexCall(within(t))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := ss.Recv()
		answered <- err
	}()

	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	telemetrytest.Wait(t, "the drain", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(order) == 1
	})
	code, body := get(t, s.AdminAddr(), "/readyz") // the admin port outlives the drain
	var report kit.ReadyReport
	if err := json.Unmarshal([]byte(body), &report); err != nil || code != 503 || !report.Draining {
		t.Errorf("/readyz while draining: %d %s %v", code, body, err)
	}
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the stream that watched Draining: %v", err)
	}
	close(finish)
	if err := <-answered; err != nil {
		t.Errorf("the request in flight was lost: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run returned %v", err)
	}
	want := "draining, request finished, worker stopped, closed broker, closed database"
	if got := strings.Join(order, ", "); got != want {
		t.Errorf("order\n got %s\nwant %s", got, want)
	}
}

func TestDrainTimeoutCutsOff(t *testing.T) {
	w := newWorld(t)
	s, _ := w.service(t, w.allow(t, authn.NoUser, "caller"), kit.Config{Name: "echo", DrainTimeout: 50 * time.Millisecond})
	started := make(chan struct{})
	grpc_testing.RegisterTestServiceServer(s, &server{unary: func(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	stop := run(t, s)
	client, _ := w.client(t, "caller", map[string]kit.Peer{"echo": w.peer(t, s)})
	answered := make(chan error, 1)
	go func() {
		_, err := stub(t, client, "echo", kit.WithoutResilience()).UnaryCall(within(t), &grpc_testing.SimpleRequest{})
		answered <- err
	}()
	<-started
	if err := stop(); err == nil || !strings.Contains(err.Error(), "cut off after the drain timeout of 50ms") {
		t.Errorf("Run returned %v", err)
	}
	if err := <-answered; status.Code(err) != codes.Unavailable {
		t.Errorf("the caller got %v", err)
	}
}
