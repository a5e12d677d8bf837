package resilience

import (
	"container/list"
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// ShedderConfig sets up a [Shedder].
type ShedderConfig struct {
	// InitialLimit is the concurrency allowed before anything is known. Defaults
	// to 32.
	InitialLimit int
	// MinLimit and MaxLimit bound what the measured latency may make of it.
	// Default to 8 and 1024.
	MinLimit, MaxLimit int
	// MaxQueue is how many requests may wait. Defaults to 64.
	MaxQueue int
	// MaxWait bounds the wait. Defaults to 100 ms.
	MaxWait time.Duration
	// Tolerance is how far the latency may rise over its long-term average
	// before the limit is lowered. Defaults to 1.5; at least 1.
	Tolerance float64
	// Hooks observe the shedder.
	Hooks *ShedderHooks
}

// ShedderHooks observe a shedder. Each function may be nil; all run outside the
// lock.
type ShedderHooks struct {
	// Shed is called when a request is refused. reason is "full", "wait",
	// "deadline" or "displaced".
	Shed func(ctx context.Context, c Criticality, reason string)
}

// JoinShedderHooks is [JoinHooks] for shedders.
func JoinShedderHooks(all ...*ShedderHooks) *ShedderHooks {
	all = slices.DeleteFunc(slices.Clone(all), func(h *ShedderHooks) bool { return h == nil || h.Shed == nil })
	if len(all) == 0 {
		return nil
	}
	return &ShedderHooks{Shed: func(ctx context.Context, c Criticality, reason string) {
		for _, h := range all {
			h.Shed(ctx, c, reason)
		}
	}}
}

// Shedder protects a server from more work than it can do. It limits the
// requests in service to a number that follows the measured latency (the
// gradient of Netflix' concurrency-limits, lowered faster when requests time
// out), keeps a short queue in order of criticality, and refuses at once what
// does not fit. Lower classes may use only part of the limit, so that there is
// room for the higher ones. What has waited until its deadline is nearer than
// the usual service time is dropped, not served too late.
//
// Services that share a CPU should share a Shedder. It is safe for concurrent
// use.
type Shedder struct {
	cfg ShedderConfig

	mu       sync.Mutex
	inFlight int
	limit    gradient
	queues   [CriticalPlus + 1]list.List // of *shedWaiter, by class
	waiting  int
}

type shedWaiter struct {
	ready   chan struct{} // closed when decided
	decided bool
	err     error
	dueBy   time.Time // zero: no deadline
}

// share is the part of the limit that a class may fill.
var share = [CriticalPlus + 1]float64{Sheddable: 0.5, SheddablePlus: 0.75, Critical: 0.95, CriticalPlus: 1}

// NewShedder returns a shedder; a nil config means the defaults.
func NewShedder(cfg *ShedderConfig) (*Shedder, error) {
	var c ShedderConfig
	if cfg != nil {
		c = *cfg
	}
	c.MinLimit = orDefault(c.MinLimit, 8)
	c.MaxLimit = orDefault(c.MaxLimit, max(1024, c.MinLimit))
	c.InitialLimit = orDefault(c.InitialLimit, min(max(32, c.MinLimit), c.MaxLimit))
	c.MaxQueue = orDefault(c.MaxQueue, 64)
	c.MaxWait = orDefault(c.MaxWait, 100*time.Millisecond)
	c.Tolerance = orDefault(c.Tolerance, 1.5)
	if err := firstError(
		checkCount("Shedder.MinLimit", c.MinLimit),
		checkCount("Shedder.MaxLimit", c.MaxLimit),
		checkCount("Shedder.InitialLimit", c.InitialLimit),
		checkCount("Shedder.MaxQueue", c.MaxQueue),
		checkDuration("Shedder.MaxWait", c.MaxWait),
	); err != nil {
		return nil, err
	}
	if c.MaxLimit < c.MinLimit {
		return nil, fieldError("Shedder.MaxLimit", c.MaxLimit, "at least MinLimit")
	}
	if c.InitialLimit < c.MinLimit || c.InitialLimit > c.MaxLimit {
		return nil, fieldError("Shedder.InitialLimit", c.InitialLimit, "a number between MinLimit and MaxLimit")
	}
	if !(c.Tolerance >= 1) || c.Tolerance > 100 {
		return nil, fieldError("Shedder.Tolerance", c.Tolerance, "a factor between 1 and 100")
	}
	return &Shedder{cfg: c, limit: newGradient(c)}, nil
}

// Execute runs fn as one request of the criticality that ctx carries. The error
// of a refused one is a [*Rejection] that is [ErrShed]; one whose time is
// already over gets the context's error.
func (s *Shedder) Execute(ctx context.Context, fn func(context.Context) error) error {
	t, err := s.Acquire(ctx)
	if err != nil {
		return err
	}
	outcome := ShedIgnore // what a panic or Goexit leaves
	defer func() { t.Release(outcome) }()
	err = fn(ctx)
	outcome = OutcomeOf(ctx, err)
	return err
}

// ShedOutcome says what a request's end tells about the server's load.
type ShedOutcome uint8

// The outcomes.
const (
	// ShedIgnore: nothing. For streams, panics and requests that were cancelled.
	ShedIgnore ShedOutcome = iota
	// ShedSample: its latency is a sample.
	ShedSample
	// ShedTimeout: it did not make its deadline, a sign of overload.
	ShedTimeout
)

// OutcomeOf is the outcome of a request that ended with err under ctx.
func OutcomeOf(ctx context.Context, err error) ShedOutcome {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return ShedTimeout
	case ctx.Err() != nil, errors.Is(err, context.Canceled), IsLocalRejection(err):
		return ShedIgnore
	default:
		return ShedSample
	}
}

