package watermillevents_test

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/watermillevents"
)

func Example() {
	// Watermill's own channels; yours is a driver, whose subscriber is made with a
	// queue or subscription named by the group.
	channel := gochannel.NewGoChannel(gochannel.Config{Persistent: true}, watermill.NopLogger{})
	newSubscriber := func(events.Subscription) (message.Subscriber, error) { return channel, nil }
	broker, err := watermillevents.New(channel, newSubscriber, &watermillevents.Config{
		Features: events.Features{Name: "gochannel", NoPositions: true},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	err = broker.Publish(ctx, events.Event{ID: "1", Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1"})
	if err != nil {
		fmt.Println(err)
	}
	err = broker.Subscribe(ctx, events.Subscription{Group: "mail", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
		fmt.Println(d.Event().Type, d.Event().Key)
		_ = d.Ack(ctx)
		cancel()
	})
	fmt.Println(err)
	// Output:
	// shop.order.v1.OrderCreated o-1
	// <nil>
}
