package outbox

import (
	"context"
	"database/sql"
	"errors"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Row is a committed row of the outbox, as its table holds it.
type Row struct {
	// Part and ID name it; ids of a partition rise in the order of Append, not of
	// commits.
	Part int
	ID   int64
	// Topic, Key and KeySeq are the event's; Attributes are its others as JSON.
	Topic, Key       string
	KeySeq           int64
	Attributes, Data []byte
}

// Source is a second way for rows to reach a relay, such as PostgreSQL's logical
// decoding (package walsource). The tables stay what counts: cursors, holes,
// retries, going back and retention are the relay's own, and its poll reads the
// tables behind the source. So a source may hand over a row twice, or one that
// was published long ago: the relay knows by the cursor and the holes of the
// row's partition what it has not published yet. A relay may be given a source,
// and have it taken away again, at any time.
type Source interface {
	// Run hands f what is committed until ctx ends, and then returns nil. The relay
	// calls it while it holds the outbox's partitions, once at a time, so that two
	// relays do not run it at once, but for one that was paused past its lease.
	// After an error the relay reads the tables, and calls Run again after a while.
	Run(ctx context.Context, f *Feed) error
}

// Feed takes what a [Source] hands over.
type Feed struct {
	wake func(parts)

	mu     sync.Mutex
	caught chan struct{} // closed once the tables are read; nil where the source has not begun
	phase  feedPhase
	rows   []Row // not taken by a pass yet
	next   func()
	room   chan struct{} // closed once a pass has taken rows
	taken  []func()      // called once what the passes took is recorded
}

type feedPhase int

const (
	away     feedPhase = iota // no source runs, or it has not begun
	begun                     // a pass is to read all partitions
	draining                  // it has; those of which there was more than it took are read on
	flowing                   // what is new comes from the source
)

// Begin waits until the relay has read all that was visible in the tables when it
// was called. Call it once from Run, before the first Rows and after the point
// from which on all commits are going to be handed over. Until then, and where
// Begin fails, the relay goes by the tables.
func (f *Feed) Begin(ctx context.Context) error {
	f.mu.Lock()
	caught := make(chan struct{})
	f.phase, f.caught = begun, caught
	f.mu.Unlock()
	if f.wake != nil { // else no relay listens: Begin waits until ctx ends
		f.wake(allParts)
	}
	select {
	case <-caught:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Rows hands over committed rows. It waits until the relay has taken what it was
// handed before. Those of one key come in the order of their commits, and each
// must be visible to whoever reads the tables now: a commit is in the log a moment
// earlier, and while it waits for a synchronous standby for longer.
//
// recorded is called once all rows so far are published and recorded as such, or
// are on one of the relay's lists in the database. It should return at once. What
// is not recorded when Run ends comes from the tables.
func (f *Feed) Rows(ctx context.Context, rows []Row, recorded func()) error {
	for {
		f.mu.Lock()
		if f.phase != flowing {
			f.mu.Unlock()
			return errors.New("outbox: Feed.Rows before Begin: call Begin first, so that what was committed earlier is published first")
		}
		if f.next == nil {
			f.rows, f.next, f.room = rows, recorded, make(chan struct{})
			f.mu.Unlock()
			if f.wake != nil {
				f.wake(0)
			}
			return nil
		}
		room := f.room
		f.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take returns what a pass is to publish, and a channel that is not nil where it
// is to read the tables of all partitions.
func (f *Feed) take() (rows []Row, catch chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.next != nil {
		rows = f.rows
		f.taken = append(f.taken, f.next)
		f.rows, f.next = nil, nil
		close(f.room)
	}
	if f.phase == begun {
		catch = f.caught
	}
	return rows, catch
}

// passed takes note of a pass that succeeded: drained says that it has left
// nothing in the tables that was visible, recorded that its outcome is recorded.
//
// Rows that a pass took and did not publish, because it failed or because more
// than it read lay before them, are found in the tables: then it is not drained.
func (f *Feed) passed(catch chan struct{}, drained, recorded bool) {
	f.mu.Lock()
	if catch != nil && catch == f.caught && f.phase == begun {
		f.phase = draining
	}
	if f.phase == draining && drained {
		f.phase = flowing
		close(f.caught)
	}
	var taken []func()
	if drained && recorded {
		taken, f.taken = f.taken, nil
	}
	f.mu.Unlock()
	for _, done := range taken {
		done()
	}
}

// live reports whether the source hands over what is new.
func (f *Feed) live() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.phase == flowing
}

// end forgets what a source that has stopped handed over: the tables have it.
func (f *Feed) end() (was feedPhase) {
	f.mu.Lock()
	was = f.phase
	if f.next != nil {
		close(f.room)
	}
	f.phase, f.caught, f.rows, f.next, f.taken = away, nil, nil, nil, nil
	f.mu.Unlock()
	f.wake(allParts)
	return was
}

// follow runs the relay's source while it holds the partitions, until the returned
// func is called.
func (r *Relay) follow(ctx context.Context, l *leader) (stop func()) {
	if r.cfg.Source == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case b := <-l.leads:
				r.source(ctx, l, b)
			case <-ctx.Done():
				return
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// source runs the relay's source until it has let go of the block.
func (r *Relay) source(ctx context.Context, l *leader, b *block) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-b.gone:
			cancel()
		case <-ctx.Done():
		}
	})
	for failures := 0; ctx.Err() == nil; failures++ {
		// One that was paused must not disturb its successor's.
		err := r.inTx(ctx, func(ctx context.Context, tx *sql.Tx) error { return b.lease.Guard(ctx, sqldb.StdTx(tx)) })
		if err == nil {
			err = r.cfg.Source.Run(ctx, l.feed)
			if l.feed.end() == flowing {
				failures = 0
			}
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended by itself")
		}
		wait := min(50*time.Millisecond<<min(failures, 10), r.cfg.MaxBackoff)
		r.cfg.Logger.ErrorContext(ctx, "outbox: the source failed; events come from the tables meanwhile", "error", err, "wait", wait)
		sleep(ctx, wait, nil)
	}
}
