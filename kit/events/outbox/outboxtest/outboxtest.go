// Package outboxtest is the suite that an outbox and its relay pass: this
// module's own, with either source of rows, and yours where you write one.
//
//	func TestOutbox(t *testing.T) {
//		outboxtest.TestOutbox(t, func(t testing.TB) outboxtest.Harness {
//			return outboxtest.Harness{DB: db, Append: ob.Append, Relay: run}
//		})
//	}
package outboxtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Harness is an outbox under test, empty and with its tables made.
type Harness struct {
	DB *sqldb.DB
	// Other is another database of the same server. Optional, and nil on SQLite.
	Other *sqldb.DB
	// Append writes events into a transaction.
	Append func(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error
	// Relay publishes to p until ctx ends; several may run at once. It looks for
	// events, and tries again after a failure, at least every 100 ms, and takes
	// over from a relay that stopped within a few seconds.
	Relay func(ctx context.Context, p events.Publisher) error
}

// Case is one demand on an outbox.
type Case struct {
	Name string
	// Run returns an error that says what the outbox did wrong.
	Run func(ctx context.Context, h Harness) error
}

// Patience bounds the wait for what must happen; a case that passes does not need
// it. Tests of broken outboxes shorten it.
var Patience = 30 * time.Second

// TestOutbox runs every case as a subtest, each on an outbox of its own.
func TestOutbox(t *testing.T, newOutbox func(t testing.TB) Harness) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			if err := c.Run(t.Context(), newOutbox(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Cases lists the suite's demands, for those who run them in another way.
func Cases() []Case {
	return []Case{
		{"PublishedIfCommitted", publishedIfCommitted},
		{"LateCommitter", lateCommitter},
		{"LateCommitterAcrossARestart", lateCommitterAcrossARestart},
		{"TransactionInAnotherDatabase", otherDatabase},
		{"OneKeyTwoRelays", oneKeyTwoRelays},
		{"RefusedEventStopsItsKeyOnly", refused},
		{"OutageLosesNothing", outage},
		{"ConcurrentWriters", concurrentWriters},
	}
}

// recorder is a broker that keeps what it is sent.
type recorder struct {
	hold time.Duration // each publication takes so long
	fail func(events.Event) error

	mu       sync.Mutex
	inFlight map[string]int
	twice    []string // keys of which two publications were under way
	got      []events.Event
}

// Publish implements events.Publisher.
func (r *recorder) Publish(ctx context.Context, evs ...events.Event) error {
	r.mu.Lock()
	for _, e := range evs {
		if r.inFlight[e.Key]++; r.inFlight[e.Key] > 1 && e.Key != "" {
			r.twice = append(r.twice, e.Key)
		}
	}
	r.mu.Unlock()
	if r.hold > 0 {
		select {
		case <-time.After(r.hold):
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed []events.FailedEvent
	for i, e := range evs {
		r.inFlight[e.Key]--
		if r.fail != nil {
			if err := r.fail(e); err != nil {
				failed = append(failed, events.FailedEvent{Index: i, ID: e.ID, Err: err})
				continue
			}
		}
		r.got = append(r.got, e)
	}
	if failed != nil {
		return &events.PublishError{Failed: failed}
	}
	return nil
}

func (r *recorder) has(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.got, func(e events.Event) bool { return e.ID == id })
}

// wait waits until the events are published.
func (r *recorder) wait(ctx context.Context, ids ...string) error {
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, id := range ids {
		for !r.has(id) {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-deadline.C:
				return fmt.Errorf("event %s is not published", id)
			}
		}
	}
	return nil
}

// inOrder reports an event whose first publication came before that of an earlier
// event of its key. Copies of earlier events may come at any time.
func (r *recorder) inOrder() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[string]int64)
	for _, e := range r.got {
		if e.KeySeq > next[e.Key]+1 {
			return fmt.Errorf("key %s: event %d was published before event %d", e.Key, e.KeySeq, next[e.Key]+1)
		}
		next[e.Key] = max(next[e.Key], e.KeySeq)
	}
	if len(r.twice) > 0 {
		return fmt.Errorf("two publications of key %s were under way at once", r.twice[0])
	}
	return nil
}

// start runs a relay; stop ends it and returns its error.
func start(ctx context.Context, h Harness, r *recorder) (stop func() error) {
	r.mu.Lock()
	if r.inFlight == nil {
		r.inFlight = make(map[string]int)
	}
	r.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- h.Relay(ctx, r) }()
	return sync.OnceValue(func() error { cancel(); return <-done })
}

