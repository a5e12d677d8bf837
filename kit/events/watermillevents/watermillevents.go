// Package watermillevents makes an events.Broker of a Watermill driver, for brokers
// that Napkin does not speak to itself: SNS with SQS, Google Pub/Sub and others
// (https://watermill.io/pubsubs/).
//
//	broker, err := watermillevents.New(publisher, newSubscriber, watermillevents.GooglePubSub())
//
// # Layout
//
// An event is one message: a CloudEvent in JSON (application/cloudevents+json),
// data in base64. The attributes are in the body because SQS takes ten attributes
// for a message and no arbitrary bytes. The message's UUID is the event's ID.
//
// Watermill names a consumer group where a subscriber is made, so New takes a
// function that makes one for a subscription's group. It must name the queue or
// subscription by [events.Subscription].Group: two groups that share a queue take
// each other's events.
//
// # What it does not have
//
// A subscription to a block is refused ([events.Features].NoBlocks): a queue cannot
// be read in parts, and whoever passes over another's events loses them. Set the
// consumer's Blocks to 1. Pending is unknown (NoPending): ask the broker's own
// metrics. This package is no events.Log: the relay does not notice that a broker
// lost acknowledged events.
//
// A queue or subscription receives what is published after it was made: there is no
// oldest event for a new group to start at. Make it before the first event is
// published, by a migration of your infrastructure or the driver's
// SubscribeInitialize. Nor does a position go back: after a crash what was under way
// comes again when the broker's own time is over, behind what follows it, unless
// the broker keeps order.
//
// # Order
//
// Whatever [Config].Features says; see [SNSSQS], [SNSSQSFIFO] and [GooglePubSub].
// Without order events of a key overtake each other: declare handlers for which
// that matters as strict or latest in the inbox, which go by the event's KeySeq.
//
// # Acknowledging
//
// Ack is the message's Ack, and Retry its Nack once the time has passed. Watermill
// knows no InProgress: AckWait runs in this process, and a delivery that is neither
// acknowledged nor in progress for as long is nacked. The broker has a time of its
// own, which InProgress does not extend on SQS (the queue's visibility timeout):
// make it longer than a handler may take with all its attempts, else the event comes
// a second time while it is still being worked on. Inboxes recognise it. Google's
// client extends it by itself, up to ReceiveSettings.MaxExtension.
//
// A message whose Ack is lost comes again. Nothing is acknowledged before Ack is
// called, except what the subscription does not want by type.
package watermillevents

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/napkin-kit/napkin/kit/events"
)

// Config tunes [New].
type Config struct {
	// Features is what the driver and its broker guarantee as they are set up.
	// NoBlocks and NoPending are always set. AckWait defaults to 30 s.
	Features events.Features
	// Prepare adds to a message what the driver needs, for instance the group
	// that SNS keeps order by. Optional.
	Prepare func(e events.Event, m *message.Message)
	// Topic maps a topic's name to the driver's. Defaults to the same name.
	Topic func(topic string) string
	// Ensure makes a topic. Optional: most drivers make it as they first publish
	// or subscribe.
	Ensure func(ctx context.Context, topic string) error
	// Parallel is how many events of one Publish are sent at a time. Defaults to
	// 32.
	Parallel int
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
}

// SNSSQS is a Config for watermill-aws on standard topics and queues: no order,
// and now and then a copy.
func SNSSQS() *Config {
	return &Config{Features: events.Features{Name: "sns+sqs", Durable: true, MaxEvent: maxSQS, InFlight: 1}}
}

// SNSSQSFIFO is a Config for watermill-aws on FIFO topics and queues, whose names
// end in ".fifo": a key is a message group, so its events keep their order, and SNS
// drops a second copy for 5 minutes. A delivery that is retried holds up its group.
func SNSSQSFIFO() *Config {
	return &Config{
		Features: events.Features{Name: "sns+sqs fifo", Durable: true, Ordered: true, Dedupes: 5 * time.Minute, MaxEvent: maxSQS, InFlight: 1},
		Prepare: func(e events.Event, m *message.Message) {
			group := e.Key
			if group == "" {
				group = e.ID
			}
			m.Metadata.Set("MessageGroupId", digest(group))
			m.Metadata.Set("MessageDeduplicationId", digest(e.Source+"\x00"+e.ID))
		},
		Topic: func(topic string) string { return topic + ".fifo" },
	}
}

// GooglePubSub is a Config for watermill-googlecloud. Ordered is false: it takes a
// publisher and subscriptions with EnableMessageOrdering, and the marshaler made
// from [OrderingKey]; set Features.Ordered where all are so.
func GooglePubSub() *Config {
	return &Config{Features: events.Features{Name: "google pub/sub", Durable: true, MaxEvent: 7_000_000}}
}

