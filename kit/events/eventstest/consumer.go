package eventstest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

// Consumer is a consumer under test: what receives events, applies each to a store
// once and acknowledges it. inbox.Consumer is one.
type Consumer interface {
	// Run consumes the topic "suite" under a name, until ctx ends. Each event is
	// applied in a transaction that also records its ID as an effect; where apply
	// fails nothing of that is left. Failures are tried again after a few
	// milliseconds, MaxFailures times at most; then the event is given up.
	Run(ctx context.Context, name string, sub events.Subscriber, apply func(events.Event) error) error
	// Effects lists the IDs recorded by the consumer of that name, in the order of
	// their commits.
	Effects(ctx context.Context, name string) ([]string, error)
	// Redrive has what was given up handled again. It is called while Run runs.
	Redrive(ctx context.Context, name string) error
	// MaxFailures is after how many failures an event is given up. At least 3.
	MaxFailures() int
}

// ConsumerCase is one demand on a consumer.
type ConsumerCase struct {
	Name string
	// Run returns an error that says what the consumer did wrong.
	Run func(ctx context.Context, c Consumer) error
}

// TestConsumer runs every case as a subtest, each on a consumer with a store of its
// own.
func TestConsumer(t *testing.T, newConsumer func(t testing.TB) Consumer) {
	for _, c := range ConsumerCases() {
		t.Run(c.Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), caseTimeout)
			defer cancel()
			if err := c.Run(ctx, newConsumer(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// ConsumerCases lists the suite's demands, for those who run them in another way.
func ConsumerCases() []ConsumerCase {
	return []ConsumerCase{
		{"EachEffectOnce", eachEffectOnce},
		{"AckFollowsCommit", ackFollowsCommit},
		{"ConsumersAreApart", consumersAreApart},
		{"AFailureHoldsItsKey", aFailureHoldsItsKey},
		{"ADeadLetterParksItsKey", aDeadLetterParksItsKey},
		{"ARestartRepeatsNothing", aRestartRepeatsNothing},
	}
}

// running is a consumer that runs.
type running struct {
	c      Consumer
	name   string
	cancel context.CancelFunc
	done   chan error
}

func run(ctx context.Context, c Consumer, name string, sub events.Subscriber, apply func(events.Event) error) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{c: c, name: name, cancel: cancel, done: make(chan error, 1)}
	if apply == nil {
		apply = func(events.Event) error { return nil }
	}
	go func() { r.done <- c.Run(ctx, name, sub, apply) }()
	return r
}

func (r *running) stop() error {
	r.cancel()
	select {
	case err := <-r.done:
		if err != nil {
			return fmt.Errorf("a consumer whose context ended returned an error: %w", err)
		}
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the consumer did not end with its context")
	}
}

// effects waits until ok takes the effects.
func (r *running) effects(ctx context.Context, what string, ok func([]string) bool) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := r.c.Effects(ctx, r.name)
		if err == nil && ok(got) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("not in time: %s; the effects are %v", what, got), err)
		}
	}
}

func (r *running) count(ctx context.Context, n int) error {
	return r.effects(ctx, fmt.Sprintf("%d effects", n), func(got []string) bool { return len(got) >= n })
}

// inOrder checks that the effects are n of each key, each once, in order.
func (r *running) inOrder(ctx context.Context, n int, keys ...string) error {
	got, err := r.c.Effects(ctx, r.name)
	if err != nil {
		return err
	}
	var errs []error
	for _, k := range keys {
		var want, is []string
		for i := 1; i <= n; i++ {
			want = append(want, event(k, i).ID)
		}
		for _, id := range got {
			if slices.Contains(want, id) {
				is = append(is, id)
			}
		}
		if !slices.Equal(is, want) {
			errs = append(errs, fmt.Errorf("the effects of key %s at %s are %v; want each once, in order", k, r.name, is))
		}
	}
	if len(got) != n*len(keys) {
		errs = append(errs, fmt.Errorf("%s has %d effects, want %d", r.name, len(got), n*len(keys)))
	}
	return errors.Join(errs...)
}

func memory() *memevents.Broker {
	return memevents.New(&memevents.Config{AckWait: 300 * time.Millisecond})
}

// watched tells of each acknowledgement before it is made, and counts those that
// were.
type watched struct {
	events.Subscriber
	acking func(events.Event) // may be nil

	mu  sync.Mutex
	ids map[string]bool
}

func watch(sub events.Subscriber) *watched {
	return &watched{Subscriber: sub, ids: make(map[string]bool)}
}

type watchedDelivery struct {
	events.Delivery
	w *watched
}

func (d watchedDelivery) Ack(ctx context.Context) error {
	if f := d.w.acking; f != nil {
		f(d.Event())
	}
	err := d.Delivery.Ack(ctx)
	if err == nil {
		d.w.mu.Lock()
		d.w.ids[d.Event().ID] = true
		d.w.mu.Unlock()
	}
	return err
}

func (w *watched) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	return w.Subscriber.Subscribe(ctx, s, func(ctx context.Context, d events.Delivery) { deliver(ctx, watchedDelivery{d, w}) })
}

// acked waits until so many events are acknowledged.
func (w *watched) acked(ctx context.Context, want int) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		n := len(w.ids)
		w.mu.Unlock()
		if n >= want {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d of %d events were acknowledged", n, want)
		}
	}
}

func eachEffectOnce(ctx context.Context, c Consumer) error {
	b := memory()
	keys := []string{"a", "b", "c"}
	for i := 1; i <= 20; i++ {
		for _, k := range keys {
			for range 2 { // copies, as relays make them
				if err := b.Publish(ctx, event(k, i)); err != nil {
					return err
				}
			}
		}
		if err := b.Publish(ctx, event("a", i)); err != nil {
			return err
		}
	}
	w := watch(b)
	r := run(ctx, c, "mail", w, nil)
	return errors.Join(r.count(ctx, 60), w.acked(ctx, 60), r.inOrder(ctx, 20, keys...), r.stop())
}

