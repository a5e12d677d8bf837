package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/resilience"
)

// Stream is a kind of calls: how many come per second, and how much they matter.
type Stream struct {
	PerSecond   float64
	Criticality resilience.Criticality
}

// Scenario is a world: a server, its clients, the load and what goes wrong.
type Scenario struct {
	Seed    uint64
	Server  ServerConfig
	Clients int // processes that share the load evenly, each with policies of its own
	// Client makes the client of one process.
	Client  func() (client, error)
	Streams []Stream
	// For the time between StallAt and StallAt+Stall no work gets done: the lock
	// is held, the disk hangs.
	StallAt, Stall time.Duration
	// Freeze makes the whole server stand still meanwhile. It does not even
	// refuse; what arrives waits in its sockets.
	Freeze bool
	// Until ends the run.
	Until time.Duration
}

// Second counts what happened in one second.
type Second struct {
	Offered  int // calls that began
	Good     int // of them, those that succeeded in the end
	Attempts int // requests sent to the server, retries included
	Served   int // requests worked on, also in vain
	// By criticality, as Offered and Good.
	OfferedOf, GoodOf [resilience.CriticalPlus + 1]int
}

// Result is a run, second by second.
type Result struct {
	Scenario Scenario
	Seconds  []Second
}

// world is a run under way. It uses the time of package time, be it a synctest
// bubble's or the real one.
type world struct {
	Scenario
	start   time.Time
	server  *server
	clients []client
	send    func(context.Context) error // makes and counts one attempt
	calls   sync.WaitGroup

	mu      sync.Mutex
	seconds []Second
}

func newWorld(sc Scenario) (*world, error) {
	w := &world{Scenario: sc, start: time.Now(), seconds: make([]Second, int(sc.Until/time.Second))}
	for range max(sc.Clients, 1) {
		c, err := sc.Client()
		if err != nil {
			return nil, err
		}
		w.clients = append(w.clients, c)
	}
	return w, nil
}

// Run plays a scenario from beginning to end. All goroutines have ended, or are
// about to, when it returns.
func Run(sc Scenario) (*Result, error) {
	w, err := newWorld(sc)
	if err != nil {
		return nil, err
	}
	w.server, err = newServer(sc.Server, sc.Seed, w.stalled, func() {
		w.count(time.Now(), func(s *Second) { s.Served++ })
	})
	if err != nil {
		return nil, err
	}
	w.send = func(ctx context.Context) error {
		w.count(time.Now(), func(s *Second) { s.Attempts++ })
		return await(ctx, w.deliver(ctx))
	}
	w.play()
	w.server.close()
	return &Result{Scenario: sc, Seconds: w.seconds}, nil
}

// play makes the calls, and waits for the last to end.
func (w *world) play() {
	var arrivals sync.WaitGroup
	for i, st := range w.Streams {
		arrivals.Go(func() { w.arrive(uint64(i), st) })
	}
	arrivals.Wait()
	w.calls.Wait()
}

// stalled returns how long the server will not work from now.
func (w *world) stalled(now time.Time) time.Duration {
	if at := now.Sub(w.start); at >= w.StallAt && at < w.StallAt+w.Stall {
		return w.StallAt + w.Stall - at
	}
	return 0
}

// deliver takes a request to the server of a simulation.
func (w *world) deliver(ctx context.Context) <-chan error {
	d := time.Duration(0)
	if w.Freeze {
		d = w.stalled(time.Now())
	}
	if d == 0 {
		return w.server.send(ctx)
	}
	reply := make(chan error, 1)
	w.calls.Go(func() {
		time.Sleep(d)
		reply <- <-w.server.send(ctx)
	})
	return reply
}

// arrive lets calls come at random (a Poisson process), whether earlier ones
// were answered or not: users do not wait for each other.
func (w *world) arrive(id uint64, st Stream) {
	rng := rand.New(rand.NewPCG(w.Seed, 100+id))
	for next := w.start; ; {
		next = next.Add(time.Duration(rng.ExpFloat64() / st.PerSecond * float64(time.Second)))
		time.Sleep(time.Until(next))
		if time.Since(w.start) >= w.Until {
			return
		}
		c, seed := w.clients[rng.IntN(len(w.clients))], rng.Uint64()
		w.calls.Go(func() { w.call(c, st.Criticality, rand.New(rand.NewPCG(seed, 2))) })
	}
}

func (w *world) call(c client, class resilience.Criticality, rng *rand.Rand) {
	began := time.Now()
	w.count(began, func(s *Second) { s.Offered++; s.OfferedOf[class]++ })
	ctx := resilience.WithCriticality(context.Background(), class)
	err := c.call(ctx, rng, w.send)
	if err == nil {
		w.count(began, func(s *Second) { s.Good++; s.GoodOf[class]++ })
	}
}

func (w *world) count(at time.Time, add func(*Second)) {
	i := int(at.Sub(w.start) / time.Second)
	if i >= len(w.seconds) {
		return // after the end
	}
	w.mu.Lock()
	add(&w.seconds[i])
	w.mu.Unlock()
}

// span returns the sum of the seconds in [from, to).
func (r *Result) span(from, to time.Duration) (sum Second) {
	for _, s := range r.Seconds[from/time.Second : min(int(to/time.Second), len(r.Seconds))] {
		sum.Offered += s.Offered
		sum.Good += s.Good
		sum.Attempts += s.Attempts
		sum.Served += s.Served
		for c := range s.OfferedOf {
			sum.OfferedOf[c] += s.OfferedOf[c]
			sum.GoodOf[c] += s.GoodOf[c]
		}
	}
	return sum
}

// Goodput is the share of the calls begun in [from, to) that succeeded in the
// end.
func (r *Result) Goodput(from, to time.Duration) float64 {
	s := r.span(from, to)
	return float64(s.Good) / float64(max(s.Offered, 1))
}

// Amplification is how many requests were sent per call in [from, to).
func (r *Result) Amplification(from, to time.Duration) float64 {
	s := r.span(from, to)
	return float64(s.Attempts) / float64(max(s.Offered, 1))
}

// recoveryWindow is how long goodput must stay: one second of some hundred calls
// says little about 99 %.
const recoveryWindow = 10 * time.Second

// Recovery is the time from the end of the stall until goodput is back at 99 %
// in that second and over the ten seconds that it begins. ok is false if that
// does not happen in the run.
func (r *Result) Recovery() (d time.Duration, ok bool) {
	end := r.Scenario.StallAt + r.Scenario.Stall
	for at := end; at+recoveryWindow <= r.Scenario.Until; at += time.Second {
		if r.Goodput(at, at+time.Second) >= 0.99 && r.Goodput(at, at+recoveryWindow) >= 0.99 {
			return at - end, true
		}
	}
	return 0, false
}