func event(key string, n int) events.Event {
	return events.Event{ID: fmt.Sprintf("%s-%d", key, n), Type: "suite.v1.Happened", Topic: "suite", Key: key, Data: []byte(key)}
}

func commit(ctx context.Context, h Harness, evs ...events.Event) error {
	err := sqldb.InTx(ctx, h.DB, func(ctx context.Context, tx *sql.Tx) error { return h.Append(ctx, tx, evs...) })
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	return nil
}

func publishedIfCommitted(ctx context.Context, h Harness) error {
	r := &recorder{}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	back := errors.New("roll back")
	err := sqldb.InTx(ctx, h.DB, func(ctx context.Context, tx *sql.Tx) error {
		return errors.Join(h.Append(ctx, tx, event("rolled", 1)), back)
	})
	if !errors.Is(err, back) {
		return err
	}
	if err := commit(ctx, h, event("a", 1), event("b", 1), event("a", 2)); err != nil {
		return err
	}
	if err := r.wait(ctx, "a-1", "a-2", "b-1"); err != nil {
		return err
	}
	if r.has("rolled-1") {
		return errors.New("an event of a transaction that was rolled back is published")
	}
	return errors.Join(r.inOrder(), stop())
}

// others is enough keys for one of them to share whatever a late key is in.
const others = 300

// late begins a transaction that appends and stays open, and commits events after
// it.
func late(ctx context.Context, h Harness) (*sql.Tx, error) {
	tx, err := h.DB.Write.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	if err := h.Append(ctx, tx, event("late", 1)); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	evs := make([]events.Event, others)
	for i := range evs {
		evs[i] = event(fmt.Sprintf("early%d", i), 1)
	}
	return tx, commit(ctx, h, evs...)
}

func early() (ids []string) {
	for i := range others {
		ids = append(ids, fmt.Sprintf("early%d-1", i))
	}
	return ids
}

// A transaction that appends first and commits last is neither waited for nor lost.
func lateCommitter(ctx context.Context, h Harness) error {
	if h.DB.Dialect == sqldb.SQLite {
		return nil // one writer at a time
	}
	r := &recorder{}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	tx, err := late(ctx, h)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // a no-op after the commit
	if err := r.wait(ctx, early()...); err != nil {
		return fmt.Errorf("while another transaction is open: %w", err)
	}
	if r.has("late-1") {
		return errors.New("an event is published before its commit")
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if err := r.wait(ctx, "late-1"); err != nil {
		return fmt.Errorf("it was appended first and committed last: %w", err)
	}
	return errors.Join(r.inOrder(), stop())
}

func lateCommitterAcrossARestart(ctx context.Context, h Harness) error {
	if h.DB.Dialect == sqldb.SQLite {
		return nil
	}
	r := &recorder{}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	tx, err := late(ctx, h)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // a no-op after the commit
	if err := errors.Join(r.wait(ctx, early()...), stop()); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	again := start(ctx, h, r)
	defer again() //nolint:errcheck // told below
	if err := r.wait(ctx, "late-1"); err != nil {
		return fmt.Errorf("its gap was known to a relay that has stopped: %w", err)
	}
	return again()
}

// A transaction that writes in another database of the server holds nothing up.
func otherDatabase(ctx context.Context, h Harness) error {
	if h.Other == nil {
		return nil
	}
	tx, err := h.Other.Write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `CREATE TABLE outboxtest (x int)`); err != nil { // it has a transaction id now
		return err
	}
	r := &recorder{}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	for i := range 10 {
		if err := commit(ctx, h, event("a", i+1)); err != nil {
			return err
		}
	}
	if err := r.wait(ctx, "a-1", "a-10"); err != nil {
		return fmt.Errorf("while a transaction in another database is open: %w", err)
	}
	return errors.Join(r.inOrder(), stop())
}

