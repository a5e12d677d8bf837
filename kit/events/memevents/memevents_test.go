package memevents_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBroker(t *testing.T) {
	eventstest.TestBroker(t, func(testing.TB) eventstest.Harness {
		return eventstest.Harness{Broker: memevents.New(&memevents.Config{AckWait: 400 * time.Millisecond})}
	})
}

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	b := memevents.New(nil)
	err := b.Publish(ctx, events.Event{ID: "1", Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1"})
	if err != nil {
		fmt.Println(err)
	}
	err = b.Subscribe(ctx, events.Subscription{Group: "mail", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
		fmt.Println(d.Event().Type, d.Event().Key)
		_ = d.Ack(ctx)
		cancel()
	})
	fmt.Println(err)
	// Output:
	// shop.order.v1.OrderCreated o-1
	// <nil>
}
