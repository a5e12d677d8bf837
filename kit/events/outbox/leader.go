package outbox

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// recordEvery is how long a record of what was published may be put off: what a
// crash makes the successor publish again, against a commit for every pass.
const recordEvery = 20 * time.Millisecond

// leader runs the passes for all blocks that this relay holds.
type leader struct {
	r     *Relay
	woken *sleeper
	feed  *Feed
	leads chan *block // for the source: the block that was taken over last
	// When all partitions were looked at last; the loop's.
	polled time.Time

	mu      sync.Mutex
	joining []*block // held by lease, not taken over yet
	has     parts    // the partitions held, for held
}

func (l *leader) held() parts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.has
}

// hold shares the blocks with the other relays until ctx ends.
func (l *leader) hold(ctx context.Context) error {
	r := l.r
	first, left := enter(r.db)
	defer left()
	cfg := &lease.Config{
		Group:  "outbox",
		TTL:    r.cfg.LeaseTTL,
		Logger: r.cfg.Logger,
		// A SQLite file belongs to one process: a restart need not wait for the
		// lease of its predecessor. A second relay of this process must wait.
		Exclusive: r.db.Dialect == sqldb.SQLite && first,
	}
	names := make([]string, r.cfg.Blocks)
	for i := range names {
		names[i] = strconv.Itoa(i) + "/" + strconv.Itoa(r.cfg.Blocks)
	}
	return lease.Run(ctx, r.db, cfg, func(ctx context.Context, n *lease.Node) error {
		// The loop goes on after ctx has ended until every block is let go of.
		looping, end := context.WithCancel(context.WithoutCancel(ctx))
		var wg sync.WaitGroup
		wg.Go(func() { l.loop(ctx, looping) })
		defer wg.Wait()
		defer end()
		return n.Share(ctx, names, func(ctx context.Context, x lease.Lease) error {
			i, err := strconv.Atoi(x.Name[:len(x.Name)-len("/"+strconv.Itoa(r.cfg.Blocks))])
			if err != nil {
				return err
			}
			b := &block{Block: events.Block{Index: i, Count: r.cfg.Blocks}, lease: x, leaving: make(chan struct{}), gone: make(chan struct{})}
			b.first, b.size = r.blockOf(b.Block)
			l.join(b)
			select {
			case <-b.gone: // it was lost; the lease is released and claimed again
				return nil
			case <-ctx.Done():
			}
			close(b.leaving)
			l.woken.wake(0)
			<-b.gone
			return nil
		})
	})
}

var (
	runningMu sync.Mutex
	running   = make(map[*sql.DB]int) // the relays of this process, by their database
)

// enter counts a relay of this process and reports whether it is its database's
// first.
func enter(db *sqldb.DB) (first bool, leave func()) {
	runningMu.Lock()
	defer runningMu.Unlock()
	running[db.Write]++
	return running[db.Write] == 1, func() {
		runningMu.Lock()
		defer runningMu.Unlock()
		if running[db.Write]--; running[db.Write] == 0 {
			delete(running, db.Write)
		}
	}
}

func (l *leader) join(blocks ...*block) {
	l.mu.Lock()
	l.joining = append(l.joining, blocks...)
	l.mu.Unlock()
	l.woken.wake(0)
}

// loop makes passes until end. stop ends a pass between two publications.
func (l *leader) loop(stop, end context.Context) {
	r := l.r
	work := context.WithoutCancel(end) // a pass that began is finished: each of its steps has a deadline of its own
	s := newState()
	failures := 0
	touched := allParts
	trimmed := time.Time{}
	for end.Err() == nil {
		more, err := func() (bool, error) {
			if err := l.admit(work, s); err != nil {
				return false, err
			}
			if len(s.blocks) == 0 || stop.Err() != nil {
				return false, nil
			}
			more, err := l.pass(stop, work, s, touched)
			if err != nil {
				return false, err
			}
			if now := r.cfg.Now(); s.parts[0] != nil && now.Sub(trimmed) >= r.cfg.TrimEvery {
				trimmed = now
				if err := r.trim(stop, work, s); err != nil { // rows stay longer; that is no reason to stop
					r.cfg.Logger.WarnContext(work, "outbox: published rows are not removed", "error", err)
				}
			}
			return more, nil
		}()
		if err != nil {
			l.reset(s)
			if stop.Err() == nil {
				wait := min(50*time.Millisecond<<min(failures, 10), r.cfg.MaxBackoff)
				failures++
				r.cfg.Logger.WarnContext(work, "outbox: publishing failed, trying again", "error", err, "wait", wait)
				sleep(stop, wait, nil)
			}
			touched = allParts
			continue
		}
		failures = 0
		touched = l.rest(stop, end, s, more)
	}
}

