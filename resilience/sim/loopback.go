package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/grpcresilience"
)

// demo is the stall once more, with processes: a server and clients that talk
// gRPC over loopback. Its processes obey lines on their standard input and end
// with it, so that none outlives the demo.
type demo struct {
	capacity, offered    float64 // requests per second, by all clients together
	clients              int
	before, stall, after time.Duration
}

var fullDemo = demo{
	capacity: capacity, offered: offered, clients: 2,
	before: 10 * time.Second, stall: 10 * time.Second, after: 30 * time.Second,
}

func (d demo) length() time.Duration { return d.before + d.stall + d.after }

// The policies that a process may have.
const (
	policyPlain  = "plain"  // 3 retries without a budget; a server that takes what comes
	policyNapkin = "napkin" // the library's defaults
)

// settled is how long after its second a call's fate is known: no client tries
// for longer.
const settled = 5 * time.Second

// demonstrate runs the demo without and with the library.
func demonstrate(w io.Writer, d demo, seed uint64) error {
	var results []*Result
	for _, policy := range []string{policyPlain, policyNapkin} {
		fmt.Fprintf(w, "\n%s: server for %.0f requests/s, %d clients with %.0f calls/s, stall of %v after %v\n", policy, d.capacity, d.clients, d.offered, d.stall, d.before)
		fmt.Fprintln(w, "second  calls  succeeded  requests sent")
		r, err := d.run(policy, seed, func(i int, s Second) {
			note := ""
			if at := time.Duration(i) * time.Second; at >= d.before && at < d.before+d.stall {
				note = "  stalled"
			}
			fmt.Fprintf(w, "%6d  %5d  %9d  %13d%s\n", i, s.Offered, s.Good, s.Attempts, note)
		})
		if err != nil {
			return err
		}
		results = append(results, r)
	}
	fmt.Fprintln(w)
	for i, policy := range []string{policyPlain, policyNapkin} {
		fmt.Fprintf(w, "%-6s  99 %% goodput after: %s\n", policy, recovery(results[i]))
	}
	return nil
}

// run starts the processes, lets them play and ends them. each is called for
// each second, some seconds later.
func (d demo) run(policy string, seed uint64, each func(int, Second)) (r *Result, err error) {
	server, err := start("-role", "server", "-policy", policy, "-seed", fmt.Sprint(seed))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.end()) }()
	addr, err := server.tell(fmt.Sprint(d.capacity))
	if err != nil {
		return nil, err
	}
	length := d.length()
	var clients []*process
	for i := range d.clients {
		c, err := start("-role", "client", "-policy", policy, "-addr", addr, "-seed", fmt.Sprint(seed+uint64(i)))
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, c.end()) }()
		if _, err = c.line(); err != nil { // it has reached the server
			return nil, err
		}
		clients = append(clients, c)
	}
	for _, c := range clients {
		if err := c.say(fmt.Sprintf("%g %v", d.offered/float64(d.clients), length)); err != nil {
			return nil, err
		}
	}
	stall := time.AfterFunc(d.before, func() { _ = server.say(d.stall.String()) }) // a server that is gone is seen by its clients
	defer stall.Stop()
	r = &Result{Scenario: Scenario{StallAt: d.before, Stall: d.stall, Until: length}}
	for i := range int(length / time.Second) {
		var sum Second
		for _, c := range clients {
			line, err := c.line()
			if err != nil {
				return nil, err
			}
			var s Second
			if err := json.Unmarshal([]byte(line), &s); err != nil {
				return nil, fmt.Errorf("client said %q: %w", line, err)
			}
			sum.Offered += s.Offered
			sum.Good += s.Good
			sum.Attempts += s.Attempts
		}
		r.Seconds = append(r.Seconds, sum)
		each(i, sum)
	}
	return r, nil
}

// process is a child of this program.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// asProcess tells a test binary that it is not to test.
const asProcess = "NAPKIN_SIM_PROCESS=1"

func start(args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(self, args...)} //nolint:noctx // it ends with its standard input, see end
	p.cmd.Env = append(os.Environ(), asProcess)
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	return p, p.cmd.Start()
}

func (p *process) say(line string) error {
	_, err := fmt.Fprintln(p.in, line)
	return err
}

func (p *process) line() (string, error) {
	line, err := p.out.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("process %d: %w", p.cmd.Process.Pid, err)
	}
	return strings.TrimSpace(line), nil
}

// tell says a line and returns the answer.
func (p *process) tell(line string) (string, error) {
	if err := p.say(line); err != nil {
		return "", err
	}
	return p.line()
}

// end closes the standard input, at which the process ends, and kills it should
// it not.
func (p *process) end() error {
	p.in.Close()
	kill := time.AfterFunc(10*time.Second, func() { _ = p.cmd.Process.Kill() }) // gone already: fine
	defer kill.Stop()
	return p.cmd.Wait()
}

