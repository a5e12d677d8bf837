package saga

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// batch is how many due instances one poll takes.
const batch = 256

// drainFor is how long a stopping coordinator lets calls in flight end.
const drainFor = 10 * time.Second

// membership is this process among the nodes that share the store.
type membership struct {
	mu     sync.Mutex
	member Member
	beatAt time.Time
	err    error
}

func (m *membership) id() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.member == nil {
		return ""
	}
	return m.member.ID()
}

func (m *membership) get() Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.member
}

func (m *membership) set(member Member, now time.Time, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.member = member
	m.err = err
	if err == nil {
		m.beatAt = now
	}
}

// Ready returns nil while Run runs and its heartbeat reaches the database.
func (c *Coordinator) Ready(context.Context) error {
	if len(c.running) == 0 {
		return errors.New("saga: the coordinator is not running")
	}
	c.membership.mu.Lock()
	defer c.membership.mu.Unlock()
	if c.now().Sub(c.membership.beatAt) > c.cfg.LeaseTTL {
		return fmt.Errorf("saga: no heartbeat within %v: %w", c.cfg.LeaseTTL, c.membership.err)
	}
	return nil
}

// Pending returns the number of instances that have not ended, stuck ones
// included.
func (c *Coordinator) Pending(ctx context.Context) (int, error) {
	counts, err := c.store.Counts(ctx)
	if err != nil {
		return 0, err
	}
	n := 0
	for s, k := range counts {
		if !s.Ended() {
			n += k
		}
	}
	return n, nil
}

// beat joins the nodes that share the store, or renews the membership. A member
// that may have been taken for dead joins anew; the calls it has in flight are
// then fenced.
func (c *Coordinator) beat(ctx context.Context) error {
	member := c.membership.get()
	var err error
	if member != nil {
		if err = member.Beat(ctx); errors.Is(err, ErrLost) {
			c.cfg.Logger.WarnContext(ctx, "saga: this node may have been taken for dead; it joins anew", "node", member.ID())
			member = nil
		}
	}
	if member == nil {
		member, err = c.store.Join(ctx, c.cfg.Node, c.cfg.LeaseTTL)
	}
	if err != nil {
		err = fmt.Errorf("saga: heartbeat: %w", err)
	}
	c.membership.set(member, c.now(), err)
	return err
}

func takeFrom(dead string) func(context.Context, *turn) error {
	return func(_ context.Context, t *turn) error {
		t.takeOver(dead)
		return nil
	}
}

