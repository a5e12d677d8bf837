package eventresilience_test

import (
	"context"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/resilience/eventresilience"
)

// The broker is one destination among others, with a budget of its own.
func ExamplePublisher() {
	destinations, err := resilience.NewDestinations(nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	broker := memevents.New(nil)
	defer broker.Close()
	_ = broker.EnsureTopics(context.Background(), "orders")
	publisher := eventresilience.Publisher(destinations, "broker", broker)

	attempts := 0
	broker.Fail(func(events.Event) error {
		if attempts++; attempts == 1 {
			return fmt.Errorf("the leader is moving")
		}
		return nil
	})
	err = publisher.Publish(context.Background(), events.Event{
		ID: "1", Source: "order", Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: "o-1", KeySeq: 1,
		Time: time.Now(), DataContentType: "application/json", Data: []byte(`{}`),
	})
	fmt.Println(attempts, err)
	// Output: 2 <nil>
}