func ackFollowsCommit(ctx context.Context, c Consumer) error {
	b := memory()
	var mu sync.Mutex
	var early []string
	w := watch(b)
	w.acking = func(e events.Event) {
		got, err := c.Effects(ctx, "mail")
		if err == nil && !slices.Contains(got, e.ID) {
			mu.Lock()
			early = append(early, e.ID)
			mu.Unlock()
		}
	}
	r := run(ctx, c, "mail", w, nil)
	for i := 1; i <= 10; i++ {
		if err := b.Publish(ctx, event("a", i), event("b", i)); err != nil {
			return err
		}
	}
	err := errors.Join(r.count(ctx, 20), w.acked(ctx, 20), r.stop())
	mu.Lock()
	defer mu.Unlock()
	if early != nil {
		err = errors.Join(err, fmt.Errorf("acknowledged before the effect had committed, so that a crash between loses it: %v", early))
	}
	return err
}

func consumersAreApart(ctx context.Context, c Consumer) error {
	b := memory()
	for i := 1; i <= 5; i++ {
		if err := b.Publish(ctx, event("a", i)); err != nil {
			return err
		}
	}
	mail := run(ctx, c, "mail", b, nil)
	if err := mail.count(ctx, 5); err != nil {
		return errors.Join(err, mail.stop())
	}
	w := watch(b)
	audit := run(ctx, c, "audit", w, nil)
	err := w.acked(ctx, 5)
	return errors.Join(err, mail.inOrder(ctx, 5, "a"), audit.inOrder(ctx, 5, "a"), mail.stop(), audit.stop())
}

// aFailureHoldsItsKey: while an event is tried again the next of its key waits, and
// other keys go on.
func aFailureHoldsItsKey(ctx context.Context, c Consumer) error {
	b := memory()
	var mu sync.Mutex
	failures := 0
	w := watch(b)
	r := run(ctx, c, "mail", w, func(e events.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if e.ID == event("a", 2).ID && failures < 2 {
			failures++
			return errors.New("now and then")
		}
		return nil
	})
	for i := 1; i <= 5; i++ {
		if err := b.Publish(ctx, event("a", i), event("b", i)); err != nil {
			return err
		}
	}
	return errors.Join(r.count(ctx, 10), w.acked(ctx, 10), r.inOrder(ctx, 5, "a", "b"), r.stop())
}

// aDeadLetterParksItsKey: an event that is given up holds up its key, and that
// alone, until it is redriven.
func aDeadLetterParksItsKey(ctx context.Context, c Consumer) error {
	b := memory()
	var mu sync.Mutex
	poisoned, failures := true, 0
	w := watch(b)
	r := run(ctx, c, "mail", w, func(e events.Event) error {
		mu.Lock()
		defer mu.Unlock()
		if poisoned && e.ID == event("a", 2).ID {
			failures++
			return errors.New("poison")
		}
		return nil
	})
	publish := func(from, to int) error {
		for i := from; i <= to; i++ {
			if err := b.Publish(ctx, event("a", i), event("b", i)); err != nil {
				return err
			}
		}
		return nil
	}
	// Everything is acknowledged: the rest of the key is kept by the consumer.
	if err := errors.Join(publish(1, 3), w.acked(ctx, 6), publish(4, 5), w.acked(ctx, 10)); err != nil {
		return errors.Join(err, r.stop())
	}
	got, err := c.Effects(ctx, "mail")
	if err != nil {
		return err
	}
	for i := 2; i <= 5; i++ {
		if slices.Contains(got, event("a", i).ID) {
			return errors.Join(fmt.Errorf("event %d of the key was applied although event 2 had been given up: %v", i, got), r.stop())
		}
		if !slices.Contains(got, event("b", i).ID) {
			return errors.Join(fmt.Errorf("another key did not go on: %v", got), r.stop())
		}
	}
	mu.Lock()
	tried := failures
	poisoned = false
	mu.Unlock()
	if tried < c.MaxFailures() {
		return errors.Join(fmt.Errorf("the event was given up after %d failures, want %d", tried, c.MaxFailures()), r.stop())
	}
	if err := c.Redrive(ctx, "mail"); err != nil {
		return err
	}
	return errors.Join(publish(6, 6), r.count(ctx, 12), w.acked(ctx, 12), r.inOrder(ctx, 6, "a", "b"), r.stop())
}

// mute loses acknowledgements while it is on, as a process does that is killed
// between its commit and its ack.
type muteDelivery struct{ events.Delivery }

func (muteDelivery) Ack(context.Context) error { return errors.New("the connection is lost") }

type mute struct{ events.Subscriber }

func (m mute) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	return m.Subscriber.Subscribe(ctx, s, func(ctx context.Context, d events.Delivery) { deliver(ctx, muteDelivery{d}) })
}

func aRestartRepeatsNothing(ctx context.Context, c Consumer) error {
	b := memory()
	for i := 1; i <= 5; i++ {
		if err := b.Publish(ctx, event("a", i), event("b", i)); err != nil {
			return err
		}
	}
	r := run(ctx, c, "mail", mute{b}, nil)
	if err := errors.Join(r.count(ctx, 10), r.stop()); err != nil {
		return err
	}
	w := watch(b)
	r = run(ctx, c, "mail", w, nil)
	if err := b.Publish(ctx, event("a", 6), event("b", 6)); err != nil {
		return err
	}
	return errors.Join(r.count(ctx, 12), w.acked(ctx, 12), r.inOrder(ctx, 6, "a", "b"), r.stop())
}
