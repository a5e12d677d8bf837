package eventstest_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
)

// faults are what may be wrong with a consumer.
type faults struct {
	nakLater    bool // sends a failed event back, for later, and goes on
	ackFirst    bool // acknowledges before it commits
	sharedMarks bool // its mark lacks the consumer's name
	noParking   bool // goes on with a key behind a dead letter
	noMarks     bool // does not remember what it has handled
	keepsFailed bool // keeps what a failed attempt has done
}

// simple is a consumer in memory, right where it has no faults. It handles one
// event at a time.
type simple struct {
	faults

	mu      sync.Mutex
	marks   map[[2]string]bool
	tries   map[string]int
	effects map[string][]string
	parked  map[string][]events.Event
	redrive map[string]bool
}

func newSimple(f faults) *simple {
	return &simple{
		faults: f, marks: map[[2]string]bool{}, tries: map[string]int{}, effects: map[string][]string{},
		parked: map[string][]events.Event{}, redrive: map[string]bool{},
	}
}

func (s *simple) MaxFailures() int { return 3 }

func (s *simple) Effects(_ context.Context, name string) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.effects[name]), nil
}

func (s *simple) Redrive(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.redrive[name] = true
	return nil
}

func (s *simple) Run(ctx context.Context, name string, sub events.Subscriber, apply func(events.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	in := make(chan events.Delivery, 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case d := <-in:
				s.handle(ctx, name, d, apply)
			case <-tick.C:
				s.drain(name, apply)
			case <-ctx.Done():
				return
			}
		}
	})
	err := sub.Subscribe(ctx, events.Subscription{Group: name, Topics: []string{"suite"}}, func(_ context.Context, d events.Delivery) { in <- d })
	cancel()
	wg.Wait()
	return err
}

// drain applies what is parked, once it may.
func (s *simple) drain(name string, apply func(events.Event) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.redrive[name] {
		return
	}
	for key, list := range s.parked {
		for _, e := range list {
			s.mu.Unlock()
			err := apply(e)
			s.mu.Lock()
			if err != nil {
				return
			}
			s.effects[name] = append(s.effects[name], e.ID)
		}
		delete(s.parked, key)
	}
	s.redrive[name] = false
}

func (s *simple) handle(ctx context.Context, name string, d events.Delivery, apply func(events.Event) error) {
	e := d.Event()
	mark := [2]string{name, e.ID}
	if s.sharedMarks {
		mark[0] = ""
	}
	for {
		s.mu.Lock()
		known, key := s.marks[mark], name+"/"+e.Key
		waits := s.parked[key] != nil
		s.mu.Unlock()
		if known && !s.noMarks {
			_ = d.Ack(ctx)
			return
		}
		if waits && !s.noParking {
			s.mu.Lock()
			s.marks[mark] = true
			s.parked[key] = append(s.parked[key], e)
			s.mu.Unlock()
			_ = d.Ack(ctx)
			return
		}
		if s.ackFirst {
			_ = d.Ack(ctx)
		}
		err := apply(e)
		s.mu.Lock()
		if err == nil || s.keepsFailed {
			s.effects[name] = append(s.effects[name], e.ID)
		}
		if err == nil {
			s.marks[mark] = true
			s.mu.Unlock()
			_ = d.Ack(ctx)
			return
		}
		s.tries[name+e.ID]++
		dead := s.tries[name+e.ID] >= s.MaxFailures()
		if dead {
			s.marks[mark] = true
			s.parked[key] = append(s.parked[key], e)
		}
		s.mu.Unlock()
		switch {
		case dead:
			_ = d.Ack(ctx)
			return
		case s.nakLater:
			_ = d.Retry(ctx, 50*time.Millisecond)
			return
		case ctx.Err() != nil:
			return
		}
	}
}

func TestConsumerSuitePassesARightOne(t *testing.T) {
	eventstest.TestConsumer(t, func(testing.TB) eventstest.Consumer { return newSimple(faults{}) })
}

// Each of these is broken in one way, and the case named must say so.
func TestABrokenConsumerFails(t *testing.T) {
	for _, tt := range []struct {
		name, fails string
		broken      faults
	}{
		{"reorders a key by a delayed negative ack", "AFailureHoldsItsKey", faults{nakLater: true}},
		{"acknowledges before it commits", "AckFollowsCommit", faults{ackFirst: true}},
		{"marks without the consumer's name", "ConsumersAreApart", faults{sharedMarks: true}},
		{"applies an event past its parked predecessor", "ADeadLetterParksItsKey", faults{noParking: true}},
		{"remembers nothing", "EachEffectOnce", faults{noMarks: true}},
		{"remembers nothing over a restart", "ARestartRepeatsNothing", faults{noMarks: true}},
		{"keeps what a failed attempt has done", "AFailureHoldsItsKey", faults{keepsFailed: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			i := slices.IndexFunc(eventstest.ConsumerCases(), func(c eventstest.ConsumerCase) bool { return c.Name == tt.fails })
			if i < 0 {
				t.Fatal("there is no case " + tt.fails)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			err := eventstest.ConsumerCases()[i].Run(ctx, newSimple(tt.broken))
			if err == nil || errors.Is(err, context.Canceled) {
				t.Fatalf("case %s accepts a consumer that %s", tt.fails, tt.name)
			}
			t.Log(err)
		})
	}
}
