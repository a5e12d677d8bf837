package kafkaevents_test

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/kafkaevents"
)

func Example() {
	// A cluster in this process; yours has addresses, TLS (kgo.DialTLSConfig) and
	// credentials (kgo.SASL).
	cluster, err := kfake.NewCluster()
	if err != nil {
		fmt.Println(err)
		return
	}
	defer cluster.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	broker, err := kafkaevents.Connect(ctx, nil, kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer broker.Close()
	if err := broker.EnsureTopics(ctx, "orders"); err != nil {
		fmt.Println(err)
	}
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