// serveRole is the main function of a process of the demo.
func serveRole(role, policy, addr string, seed uint64) error {
	if policy != policyPlain && policy != policyNapkin {
		return fmt.Errorf("-policy is %q: set it to %s or %s", policy, policyPlain, policyNapkin)
	}
	in := bufio.NewScanner(os.Stdin)
	switch role {
	case "server":
		return serverRole(policy, seed, in)
	case "client":
		return clientRole(policy, addr, seed, in)
	}
	return fmt.Errorf("-role is %q: set it to server or client", role)
}

// queued is a gRPC service whose calls wait for the one worker of a server.
type queued struct {
	healthpb.UnimplementedHealthServer
	server *server
}

func (q queued) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if err := <-q.server.enqueue(ctx); err != nil {
		return nil, err
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

// serverRole is told its capacity, answers with its address, and stalls for as
// long as each further line says.
func serverRole(policy string, seed uint64, in *bufio.Scanner) error {
	cfg := ServerConfig{}
	if !in.Scan() {
		return in.Err()
	}
	if _, err := fmt.Sscan(in.Text(), &cfg.PerSecond); err != nil || cfg.PerSecond <= 0 {
		return fmt.Errorf("capacity is %q: a number of requests per second", in.Text())
	}
	var stallEnd atomic.Int64 // ns of Unix time
	s, err := newServer(cfg, seed, func(now time.Time) time.Duration { return time.Unix(0, stallEnd.Load()).Sub(now) }, func() {})
	if err != nil {
		return err
	}
	defer s.close()
	var options []grpc.ServerOption
	if policy == policyNapkin {
		shedder, err := resilience.NewShedder(nil)
		if err != nil {
			return err
		}
		guard, err := grpcresilience.NewServer(&grpcresilience.ServerConfig{Shedder: shedder})
		if err != nil {
			return err
		}
		options = append(options, grpc.ChainUnaryInterceptor(guard.Unary))
	}
	g := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(g, queued{server: s})
	lis, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // binding loopback does not block
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(lis) }()
	fmt.Println(lis.Addr())
	for in.Scan() {
		d, err := time.ParseDuration(in.Text())
		if err != nil {
			return err
		}
		stallEnd.Store(time.Now().Add(d).UnixNano())
	}
	g.Stop()
	return errors.Join(in.Err(), <-served)
}

// grpcClient leaves retrying to the connection's interceptors.
type grpcClient struct{ health healthpb.HealthClient }

func (c grpcClient) call(ctx context.Context, _ *rand.Rand, _ func(context.Context) error) error {
	_, err := c.health.Check(resilience.Idempotent(ctx), &healthpb.HealthCheckRequest{})
	return err
}

// clientRole says "ready" once it has reached the server, is told rate and
// length, and then says what happened in each second.
func clientRole(policy, addr string, seed uint64, in *bufio.Scanner) error {
	var counting atomic.Pointer[world]
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry()}
	if policy == policyNapkin {
		destinations, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: *oneSecond()})
		if err != nil {
			return err
		}
		options = append(options, grpcresilience.DialOptions(destinations, "server")...)
	}
	options = append(options, grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if w := counting.Load(); w != nil {
			w.count(time.Now(), func(s *Second) { s.Attempts++ })
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}))
	conn, err := grpc.NewClient(addr, options...)
	if err != nil {
		return err
	}
	defer conn.Close()
	health := healthpb.NewHealthClient(conn)
	if _, err := health.Check(context.Background(), &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true)); err != nil {
		return err
	}
	fmt.Println("ready")
	if !in.Scan() {
		return in.Err()
	}
	sc := Scenario{Seed: seed, Client: plain(attempts), Streams: []Stream{{Criticality: resilience.Critical}}}
	var length string
	if _, err := fmt.Sscan(in.Text(), &sc.Streams[0].PerSecond, &length); err != nil {
		return err
	}
	if sc.Until, err = time.ParseDuration(length); err != nil {
		return err
	}
	if policy == policyNapkin {
		sc.Client = func() (client, error) { return grpcClient{health}, nil }
	}
	w, err := newWorld(sc)
	if err != nil {
		return err
	}
	w.send = func(ctx context.Context) error {
		_, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
	counting.Store(w)
	// The parent is gone: so is the purpose. Its other end closes our input.
	go func() {
		for in.Scan() {
		}
		os.Exit(0)
	}()
	var reporting sync.WaitGroup
	reporting.Go(w.report)
	w.play()
	reporting.Wait()
	return nil
}

// report says what happened in each second, once it is settled.
func (w *world) report() {
	for i := range w.seconds {
		time.Sleep(time.Until(w.start.Add(time.Duration(i+1)*time.Second + settled)))
		w.mu.Lock()
		line, err := json.Marshal(w.seconds[i])
		w.mu.Unlock()
		if err != nil {
			panic(err) // a struct of numbers
		}
		fmt.Println(string(line))
	}
}
