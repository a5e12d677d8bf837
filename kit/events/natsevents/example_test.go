package natsevents_test

import (
	"context"
	"fmt"
	"os"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
)

func Example() {
	// A server of its own in this process; yours is at a URL.
	serving, stop := context.WithCancel(context.Background())
	dir, err := os.MkdirTemp("", "nats")
	if err != nil {
		fmt.Println(err)
	}
	defer os.RemoveAll(dir)
	urls, served := make(chan string, 1), make(chan error, 1)
	go func() {
		served <- natstest.Serve(serving, natstest.Config{Addr: "127.0.0.1:0", Dir: dir}, func(url string) { urls <- url })
	}()
	defer func() { stop(); <-served }()

	nc, err := nats.Connect(<-urls, natsevents.Options("order", nil)...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	broker, err := natsevents.Connect(ctx, nc, nil)
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
