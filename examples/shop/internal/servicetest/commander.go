package servicetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/saga"
)

// Commander sends commands as a saga's coordinator does and keeps the replies.
type Commander struct {
	t      testing.TB
	broker events.Broker
	topic  string

	mu      sync.Mutex
	replies []events.Event
}

// NewCommander sends to commandTopic and listens to replyTopic until the test
// ends.
func NewCommander(t testing.TB, broker events.Broker, commandTopic, replyTopic string) *Commander {
	t.Helper()
	c := &Commander{t: t, broker: broker, topic: commandTopic}
	if err := broker.EnsureTopics(t.Context(), commandTopic, replyTopic); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := broker.Subscribe(ctx, events.Subscription{Group: "test-commander", Topics: []string{replyTopic}}, func(ctx context.Context, d events.Delivery) {
			c.mu.Lock()
			c.replies = append(c.replies, d.Event())
			c.mu.Unlock()
			_ = d.Ack(ctx) // a second delivery does no harm here
		})
		if err != nil && ctx.Err() == nil {
			t.Errorf("subscribe to replies: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

// Step is one step of an order's saga.
type Step struct {
	Order, Name string
	Phase       saga.Phase
	// Expires is the moment after which Do is to be refused; zero is never.
	Expires time.Time
}

func (s Step) key() string { return "checkout/" + s.Order + "/" + s.Name }

// Send sends the command of a step, under a new event id each time.
func (c *Commander) Send(s Step, m proto.Message) {
	c.t.Helper()
	e, err := protoevents.New("", c.topic, s.Order, m)
	if err != nil {
		c.t.Fatal(err)
	}
	e.ID, e.Source, e.Time = correlation.NewID(), "order", time.Now()
	e.Extensions = map[string]string{saga.ExtID: s.Order, saga.ExtStep: s.key(), saga.ExtPhase: string(s.Phase)}
	if !s.Expires.IsZero() {
		e.Extensions[saga.ExtExpires] = s.Expires.UTC().Format(time.RFC3339Nano)
	}
	if err := c.broker.Publish(c.t.Context(), e); err != nil {
		c.t.Fatal(err)
	}
}

// Replies returns the replies to a phase of a step so far.
func (c *Commander) Replies(s Step) []events.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []events.Event
	for _, e := range c.replies {
		if e.Extension(saga.ExtStep) == s.key() && e.Extension(saga.ExtPhase) == string(s.Phase) {
			out = append(out, e)
		}
	}
	return out
}

// Await waits for the n-th reply to a phase of a step and returns its type, its
// outcome and its reason.
func (c *Commander) Await(s Step, n int) (typ, outcome, reason string) {
	c.t.Helper()
	Until(c.t, s.key()+" "+string(s.Phase)+" is answered", func() bool { return len(c.Replies(s)) >= n })
	e := c.Replies(s)[n-1]
	return e.Type, e.Extension(saga.ExtOutcome), e.Extension(saga.ExtReason)
}
