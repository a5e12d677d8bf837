package watermillevents_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/watermillevents"
)

// driver is a Watermill driver in the test's hands.
type driver struct {
	published []*message.Message
	err       error
	messages  chan *message.Message
	begun     int
	closed    int
}

func (d *driver) Publish(_ string, ms ...*message.Message) error {
	d.published = append(d.published, ms...)
	return d.err
}

func (d *driver) Subscribe(context.Context, string) (<-chan *message.Message, error) {
	d.begun++
	return d.messages, nil
}

func (d *driver) Close() error { d.closed++; return nil }

func (d *driver) broker(t *testing.T, cfg watermillevents.Config) *watermillevents.Broker {
	t.Helper()
	cfg.Parallel = 1
	b, err := watermillevents.New(d, func(events.Subscription) (message.Subscriber, error) { return d, nil }, &cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

var happened = events.Event{ID: "1", Source: "test", Type: "test.v1.Happened", Topic: "orders", Key: "a"}

// ended tells what became of a message.
func ended(m *message.Message) string {
	select {
	case <-m.Acked():
		return "acked"
	case <-m.Nacked():
		return "nacked"
	default:
		return "open"
	}
}

// subscribed hands the driver's next message on, and ends the subscription.
func subscribed(t *testing.T, d *driver, b *watermillevents.Broker) (next func() (events.Delivery, *message.Message), stop func()) {
	t.Helper()
	if err := b.Publish(t.Context(), happened); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan events.Delivery, 1)
	done := make(chan error, 1)
	go func() {
		done <- b.Subscribe(ctx, events.Subscription{Group: "g", Topics: []string{"orders"}}, func(_ context.Context, d events.Delivery) { got <- d })
	}()
	next = func() (events.Delivery, *message.Message) {
		m := d.published[0].Copy()
		d.messages <- m
		return <-got, m
	}
	return next, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestDeliveriesEndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{messages: make(chan *message.Message)}
		next, stop := subscribed(t, d, d.broker(t, watermillevents.Config{Features: events.Features{AckWait: time.Minute}}))

		x, m := next()
		time.Sleep(time.Hour)
		if ended(m) != "nacked" {
			t.Error("a delivery that nobody works on is kept from coming again")
		}
		if err := x.Ack(t.Context()); err == nil {
			t.Error("an Ack after AckWait says nothing, yet the event comes again")
		}
		x, m = next()
		if x.Attempt() != 2 {
			t.Errorf("attempt %d, want 2", x.Attempt())
		}
		for range 10 {
			time.Sleep(50 * time.Second)
			_ = x.InProgress(t.Context())
		}
		if ended(m) != "open" {
			t.Error("a delivery in progress was given back")
		}
		_ = x.Retry(t.Context(), 10*time.Second)
		time.Sleep(9 * time.Second)
		if ended(m) != "open" {
			t.Error("a retry came too early")
		}
		time.Sleep(2 * time.Second)
		if ended(m) != "nacked" {
			t.Error("a retry did not come")
		}
		x, m = next()
		if err := x.Ack(t.Context()); err != nil || ended(m) != "acked" {
			t.Errorf("ack: %v, %s", err, ended(m))
		}
		_, m = next()
		stop()
		if ended(m) != "nacked" {
			t.Error("what was under way at the end does not come again")
		}
		if d.closed != d.begun {
			t.Errorf("%d of %d subscribers are closed", d.closed, d.begun)
		}
	})
}

func TestASubscriptionThatTheDriverEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &driver{messages: make(chan *message.Message)}
		next, stop := subscribed(t, d, d.broker(t, watermillevents.Config{}))
		x, _ := next()
		_ = x.Ack(t.Context())
		d.messages <- nil // as a closed channel yields
		x, _ = next()
		_ = x.Ack(t.Context())
		stop()
		if d.begun != 2 || d.closed != 2 {
			t.Errorf("%d begun, %d closed; want 2 each", d.begun, d.closed)
		}
	})
}

func TestPublishFailures(t *testing.T) {
	d := &driver{err: errors.New("unreachable")}
	b := d.broker(t, watermillevents.Config{})
	err := b.Publish(t.Context(), happened)
	var p *events.PublishError
	if !errors.As(err, &p) || errors.Is(err, events.ErrRejected) || !errors.Is(err, d.err) {
		t.Errorf("a driver that fails: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Publish(ctx, happened, happened); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
	_ = b.Close()
	if err := b.Publish(t.Context(), happened); !errors.Is(err, events.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if err := b.Subscribe(t.Context(), events.Subscription{Group: "g", Topics: []string{"orders"}}, nil); !errors.Is(err, events.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestFIFOGroupsByKey(t *testing.T) {
	d := &driver{}
	b := d.broker(t, *watermillevents.SNSSQSFIFO())
	other := happened
	other.ID = "2"
	if err := b.Publish(t.Context(), happened, other); err != nil {
		t.Fatal(err)
	}
	one, two := d.published[0].Metadata, d.published[1].Metadata
	if one.Get("MessageGroupId") != two.Get("MessageGroupId") || one.Get("MessageDeduplicationId") == two.Get("MessageDeduplicationId") {
		t.Errorf("the events of a key are sent as %v and %v", one, two)
	}
	if key, err := watermillevents.OrderingKey("", d.published[0]); key != "a" || err != nil {
		t.Errorf("the ordering key is %q, %v", key, err)
	}
}
