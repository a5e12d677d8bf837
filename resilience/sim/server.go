package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/grpcresilience"
)

// Discipline is the order in which a server takes its queue.
type Discipline int

// The disciplines.
const (
	FIFO Discipline = iota
	LIFO
)

// ServerConfig is a server: one worker with a queue, as most servers are where
// they hurt, at the one lock, disk or connection pool that all requests share.
type ServerConfig struct {
	// PerSecond is the capacity.
	PerSecond float64
	// Exponential makes service times vary as textbooks have it. Otherwise they
	// vary evenly by half.
	Exponential bool
	// Order of the queue.
	Order Discipline
	// MaxQueue bounds it. 0: no bound.
	MaxQueue int
	// DropExpired drops at the head of the queue what has less than Margin left
	// until its deadline.
	DropExpired bool
	Margin      time.Duration
	// Shedder stands before the queue. nil: none. Its zero value means the
	// library's defaults.
	Shedder *resilience.ShedderConfig
}

// server works on jobs one by one until it is closed.
type server struct {
	cfg     ServerConfig
	shedder *resilience.Shedder
	rng     *rand.Rand // service times; the worker's own
	stall   func(now time.Time) time.Duration
	served  func() // a job was worked on, be it in vain

	mu     sync.Mutex
	wake   *sync.Cond
	queue  deque
	closed bool
	idle   chan struct{} // closed when the worker has ended
}

type job struct {
	at   time.Time
	due  time.Time // zero: no deadline
	done chan error
}

func newServer(cfg ServerConfig, seed uint64, stall func(time.Time) time.Duration, served func()) (*server, error) {
	s := &server{
		cfg: cfg, rng: rand.New(rand.NewPCG(seed, 1)), stall: stall, served: served, idle: make(chan struct{}),
	}
	s.wake = sync.NewCond(&s.mu)
	if cfg.Shedder != nil {
		var err error
		if s.shedder, err = resilience.NewShedder(cfg.Shedder); err != nil {
			return nil, err
		}
	}
	go s.work()
	return s, nil
}

func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.wake.Signal()
	<-s.idle
}

// send delivers a request. The answer, if it ever comes, is what a gRPC client
// would get: the server's error as a status.
func (s *server) send(ctx context.Context) <-chan error {
	if s.shedder == nil {
		return s.enqueue(ctx)
	}
	reply := make(chan error, 1)
	go func() {
		err := s.shedder.Execute(ctx, func(ctx context.Context) error { return <-s.enqueue(ctx) })
		if err != nil {
			err = status.Convert(grpcresilience.StatusError(err)).Err()
		}
		reply <- err
	}()
	return reply
}

var errQueueFull = status.Error(codes.Unavailable, "queue full")

// enqueue is the request's handler. Nobody tells the worker that a client has
// given up: what waits behind a lock does not look at its context.
func (s *server) enqueue(ctx context.Context) <-chan error {
	j := &job{at: time.Now(), done: make(chan error, 1)}
	j.due, _ = ctx.Deadline()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.cfg.MaxQueue > 0 && s.queue.len() >= s.cfg.MaxQueue {
		j.done <- errQueueFull
		return j.done
	}
	s.queue.push(j)
	s.wake.Signal()
	return j.done
}

func (s *server) work() {
	defer close(s.idle)
	var free time.Time // when the last job was done
	for {
		j := s.next()
		if j == nil {
			return
		}
		for d := s.stall(time.Now()); d > 0; d = s.stall(time.Now()) {
			time.Sleep(d)
			free = time.Now()
		}
		if s.cfg.DropExpired && !j.due.IsZero() && time.Until(j.due) < s.cfg.Margin {
			j.done <- context.DeadlineExceeded
			continue
		}
		// By the clock, not by the last wake-up: where time is real, a sleep that
		// lasts too long must not cost capacity.
		if free.Before(j.at) {
			free = j.at
		}
		free = free.Add(s.serviceTime())
		time.Sleep(time.Until(free))
		s.served()
		j.done <- nil
	}
}

func (s *server) serviceTime() time.Duration {
	f := 0.5 + s.rng.Float64()
	if s.cfg.Exponential {
		f = s.rng.ExpFloat64()
	}
	return time.Duration(f / s.cfg.PerSecond * float64(time.Second))
}

// next waits for a job; nil means that the server is closed.
func (s *server) next() *job {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.queue.len() == 0 && !s.closed {
		s.wake.Wait()
	}
	if s.closed {
		for s.queue.len() > 0 {
			s.queue.popFront().done <- errQueueFull
		}
		return nil
	}
	if s.cfg.Order == LIFO {
		return s.queue.popBack()
	}
	return s.queue.popFront()
}

// deque is a queue that may get long: a server in a metastable failure holds
// hundreds of thousands of requests.
type deque struct {
	jobs []*job
	head int
}

func (d *deque) len() int { return len(d.jobs) - d.head }

func (d *deque) push(j *job) { d.jobs = append(d.jobs, j) }

func (d *deque) popFront() *job {
	j := d.jobs[d.head]
	d.jobs[d.head] = nil
	d.head++
	if d.head > 1024 && d.head > len(d.jobs)/2 {
		d.jobs = append([]*job(nil), d.jobs[d.head:]...)
		d.head = 0
	}
	return j
}

func (d *deque) popBack() *job {
	last := len(d.jobs) - 1
	j := d.jobs[last]
	d.jobs[last] = nil
	d.jobs = d.jobs[:last]
	return j
}
