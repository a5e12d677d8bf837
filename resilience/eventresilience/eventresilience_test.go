package eventresilience_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/eventresilience"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("broker: down")

// script is a publisher that does what the test says, one step for each call.
type script struct {
	steps []func(evs []events.Event) error
	calls [][]string // the IDs of each
}

func (s *script) Publish(_ context.Context, evs ...events.Event) error {
	var ids []string
	for _, e := range evs {
		ids = append(ids, e.ID)
	}
	s.calls = append(s.calls, ids)
	if n := len(s.calls); n <= len(s.steps) {
		return s.steps[n-1](evs)
	}
	return nil
}

// failing fails the events with the given IDs.
func failing(causes map[string]error) func([]events.Event) error {
	return func(evs []events.Event) error {
		var failed []events.FailedEvent
		for i, e := range evs {
			if cause := causes[e.ID]; cause != nil {
				failed = append(failed, events.FailedEvent{Index: i, ID: e.ID, Err: cause})
			}
		}
		return &events.PublishError{Failed: failed}
	}
}

func down([]events.Event) error { return errDown }

func batch(ids ...string) []events.Event {
	var all []events.Event
	for _, id := range ids {
		all = append(all, events.Event{ID: id})
	}
	return all
}

func TestOnlyWhatIsNotAcknowledgedIsSentAgain(t *testing.T) {
	refused := fmt.Errorf("%w: too large", events.ErrRejected)
	for name, tc := range map[string]struct {
		steps []func([]events.Event) error
		calls [][]string
		// what Publish says of each event that failed, by position; nil: no error
		failed map[int]error
		whole  error // an error of the whole
	}{
		"well":                {nil, [][]string{{"a", "b", "c"}}, nil, nil},
		"down once":           {[]func([]events.Event) error{down}, [][]string{{"a", "b", "c"}, {"a", "b", "c"}}, nil, nil},
		"down":                {[]func([]events.Event) error{down, down, down}, [][]string{{"a", "b", "c"}, {"a", "b", "c"}, {"a", "b", "c"}}, nil, errDown},
		"a part, then well":   {[]func([]events.Event) error{failing(map[string]error{"b": errDown})}, [][]string{{"a", "b", "c"}, {"b"}}, nil, nil},
		"refused for good":    {[]func([]events.Event) error{failing(map[string]error{"b": refused})}, [][]string{{"a", "b", "c"}}, map[int]error{1: refused}, nil},
		"refused and failed":  {[]func([]events.Event) error{failing(map[string]error{"a": refused, "c": errDown})}, [][]string{{"a", "b", "c"}, {"c"}}, map[int]error{0: refused}, nil},
		"a part, then down":   {[]func([]events.Event) error{failing(map[string]error{"b": errDown, "c": errDown}), down, down}, [][]string{{"a", "b", "c"}, {"b", "c"}, {"b", "c"}}, map[int]error{1: errDown, 2: errDown}, nil},
		"less and less":       {[]func([]events.Event) error{failing(map[string]error{"b": errDown, "c": errDown}), failing(map[string]error{"c": errDown}), failing(map[string]error{"c": errDown})}, [][]string{{"a", "b", "c"}, {"b", "c"}, {"c"}}, map[int]error{2: errDown}, nil},
		"the topic is absent": {[]func([]events.Event) error{func([]events.Event) error { return events.ErrNoTopic }}, [][]string{{"a", "b", "c"}}, nil, events.ErrNoTopic},
		"nonsense of a publisher": {
			[]func([]events.Event) error{func([]events.Event) error {
				return &events.PublishError{Failed: []events.FailedEvent{{Index: 9, Err: errDown}}}
			}}, [][]string{{"a", "b", "c"}, {"a", "b", "c"}}, nil, nil,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, err := resilience.NewDestinations(nil)
				if err != nil {
					t.Fatal(err)
				}
				s := &script{steps: tc.steps}
				err = eventresilience.Publisher(d, "broker", s).Publish(t.Context(), batch("a", "b", "c")...)
				if !slices.EqualFunc(s.calls, tc.calls, slices.Equal) {
					t.Errorf("sent %v, want %v", s.calls, tc.calls)
				}
				var partial *events.PublishError
				switch {
				case tc.whole != nil:
					if !errors.Is(err, tc.whole) || errors.As(err, &partial) {
						t.Errorf("got %v, want %v of the whole", err, tc.whole)
					}
				case tc.failed == nil:
					if err != nil {
						t.Error(err)
					}
				default:
					if !errors.As(err, &partial) || len(partial.Failed) != len(tc.failed) {
						t.Fatalf("got %v, want %v", err, tc.failed)
					}
					for _, f := range partial.Failed {
						if want := tc.failed[f.Index]; !errors.Is(f.Err, want) || f.ID != string(rune('a'+f.Index)) {
							t.Errorf("event %d (%s): %v, want %v", f.Index, f.ID, f.Err, want)
						}
					}
				}
			})
		})
	}
}