// RunDue drives every instance that is due now, on the calling goroutine, and
// returns how many there were. It is one pass of what Run does, for tests and
// for programs that schedule by themselves.
func (c *Coordinator) RunDue(ctx context.Context) (int, error) {
	if err := c.beat(ctx); err != nil {
		return 0, err
	}
	n := 0
	inline := func(f func()) { f() }
	abandoned, err := c.store.Abandoned(ctx, batch)
	if err != nil {
		return 0, err
	}
	for _, a := range abandoned {
		n++
		if err := c.drive(ctx, a.ID, takeFrom(a.Owner), inline); err != nil {
			return n, err
		}
	}
	ids, err := c.store.Due(ctx, c.now(), c.refs(), batch)
	if err != nil {
		return n, err
	}
	for _, id := range append(c.dropped.list(), ids...) {
		n++
		if err := c.drive(ctx, id, nil, inline); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Run drives sagas until ctx ends, then lets what is in flight finish for up to
// 10 s. It runs once at a time.
func (c *Coordinator) Run(ctx context.Context) error {
	select {
	case c.running <- struct{}{}:
		defer func() { <-c.running }()
	default:
		return errors.New("saga: the coordinator runs already")
	}
	// A node beats before it owns anything; the database may be late.
	for c.beat(ctx) != nil {
		if !c.rest(ctx, c.cfg.PollEvery) {
			return nil
		}
	}
	inFlight, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	r := &runner{c: c, ctx: inFlight, permits: make(chan struct{}, c.cfg.Concurrency), active: make(map[string]bool)}

	var loops sync.WaitGroup
	beating, stopBeating := context.WithCancel(inFlight)
	loops.Go(func() { c.beats(beating) })
	r.loop(ctx)

	stopped := make(chan struct{})
	go func() {
		r.wg.Wait()
		close(stopped)
	}()
	timer := time.NewTimer(drainFor)
	defer timer.Stop()
	select {
	case <-stopped:
	case <-timer.C:
		abandon()
		<-stopped
	}
	stopBeating()
	loops.Wait()
	// Leaving lets others take over at once what could not be finished.
	leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	if m := c.membership.get(); m != nil {
		c.membership.set(nil, time.Time{}, errors.New("saga: stopped"))
		if err := m.Leave(leave); err != nil {
			c.cfg.Logger.WarnContext(ctx, "saga: could not leave; others take over after the lease", "error", err)
		}
	}
	return nil
}

func (c *Coordinator) beats(ctx context.Context) {
	tick := time.NewTicker(c.cfg.LeaseTTL / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			bounded, cancel := context.WithTimeout(ctx, c.cfg.LeaseTTL)
			if err := c.beat(bounded); err != nil && ctx.Err() == nil {
				c.cfg.Logger.WarnContext(ctx, "saga: others may take over", "error", err)
			}
			cancel()
		}
	}
}

// runner is one Run.
type runner struct {
	c       *Coordinator
	ctx     context.Context // of the work, outlives the one Run was given
	permits chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	active  map[string]bool // true: look again afterwards
}

func (r *runner) loop(ctx context.Context) {
	poll := time.NewTicker(r.c.cfg.PollEvery)
	defer poll.Stop()
	scan := time.NewTicker(r.c.cfg.LeaseTTL / 3)
	defer scan.Stop()
	r.scan(ctx)
	r.poll(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-r.c.queue:
			r.spawn(ctx, id, nil)
		case <-poll.C:
			r.poll(ctx)
		case <-scan.C:
			r.scan(ctx)
		}
	}
}

func (r *runner) poll(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	ids, err := r.c.store.Due(asking, r.c.now(), r.c.refs(), batch)
	if err != nil {
		if ctx.Err() == nil {
			r.c.cfg.Logger.WarnContext(ctx, "saga: cannot look for due instances", "error", err)
		}
		return
	}
	for _, id := range append(r.c.dropped.list(), ids...) {
		r.spawn(ctx, id, nil)
	}
}

func (r *runner) scan(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, turnTimeout)
	defer cancel()
	abandoned, err := r.c.store.Abandoned(asking, batch)
	if err != nil {
		if ctx.Err() == nil {
			r.c.cfg.Logger.WarnContext(ctx, "saga: cannot look for dead nodes", "error", err)
		}
		return
	}
	for _, a := range abandoned {
		r.c.cfg.Logger.InfoContext(ctx, "saga: taking over", "id", a.ID, "from", a.Owner)
		r.spawn(ctx, a.ID, takeFrom(a.Owner))
	}
}

// spawn drives an instance in the background, one drive for each instance.
func (r *runner) spawn(ctx context.Context, id string, apply func(context.Context, *turn) error) {
	r.mu.Lock()
	if _, busy := r.active[id]; busy {
		r.active[id] = true
		r.mu.Unlock()
		return
	}
	r.active[id] = false
	r.mu.Unlock()
	select {
	case r.permits <- struct{}{}:
	case <-ctx.Done():
		r.mu.Lock()
		delete(r.active, id)
		r.mu.Unlock()
		return
	}
	r.wg.Go(func() {
		defer func() { <-r.permits }()
		for again := true; again; apply = nil {
			if err := r.c.drive(r.ctx, id, apply, r.during); err != nil && r.ctx.Err() == nil {
				r.c.cfg.Logger.WarnContext(r.ctx, "saga: will try again", "id", id, "error", err)
			}
			r.mu.Lock()
			again = r.active[id] && r.ctx.Err() == nil
			if again {
				r.active[id] = false
			} else {
				delete(r.active, id)
			}
			r.mu.Unlock()
		}
	})
}

// during gives the permit back while calls are made: a slow call delays no
// other saga.
func (r *runner) during(calls func()) {
	<-r.permits
	defer func() { r.permits <- struct{}{} }()
	calls()
}
