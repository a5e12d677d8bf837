package memevents_test

import (
	"context"
	"fmt"
	"sync"
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

// A subscriber that is succeeded, as one whose lease ran out while it was paused,
// takes nothing as long as its successor is there, who would get it later, behind its
// followers.
func TestASucceededSubscriberTakesNothingMore(t *testing.T) {
	b := memevents.New(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	subscribe := func() (<-chan string, context.CancelFunc) {
		got := make(chan string, 10)
		ctx, leave := context.WithCancel(ctx)
		wg.Go(func() {
			_ = b.Subscribe(ctx, events.Subscription{Group: "mail", Topics: []string{"orders"}}, func(_ context.Context, d events.Delivery) { got <- d.Event().ID })
		})
		return got, leave
	}
	publish := func(id string) {
		if err := b.Publish(ctx, events.Event{ID: id, Source: "order", Type: "test.v1.Happened", Topic: "orders", Key: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	publish("1")
	old, _ := subscribe()
	<-old
	successor, leave := subscribe()
	<-successor
	publish("2")
	publish("3")
	if a, b := <-successor, <-successor; a != "2" || b != "3" {
		t.Errorf("the successor was given %s and %s", a, b)
	}
	if len(old) > 0 {
		t.Errorf("the one before it was given %s", <-old)
	}
	leave() // it was the one that is out of date
	if a, b, c := <-old, <-old, <-old; a != "1" || b != "2" || c != "3" {
		t.Errorf("the one before it was given %s, %s and %s", a, b, c)
	}
	cancel()
	wg.Wait()
}

// A delivery of an event that the broker lost says nothing about the one that has
// its place now.
func TestALateAckIsNotTakenForAnotherEvents(t *testing.T) {
	b := memevents.New(nil)
	publish := func(id string) {
		if err := b.Publish(t.Context(), events.Event{ID: id, Source: "order", Type: "test.v1.Happened", Topic: "orders", Key: "k"}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan events.Delivery, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = b.Subscribe(ctx, events.Subscription{Group: "mail", Topics: []string{"orders"}}, func(_ context.Context, d events.Delivery) { got <- d })
	})
	publish("1")
	lost := <-got
	b.LoseTail("orders", 1)
	publish("2")
	<-got
	_ = lost.Ack(ctx)
	if n, _ := b.Pending(ctx, "mail"); n != 1 {
		t.Errorf("%d events are pending", n)
	}
	cancel()
	wg.Wait()
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
