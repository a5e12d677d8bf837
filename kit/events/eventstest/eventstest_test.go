package eventstest_test

import (
	"context"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Each of these is broken in one way, and the case named must say so.
func TestABrokenBrokerFails(t *testing.T) {
	for _, tt := range []struct {
		name, fails string
		broken      func(*memevents.Broker) events.Broker
	}{
		{"loses every third event", "OrderOfAKey", func(b *memevents.Broker) events.Broker {
			n := 0
			return &faulty{Broker: b, publish: func(e events.Event) []events.Event {
				if n++; n%3 == 0 {
					return nil
				}
				return []events.Event{e}
			}}
		}},
		{"swaps neighbours", "OrderOfAKey", func(b *memevents.Broker) events.Broker {
			held := map[string]events.Event{}
			return &faulty{Broker: b, publish: func(e events.Event) []events.Event {
				if first, ok := held[e.Key]; ok {
					delete(held, e.Key)
					return []events.Event{e, first}
				}
				held[e.Key] = e
				return nil
			}}
		}},
		{"drops extensions", "RoundTrip", func(b *memevents.Broker) events.Broker {
			return &faulty{Broker: b, publish: func(e events.Event) []events.Event {
				e.Extensions = nil
				return []events.Event{e}
			}}
		}},
		{"acknowledges on delivery", "UnacknowledgedComesAgain", func(b *memevents.Broker) events.Broker {
			return &faulty{Broker: b, deliver: func(d events.Delivery) { _ = d.Ack(context.Background()) }}
		}},
		{"goes on behind what was under way", "RestartOvertakesNothing", func(b *memevents.Broker) events.Broker {
			// What a killed consumer had is sent again only after AckWait.
			return &faulty{Broker: b, deliver: func(d events.Delivery) {
				if d.Attempt() == 1 && d.Event().KeySeq == 1 {
					_ = d.Ack(context.Background())
					again := d.Event()
					time.AfterFunc(100*time.Millisecond, func() { _ = b.Publish(context.Background(), again) })
				}
			}}
		}},
		{"ignores InProgress", "InProgressHoldsOff", func(b *memevents.Broker) events.Broker {
			return &faulty{Broker: b, wrap: func(d events.Delivery) events.Delivery { return deaf{d} }}
		}},
		{"forgets acknowledgements", "AcknowledgedStaysAway", func(b *memevents.Broker) events.Broker {
			return &faulty{Broker: b, wrap: func(d events.Delivery) events.Delivery { return forgetful{d} }}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, c := range eventstest.Cases() {
				if c.Name != tt.fails {
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				broker := tt.broken(memevents.New(&memevents.Config{AckWait: 300 * time.Millisecond}))
				err := c.Run(ctx, eventstest.Harness{Broker: broker})
				if err == nil {
					t.Fatalf("case %s accepts a broker that %s", c.Name, tt.name)
				}
				t.Log(err)
			}
		})
	}
}

type faulty struct {
	*memevents.Broker
	publish func(events.Event) []events.Event
	deliver func(events.Delivery)
	wrap    func(events.Delivery) events.Delivery
}

func (f *faulty) Publish(ctx context.Context, evs ...events.Event) error {
	if f.publish != nil {
		var out []events.Event
		for _, e := range evs {
			out = append(out, f.publish(e)...)
		}
		evs = out
	}
	return f.Broker.Publish(ctx, evs...)
}

func (f *faulty) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	return f.Broker.Subscribe(ctx, s, func(ctx context.Context, d events.Delivery) {
		if f.deliver != nil {
			f.deliver(d)
		}
		if f.wrap != nil {
			d = f.wrap(d)
		}
		deliver(ctx, d)
	})
}

type deaf struct{ events.Delivery }

func (deaf) InProgress(context.Context) error { return nil }

type forgetful struct{ events.Delivery }

func (forgetful) Ack(context.Context) error { return nil }