// Two relays never have two publications of one key under way, and keep its order.
func oneKeyTwoRelays(ctx context.Context, h Harness) error {
	r := &recorder{hold: 30 * time.Millisecond}
	one, two := start(ctx, h, r), start(ctx, h, r)
	defer one() //nolint:errcheck // told below
	defer two() //nolint:errcheck // told below
	const n = 20
	for i := range n {
		if err := commit(ctx, h, event("a", i+1)); err != nil {
			return err
		}
		if i == n/2 { // whichever of them leads, one is left
			if err := one(); err != nil {
				return err
			}
			one = start(ctx, h, r)
			defer one() //nolint:errcheck // told below
		}
	}
	if err := r.wait(ctx, fmt.Sprintf("a-%d", n)); err != nil {
		return err
	}
	return errors.Join(r.inOrder(), one(), two())
}

func refused(ctx context.Context, h Harness) error {
	r := &recorder{fail: func(e events.Event) error {
		if e.ID == "bad-1" {
			return events.ErrRejected
		}
		return nil
	}}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	for i := range 5 {
		if err := commit(ctx, h, event("bad", i+1), event("good", i+1)); err != nil {
			return err
		}
	}
	if err := r.wait(ctx, "good-5"); err != nil {
		return fmt.Errorf("behind another key's event that the broker refuses: %w", err)
	}
	if r.has("bad-2") {
		return errors.New("an event overtook one of its key that the broker refused")
	}
	return errors.Join(r.inOrder(), stop())
}

func outage(ctx context.Context, h Harness) error {
	var mu sync.Mutex
	down, tries := true, make(chan struct{}, 1)
	r := &recorder{fail: func(events.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if !down {
			return nil
		}
		select {
		case tries <- struct{}{}:
		default:
		}
		return errors.New("connection refused")
	}}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	for i := range 20 {
		if err := commit(ctx, h, event("a", i+1), event("b", i+1)); err != nil {
			return err
		}
	}
	for range 3 {
		select {
		case <-tries:
		case <-time.After(Patience):
			return errors.New("the relay gave up while the broker was down")
		}
	}
	mu.Lock()
	down = false
	mu.Unlock()
	if err := r.wait(ctx, "a-20", "b-20"); err != nil {
		return fmt.Errorf("after the broker came back: %w", err)
	}
	return errors.Join(r.inOrder(), stop())
}

// The order of one key holds and nothing is lost, whatever order transactions
// commit in and whoever rolls back.
func concurrentWriters(ctx context.Context, h Harness) error {
	r := &recorder{}
	stop := start(ctx, h, r)
	defer stop() //nolint:errcheck // told below
	const writers, each = 6, 20
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				back := errors.New("roll back")
				err := sqldb.InTx(ctx, h.DB, func(ctx context.Context, tx *sql.Tx) error {
					shared := event("shared", 0)
					shared.ID = fmt.Sprintf("shared-%d-%d", w, i)
					if err := h.Append(ctx, tx, shared, event(fmt.Sprintf("own%d", w), i+1)); err != nil {
						return err
					}
					if i%5 == 4 {
						return back
					}
					return nil
				})
				if err != nil && !errors.Is(err, back) {
					errs[w] = err
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	var ids []string
	for w := range writers {
		for i := range each {
			if i%5 != 4 {
				ids = append(ids, fmt.Sprintf("shared-%d-%d", w, i), fmt.Sprintf("own%d-%d", w, i+1))
			}
		}
	}
	return errors.Join(r.wait(ctx, ids...), r.inOrder(), stop())
}