// A publisher that speaks of an event that there is not is believed in nothing else:
// what it said is passed on as it is.
func TestNonsenseOfAPublisherIsPassedOn(t *testing.T) {
	d, err := resilience.NewDestinations(nil)
	if err != nil {
		t.Fatal(err)
	}
	nonsense := &events.PublishError{Failed: []events.FailedEvent{{Index: 0, ID: "a", Err: events.ErrRejected}, {Index: 9, Err: errDown}}}
	s := &script{steps: []func([]events.Event) error{func([]events.Event) error { return nonsense }}}
	err = eventresilience.Publisher(d, "broker", s).Publish(t.Context(), batch("a", "b", "c")...)
	var partial *events.PublishError
	if !errors.As(err, &partial) || partial != nonsense || len(s.calls) != 1 {
		t.Errorf("got %v after %d calls, want what the publisher said", err, len(s.calls))
	}
}

// The broker's name stands for one budget and one breaker, whoever calls.
func TestPublishersShareTheDestination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: resilience.Config{
			Budget: resilience.BudgetConfig{MinPerSecond: -1}, Breaker: resilience.BreakerConfig{MinCalls: 5},
		}})
		if err != nil {
			t.Fatal(err)
		}
		s := &script{steps: slices.Repeat([]func([]events.Event) error{down}, 100)}
		pub := eventresilience.Publisher(d, "nats", s)
		if err := pub.Publish(t.Context(), batch("a")...); !errors.Is(err, resilience.ErrBudgetExhausted) || !errors.Is(err, errDown) || len(s.calls) != 1 {
			t.Fatalf("%d calls, %v: want one, and ErrBudgetExhausted with the cause", len(s.calls), err)
		}
		for range 10 {
			_ = eventresilience.Publisher(d, "nats", s).Publish(t.Context(), batch("a")...)
		}
		err = pub.Publish(t.Context(), batch("a")...)
		if !errors.Is(err, resilience.ErrOpen) || !resilience.IsLocalRejection(err) || len(s.calls) != 5 {
			t.Fatalf("%d calls, %v: want 5 and ErrOpen", len(s.calls), err)
		}
		p, _ := d.Get("nats")
		if err := p.Execute(t.Context(), func(context.Context) error { return nil }); !errors.Is(err, resilience.ErrOpen) {
			t.Fatalf("another caller of the destination: %v, want ErrOpen", err)
		}
	})
}

// A refusal is an answer: an event that is too large says nothing of the broker.
func TestRefusalsDoNotOpenTheBreaker(t *testing.T) {
	d, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: resilience.Config{Breaker: resilience.BreakerConfig{MinCalls: 2}}})
	if err != nil {
		t.Fatal(err)
	}
	s := &script{steps: slices.Repeat([]func([]events.Event) error{failing(map[string]error{"a": events.ErrRejected})}, 20)}
	pub := eventresilience.Publisher(d, "nats", s)
	for range 20 {
		if err := pub.Publish(t.Context(), batch("a")...); !errors.Is(err, events.ErrRejected) {
			t.Fatal(err)
		}
	}
	if p, _ := d.Get("nats"); p.Snapshot().Counts.Failures != 0 || len(s.calls) != 20 {
		t.Fatalf("%d calls, %+v", len(s.calls), p.Snapshot().Counts)
	}
}

// A log stays one, so that the relay still notices what a broker lost.
func TestLogsStayLogs(t *testing.T) {
	d, err := resilience.NewDestinations(&resilience.DestinationsConfig{Default: resilience.Config{Retry: resilience.RetryConfig{BaseDelay: time.Microsecond}}})
	if err != nil {
		t.Fatal(err)
	}
	broker := memevents.New(nil)
	defer broker.Close()
	log, ok := eventresilience.Publisher(d, "memory", broker).(events.Log)
	if !ok {
		t.Fatal("the result is no events.Log")
	}
	if err := broker.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	var evs []events.Event
	for _, key := range []string{"k1", "k2", "k3"} {
		evs = append(evs, events.Event{
			ID: "id-" + key, Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: key, KeySeq: 1,
			Time: time.Unix(1, 0), DataContentType: "application/json", Data: []byte("{}"),
		})
	}
	faults := 1
	broker.Fail(func(e events.Event) error {
		if e.Key == "k2" && faults > 0 {
			faults--
			return errDown
		}
		return nil
	})
	receipts, err := log.PublishReceipts(t.Context(), evs...)
	if err != nil || len(receipts) != 3 {
		t.Fatalf("%v, %v", receipts, err)
	}
	seen := map[uint64]bool{}
	for i, r := range receipts {
		if r.Seq == 0 || seen[r.Seq] {
			t.Errorf("event %d: receipt %+v", i, r)
		}
		seen[r.Seq] = true
	}
	state, err := log.StreamState(t.Context(), "orders")
	if err != nil || state.LastSeq != 3 {
		t.Errorf("%+v, %v, want 3 events", state, err)
	}
}
