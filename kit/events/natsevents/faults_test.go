package natsevents_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
)

func testEvent(id string) events.Event {
	return events.Event{ID: id, Source: "test", Type: "test.v1.Happened", Topic: "orders", Key: "a"}
}

// collect subscribes and returns a func that waits for an event.
func collect(t *testing.T, b *natsevents.Broker) (await func(id string)) {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]bool{}
	changed := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- b.Subscribe(ctx, events.Subscription{Group: "g", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
			mu.Lock()
			seen[d.Event().ID] = true
			mu.Unlock()
			_ = d.Ack(ctx)
			select {
			case changed <- struct{}{}:
			default:
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(id string) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		for {
			mu.Lock()
			ok := seen[id]
			mu.Unlock()
			if ok {
				return
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("event %s was not delivered", id)
			}
		}
	}
}

func TestADeletedConsumerIsMadeAgain(t *testing.T) {
	s := natstest.Start(t)
	b := connect(t, s)
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), testEvent("1")); err != nil {
		t.Fatal(err)
	}
	await := collect(t, b)
	await("1")
	js, err := jetstream.New(s.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteConsumer(t.Context(), "orders", "g"); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), testEvent("2")); err != nil {
		t.Fatal(err)
	}
	await("2")
}

func TestAFullStreamRefusesAndRecovers(t *testing.T) {
	s := natstest.Start(t)
	b, err := natsevents.Connect(t.Context(), s.Conn(t), &natsevents.Config{MaxBytes: 4096})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	e := testEvent("1")
	e.Data = make([]byte, 3000)
	if err := b.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	e.ID = "2"
	if err := b.Publish(t.Context(), e); err == nil || errors.Is(err, events.ErrRejected) {
		t.Fatalf("a full stream answered %v; want an error that waiting mends", err)
	}
	js, err := jetstream.New(s.Conn(t))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), "orders")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// More publications than places, from many callers, some of which give up.
func TestPublishersShareTheirPlaces(t *testing.T) {
	s := natstest.Start(t)
	b, err := natsevents.Connect(t.Context(), s.Conn(t), &natsevents.Config{MaxPending: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			if w%2 == 0 {
				cancel() // gives up at once
			}
			defer cancel()
			var evs []events.Event
			for i := range 50 {
				evs = append(evs, testEvent(string(rune('a'+w))+"-"+string(rune('A'+i))))
			}
			if err := b.Publish(ctx, evs...); err != nil && w%2 == 1 {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := b.Publish(t.Context(), testEvent("last")); err != nil { // every place came back
		t.Fatal(err)
	}
	b.Close()
	if err := b.Publish(t.Context(), testEvent("closed")); !errors.Is(err, events.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A server that comes back with less can be told from one that kept all only as
// long as nothing new has the places of what it lost.
func TestTheLogIsLookedAtAfterALostConnection(t *testing.T) {
	s := natstest.Start(t)
	b := connect(t, s)
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.PublishReceipts(t.Context(), testEvent("1")); err != nil {
		t.Fatal(err) // who never asked for the state is not held up
	}
	if _, err := b.StreamState(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	s.Restart()
	deadline := time.Now().Add(20 * time.Second)
	for n := 0; ; n++ { // a publisher that does not number its events goes on
		err := b.Publish(t.Context(), testEvent("2"))
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if _, err := b.PublishReceipts(t.Context(), testEvent("3")); err == nil {
		t.Fatal("the event was published before anyone looked at the log")
	}
	if st, err := b.StreamState(t.Context(), "orders"); err != nil || st.LastSeq != 2 {
		t.Fatalf("state %+v, %v", st, err)
	}
	if _, err := b.PublishReceipts(t.Context(), testEvent("3")); err != nil {
		t.Fatal(err)
	}
}