// OrderingKey is the key that a message's order is kept by, "" for none. Give it to
// googlecloud.NewOrderingMarshaler.
func OrderingKey(_ string, m *message.Message) (string, error) { return m.Metadata.Get(metaKey), nil }

// maxSQS leaves room in SQS's 256 KiB for base64 and the envelope around it.
const maxSQS = 180_000

// Broker is an events.Broker on a Watermill driver.
type Broker struct {
	cfg        Config
	publisher  message.Publisher
	subscriber func(events.Subscription) (message.Subscriber, error)
	over       context.Context
	end        context.CancelFunc
}

var _ events.Broker = (*Broker)(nil)

// New returns a broker on a driver's publisher, and on the subscribers that
// newSubscriber makes, one for each Subscribe, which closes it at its end. The
// publisher stays the caller's.
func New(publisher message.Publisher, newSubscriber func(events.Subscription) (message.Subscriber, error), cfg *Config) (*Broker, error) {
	if publisher == nil || newSubscriber == nil || cfg == nil {
		return nil, errors.New("watermillevents: New needs a publisher, a function that makes subscribers, and a Config that says what they guarantee")
	}
	b := &Broker{cfg: *cfg, publisher: publisher, subscriber: newSubscriber}
	f := &b.cfg.Features
	if f.AckWait < 0 || f.MaxEvent < 0 || b.cfg.Parallel < 0 {
		return nil, fmt.Errorf("watermillevents: Features.AckWait %v, Features.MaxEvent %d, Parallel %d: must not be negative", f.AckWait, f.MaxEvent, b.cfg.Parallel)
	}
	if f.AckWait == 0 {
		f.AckWait = 30 * time.Second
	}
	f.NoBlocks, f.NoPending = true, true
	if b.cfg.Parallel == 0 {
		b.cfg.Parallel = 32
	}
	if b.cfg.Topic == nil {
		b.cfg.Topic = func(topic string) string { return topic }
	}
	if b.cfg.Logger == nil {
		b.cfg.Logger = slog.Default()
	}
	b.over, b.end = context.WithCancel(context.Background())
	return b, nil
}

// Features implements events.Broker.
func (b *Broker) Features() events.Features { return b.cfg.Features }

// EnsureTopics implements events.Broker by Config.Ensure.
func (b *Broker) EnsureTopics(ctx context.Context, topics ...string) error {
	for _, t := range topics {
		if err := events.ValidTopic(t); err != nil {
			return err
		}
		if b.cfg.Ensure == nil {
			continue
		}
		if err := b.cfg.Ensure(ctx, t); err != nil {
			return fmt.Errorf("watermillevents: make topic %s: %w", t, err)
		}
	}
	return nil
}

// Publish implements events.Publisher. Drivers take the context from the message,
// if at all, so a call may outlast ctx.
func (b *Broker) Publish(ctx context.Context, evs ...events.Event) error {
	if b.over.Err() != nil {
		return events.ErrClosed
	}
	errs := make([]error, len(evs))
	room := make(chan struct{}, b.cfg.Parallel)
	var wg sync.WaitGroup
	for i, e := range evs {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			errs[i] = context.Cause(ctx)
			continue
		}
		wg.Go(func() {
			defer func() { <-room }()
			errs[i] = b.send(ctx, e)
		})
	}
	wg.Wait()
	var failed []events.FailedEvent
	for i, err := range errs {
		if err != nil {
			failed = append(failed, events.FailedEvent{Index: i, ID: evs[i].ID, Err: err})
		}
	}
	if failed != nil {
		return &events.PublishError{Failed: failed}
	}
	return nil
}

func (b *Broker) send(ctx context.Context, e events.Event) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if err := e.Validate(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrRejected, err)
	}
	if n, most := size(e), b.cfg.Features.MaxEvent; most > 0 && n > most {
		return fmt.Errorf("%w: it is %d bytes large; at most %d are taken", events.ErrRejected, n, most)
	}
	m, err := encode(e)
	if err != nil {
		return fmt.Errorf("%w: %w", events.ErrRejected, err)
	}
	m.SetContext(ctx)
	if b.cfg.Prepare != nil {
		b.cfg.Prepare(e, m)
	}
	if err := b.publisher.Publish(b.cfg.Topic(e.Topic), m); err != nil {
		return fmt.Errorf("watermillevents: publish to %s: %w", e.Topic, err)
	}
	return nil
}

// Pending implements events.Broker: Watermill cannot tell.
func (b *Broker) Pending(context.Context, string) (int, error) {
	return 0, fmt.Errorf("watermillevents: pending deliveries: %w; ask the broker's metrics", errors.ErrUnsupported)
}

// Close implements events.Broker. It ends subscriptions with [events.ErrClosed].
func (b *Broker) Close() error {
	b.end()
	return nil
}