// rest waits for something to do and returns the partitions to look at. However
// often it is woken, the poll comes round to all.
func (l *leader) rest(stop, end context.Context, s *state, more bool) parts {
	poll := l.polled.Add(l.r.cfg.Poll)
	if !more {
		wait := time.Until(poll)
		if stop.Err() != nil || len(s.blocks) == 0 {
			wait = time.Hour // until a block joins or leaves
		}
		if s.dirty {
			wait = min(wait, time.Until(s.recorded.Add(recordEvery)))
		}
		for _, x := range s.behind {
			if x.lane != nil {
				wait = min(wait, 10*time.Millisecond)
			} else {
				wait = min(wait, max(x.due(l.r.cfg.Now()), time.Millisecond))
			}
		}
		sleep(end, wait, l.woken.woken)
	}
	p := l.woken.take()
	switch {
	case !time.Now().Before(poll):
		l.polled = time.Now()
		return allParts
	case l.feed.live() && p != allParts:
		return 0 // the source hands it over
	}
	return p
}

// admit takes the blocks over that have joined and lets go of those that are
// leaving.
func (l *leader) admit(ctx context.Context, s *state) error {
	for _, b := range slices.Clone(s.blocks) {
		select {
		case <-b.leaving:
		default:
			continue
		}
		// The next holder must not meet our publications under way.
		s.endLanes()
		if err := l.record(ctx, s, &outcome{}); err != nil {
			l.r.cfg.Logger.WarnContext(ctx, "outbox: what was published is not recorded; the next relay publishes it again", "error", err)
		}
		l.release(ctx, s, b)
	}
	l.mu.Lock()
	joining := l.joining
	l.joining = nil
	l.mu.Unlock()
	for i, b := range joining {
		select {
		case <-b.leaving:
			close(b.gone)
			continue
		default:
		}
		s.endLanes() // one of them may hold rows of this block from when we held it before
		err := l.r.add(ctx, s, b)
		if errors.Is(err, lease.ErrLost) {
			close(b.gone)
			continue
		}
		if err != nil {
			l.join(joining[i:]...)
			return err
		}
		l.holds(ctx, s, b, true)
	}
	return nil
}

func (l *leader) holds(ctx context.Context, s *state, b *block, held bool) {
	l.mu.Lock()
	l.has = s.held()
	l.mu.Unlock()
	if l.r.cfg.Source != nil && held {
		select {
		case <-l.leads: // an earlier one
		default:
		}
		l.leads <- b
	}
	if f := l.r.cfg.Hooks.Holding; f != nil {
		f(ctx, b.Block, held)
	}
}

// release lets go of a block, where that has not been done.
func (l *leader) release(ctx context.Context, s *state, b *block) {
	if !slices.Contains(s.blocks, b) {
		return
	}
	s.drop(b)
	l.holds(ctx, s, b, false)
	close(b.gone)
}

// reset forgets what is in memory, which may be ahead of the database: all blocks
// are taken over again, and the broker's logs looked at before anything is
// published.
func (l *leader) reset(s *state) {
	s.endLanes()
	blocks, lost := s.blocks, s.lost
	*s = *newState()
	s.lost = lost
	l.mu.Lock()
	l.joining = append(l.joining, blocks...)
	l.has = 0
	l.mu.Unlock()
}