// ShedTicket is a place in service. Release must be called exactly once.
type ShedTicket struct {
	s     *Shedder
	start time.Time
}

// Acquire waits for a place in service, see [Shedder.Execute].
func (s *Shedder) Acquire(ctx context.Context) (ShedTicket, error) {
	class := CriticalityFrom(ctx)
	if err := ctx.Err(); err != nil {
		s.shed(ctx, class, "deadline")
		return ShedTicket{}, err
	}
	s.mu.Lock()
	if s.fits(class) && !s.waitsAtLeast(class) {
		s.inFlight++
		s.limit.sawInFlight(s.inFlight)
		s.mu.Unlock()
		return ShedTicket{s: s, start: time.Now()}, nil
	}
	if s.waiting >= s.cfg.MaxQueue && !s.displace(class) {
		err := s.rejection()
		s.mu.Unlock()
		s.shed(ctx, class, "full")
		return ShedTicket{}, err
	}
	w := &shedWaiter{ready: make(chan struct{})}
	w.dueBy, _ = ctx.Deadline()
	at := s.queues[class].PushBack(w)
	s.waiting++
	s.limit.sawInFlight(s.inFlight + s.waiting)
	s.mu.Unlock()
	return s.wait(ctx, class, w, at)
}

func (s *Shedder) wait(ctx context.Context, class Criticality, w *shedWaiter, at *list.Element) (ShedTicket, error) {
	t := time.NewTimer(s.cfg.MaxWait)
	defer t.Stop()
	reason, gone := "wait", error(nil)
	select {
	case <-w.ready:
	case <-t.C:
	case <-ctx.Done():
		reason, gone = "deadline", ctx.Err()
	}
	s.mu.Lock()
	if !w.decided {
		s.queues[class].Remove(at)
		s.waiting--
		err := error(s.rejection())
		s.mu.Unlock()
		if gone != nil {
			err = gone
		}
		s.shed(ctx, class, reason)
		return ShedTicket{}, err
	}
	if w.err == nil && gone != nil { // a place came, too late
		s.inFlight--
		s.grant()
		w.err = gone
	}
	s.mu.Unlock()
	if w.err != nil {
		if gone == nil {
			reason = "displaced"
			if !errors.Is(w.err, ErrShed) {
				reason = "deadline"
			}
		}
		s.shed(ctx, class, reason)
		return ShedTicket{}, w.err
	}
	return ShedTicket{s: s, start: time.Now()}, nil
}

// Release gives the place to the next in the queue.
func (t ShedTicket) Release(o ShedOutcome) {
	s := t.s
	now := time.Now()
	s.mu.Lock()
	s.inFlight--
	if o != ShedIgnore {
		s.limit.sample(now, now.Sub(t.start), o == ShedTimeout)
	}
	s.grant()
	s.mu.Unlock()
}

// ShedderSnapshot is the state of a shedder at one moment.
type ShedderSnapshot struct {
	Limit    int
	InFlight int
	Waiting  int
	// ServiceTime is the average latency of late, which is the margin kept
	// before a deadline.
	ServiceTime time.Duration
}

// Snapshot returns the state.
func (s *Shedder) Snapshot() ShedderSnapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ShedderSnapshot{
		Limit: int(s.limit.limit), InFlight: s.inFlight, Waiting: s.waiting,
		ServiceTime: s.limit.serviceTime(),
	}
}

// The methods below are called with the lock held.

func (s *Shedder) fits(class Criticality) bool {
	return float64(s.inFlight)+1 <= max(s.limit.limit*share[class], 1)
}

// waitsAtLeast reports whether somebody of the class or above waits.
func (s *Shedder) waitsAtLeast(class Criticality) bool {
	for c := class; c <= CriticalPlus; c++ {
		if s.queues[c].Len() > 0 {
			return true
		}
	}
	return false
}

// displace makes room in the queue by refusing the youngest of the lowest class
// below the given one.
func (s *Shedder) displace(class Criticality) bool {
	for c := Sheddable; c < class; c++ {
		if last := s.queues[c].Back(); last != nil {
			s.decide(c, last, s.rejection())
			return true
		}
	}
	return false
}

// grant fills free places, highest class first. What would not make its
// deadline is dropped here, after the wait and before any work.
func (s *Shedder) grant() {
	margin := s.limit.serviceTime()
	for c := CriticalPlus; c >= Sheddable; c-- {
		for s.queues[c].Len() > 0 && s.fits(c) {
			front := s.queues[c].Front()
			if due := front.Value.(*shedWaiter).dueBy; !due.IsZero() && time.Until(due) < margin {
				s.decide(c, front, context.DeadlineExceeded)
				continue
			}
			s.inFlight++
			s.decide(c, front, nil)
		}
	}
}

func (s *Shedder) decide(c Criticality, at *list.Element, err error) {
	w := s.queues[c].Remove(at).(*shedWaiter)
	s.waiting--
	w.decided, w.err = true, err
	close(w.ready)
}

// rejection says to come back after about the time the queue takes.
func (s *Shedder) rejection() *Rejection {
	return &Rejection{Policy: "shedder", After: max(s.cfg.MaxWait, s.limit.serviceTime()), Err: ErrShed}
}

func (s *Shedder) shed(ctx context.Context, c Criticality, reason string) {
	if s.cfg.Hooks != nil && s.cfg.Hooks.Shed != nil {
		s.cfg.Hooks.Shed(ctx, c, reason)
	}
}
