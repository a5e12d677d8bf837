package watermillevents_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/watermillevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shared leaves the one channel open when a subscription ends.
type shared struct{ message.Subscriber }

func (shared) Close() error { return nil }

// connect is a broker on Watermill's own channels, which keep their messages and send
// all of them to every subscription, in no order.
func connect(t testing.TB) *watermillevents.Broker {
	t.Helper()
	channel := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	b, err := watermillevents.New(channel, func(events.Subscription) (message.Subscriber, error) { return shared{channel}, nil }, &watermillevents.Config{
		Features: events.Features{Name: "gochannel", AckWait: time.Second, NoPositions: true, MaxEvent: 1 << 20},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(); _ = channel.Close() })
	return b
}

func TestBroker(t *testing.T) {
	eventstest.TestBroker(t, func(t testing.TB) eventstest.Harness { return eventstest.Harness{Broker: connect(t)} })
}
