// Package eventstest is the suite that every events.Broker passes.
//
//	func TestBroker(t *testing.T) {
//		eventstest.TestBroker(t, func(t testing.TB) eventstest.Harness {
//			return eventstest.Harness{Broker: mybroker.New(…)}
//		})
//	}
//
// What brokers may differ in they say in their Features, and the suite adapts.
package eventstest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
)

// Harness is a broker under test.
type Harness struct {
	// Broker is empty, and its AckWait is at most 2 s, so that the suite need
	// not wait for long.
	Broker events.Broker
	// Restart restarts the broker's server. Optional.
	Restart func()
}

// Case is one demand on a broker.
type Case struct {
	Name string
	// Run returns an error that says what the broker did wrong.
	Run func(ctx context.Context, h Harness) error
}

// caseTimeout bounds a case. One that passes takes a few AckWaits.
const caseTimeout = 60 * time.Second

// TestBroker runs every case as a subtest, each on a broker of its own.
func TestBroker(t *testing.T, newBroker func(t testing.TB) Harness) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) {
			h := newBroker(t)
			if w := h.Broker.Features().AckWait; w <= 0 || w > 2*time.Second {
				t.Fatalf("eventstest: AckWait is %v; configure the broker under test with 2s at most", w)
			}
			ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
			defer cancel()
			if err := c.Run(ctx, h); err != nil {
				t.Error(err)
			}
			if err := h.Broker.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// event makes the n-th event of a key.
func event(key string, n int) events.Event {
	const topic = "suite"
	return events.Event{
		ID: fmt.Sprintf("%s-%s-%d", topic, key, n), Source: "suite", Type: "suite.v1.Happened",
		Topic: topic, Key: key, KeySeq: int64(n), Time: time.Unix(1_700_000_000, 0).UTC(),
		DataContentType: "text/plain", Data: fmt.Appendf(nil, "%s/%d", key, n),
	}
}

// subscriber runs one subscription and collects what it is given.
type subscriber struct {
	cancel context.CancelFunc
	ended  chan struct{}

	mu      sync.Mutex
	got     []events.Delivery
	err     error
	changed chan struct{}
}

// subscribe starts a subscription; on handles each delivery, nil collects only.
func subscribe(ctx context.Context, h Harness, s events.Subscription, on func(events.Delivery)) *subscriber {
	ctx, cancel := context.WithCancel(ctx)
	r := &subscriber{cancel: cancel, ended: make(chan struct{}), changed: make(chan struct{})}
	go func() {
		defer close(r.ended)
		err := h.Broker.Subscribe(ctx, s, func(_ context.Context, d events.Delivery) {
			if on != nil {
				on(d)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.got = append(r.got, d)
			close(r.changed)
			r.changed = make(chan struct{})
		})
		r.mu.Lock()
		defer r.mu.Unlock()
		r.err = err
	}()
	return r
}

// ack acknowledges each delivery at once.
func ack(ctx context.Context) func(events.Delivery) {
	return func(d events.Delivery) { _ = d.Ack(ctx) } // a lost ack shows as a redelivery
}

// until waits until the deliveries satisfy enough, or fails with what there is.
func (r *subscriber) until(ctx context.Context, what string, enough func([]events.Delivery) bool) error {
	for {
		r.mu.Lock()
		ok, n, changed := enough(r.got), len(r.got), r.changed
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-r.ended:
			return errors.Join(fmt.Errorf("the subscription ended before %s; %d deliveries", what, n), r.err)
		case <-ctx.Done():
			return fmt.Errorf("%s did not happen in time; %d deliveries", what, n)
		}
	}
}

// count waits for n deliveries.
func (r *subscriber) count(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return r.until(ctx, fmt.Sprintf("delivery %d", n), func(got []events.Delivery) bool { return len(got) >= n })
}

// quiet checks that nothing more than n deliveries arrive for a while.
func (r *subscriber) quiet(ctx context.Context, n int, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if err := r.until(ctx, "", func(got []events.Delivery) bool { return len(got) > n }); err == nil {
		return fmt.Errorf("more than the %d deliveries due arrived: %v", n, r.ids())
	}
	return nil
}

// stop ends the subscription and waits for it.
func (r *subscriber) stop() error {
	r.cancel()
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		return errors.New("the subscription did not end with its context")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return fmt.Errorf("a subscription whose context ended returned an error: %w", r.err)
	}
	return nil
}

func (r *subscriber) deliveries() []events.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]events.Delivery(nil), r.got...)
}

func (r *subscriber) ids() []string {
	var ids []string
	for _, d := range r.deliveries() {
		ids = append(ids, d.Event().ID)
	}
	return ids
}
