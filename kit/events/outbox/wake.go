package outbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// parts is a set of partitions.
type parts uint64

const allParts = ^parts(0)

func (p parts) with(part int) parts { return p | 1<<part }
func (p parts) has(part int) bool   { return p&(1<<part) != 0 }

// sleeper is somebody who waits for commits: a running relay or a Notify.
type sleeper struct {
	woken   chan struct{}
	touched atomic.Uint64 // the partitions that were committed to since it last looked
}

func newSleeper() *sleeper { return &sleeper{woken: make(chan struct{}, 1)} }

func (s *sleeper) wake(p parts) {
	s.touched.Or(uint64(p))
	select {
	case s.woken <- struct{}{}:
	default: // it is awake already
	}
}

func (s *sleeper) take() parts { return parts(s.touched.Swap(0)) }

// Wake tells the relays of this process that there may be something to publish.
// It never blocks. Append calls it after the commit; call it yourself after
// committing a transaction that no Runner opened, or leave it to the poll.
func (o *Outbox) Wake() { o.wake(allParts) }

func (o *Outbox) wake(p parts) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.sleeps {
		s.wake(p)
	}
}

func (o *Outbox) subscribe() (s *sleeper, stop func()) {
	s = newSleeper()
	o.mu.Lock()
	o.sleeps[s] = struct{}{}
	o.mu.Unlock()
	return s, func() {
		o.mu.Lock()
		delete(o.sleeps, s)
		o.mu.Unlock()
	}
}

// Channel is the name under which [Outbox.Notify] notifies.
const Channel = "napkin_outbox"

// Listen receives what is notified on a channel of the database, until ctx ends.
// It connects again by itself where its connection is lost. pgxdb.Listen is one.
type Listen func(ctx context.Context, channel string, notified func(payload string)) error

// Notify tells the relays of other processes that something was committed, until
// ctx ends: with NOTIFY, at most once in the given time (20 ms where it is 0),
// however much is committed, and outside of the writers' transactions, for a
// transaction that notifies holds a lock of the whole database while it
// commits. It is a hint: what it misses, the relays' poll finds.
//
// A relay with RelayConfig.Listen notifies by itself. Call Notify in a process
// that appends without running a relay.
func (o *Outbox) Notify(ctx context.Context, db *sqldb.DB, every time.Duration) error {
	if db.Dialect != sqldb.Postgres {
		return fmt.Errorf("outbox: Notify on %v: only PostgreSQL notifies", db.Dialect)
	}
	return o.notify(ctx, db, rand.Text()[:8], every, func() parts { return 0 })
}

// notify leaves the partitions out that own returns: their relay is in this
// process. sender lets it know its own notifications.
func (o *Outbox) notify(ctx context.Context, db *sqldb.DB, sender string, every time.Duration, own func() parts) error {
	if every <= 0 {
		every = 20 * time.Millisecond
	}
	s, stop := o.subscribe()
	defer stop()
	s.wake(allParts) // for what was committed before
	for {
		select {
		case <-s.woken:
		case <-ctx.Done():
			return nil
		}
		if p := s.take() &^ own(); p != 0 {
			nctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			// A failure is what the poll is for.
			_, _ = db.Write.ExecContext(nctx, `SELECT pg_notify($1, $2)`, Channel, sender+" "+strconv.FormatUint(uint64(p), 16))
			cancel()
		}
		sleep(ctx, every, nil)
	}
}

// notified wakes s with what another process committed.
func notified(s *sleeper, self, payload string) {
	sender, mask, _ := strings.Cut(payload, " ")
	if sender == self {
		return
	}
	p, err := strconv.ParseUint(mask, 16, events.Partitions)
	if err != nil {
		p = uint64(allParts) // not one of ours, but a hint all the same
	}
	s.wake(parts(p))
}
