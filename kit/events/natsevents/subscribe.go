package natsevents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/kit/events"
)

// Subscribe implements events.Subscriber. Streams that do not exist are made.
func (b *Broker) Subscribe(ctx context.Context, s events.Subscription, deliver func(context.Context, events.Delivery)) error {
	if err := s.Validate(); err != nil {
		return fmt.Errorf("natsevents: %w", err)
	}
	if b.isClosed() {
		return events.ErrClosed
	}
	var one sync.Mutex // one call of deliver at a time, whichever the topic
	var wg sync.WaitGroup
	for _, topic := range s.Topics {
		wg.Go(func() {
			b.follow(ctx, s, topic, func(d events.Delivery) {
				one.Lock()
				defer one.Unlock()
				deliver(ctx, d)
			})
		})
	}
	wg.Wait()
	return nil
}

// follow receives one topic until ctx ends, in runs: a run ends with the
// connection it began on, or when the server no longer knows the consumer.
func (b *Broker) follow(ctx context.Context, s events.Subscription, topic string, deliver func(events.Delivery)) {
	failures := 0
	for ctx.Err() == nil {
		err := b.run(ctx, s, topic, deliver)
		if ctx.Err() != nil {
			return
		}
		wait := time.Duration(0)
		if err != nil {
			wait = min(50*time.Millisecond<<min(failures, 10), 2*time.Second)
			failures++
			b.cfg.Logger.WarnContext(ctx, "natsevents: receiving was interrupted, starting again", "consumer", durable(s.Group, s.Block), "topic", topic, "error", err)
		} else {
			failures = 0
		}
		pause(ctx, wait)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// run receives on one connection. nil means that it began and the connection
// changed.
func (b *Broker) run(ctx context.Context, s events.Subscription, topic string, deliver func(events.Delivery)) error {
	connection := b.nc.Stats().Reconnects
	c, last, err := b.consumer(ctx, s, topic)
	if err != nil {
		return err
	}
	over := make(chan error, 1)
	end := func(err error) {
		select {
		case over <- err:
		default:
		}
	}
	var mu sync.Mutex // guards stopped, and with it deliver
	stopped := false
	handler := func(m jetstream.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if stopped {
			return
		}
		if b.nc.Stats().Reconnects != connection {
			// What the server sent before may be lost; this would overtake it.
			stopped = true
			end(nil)
			return
		}
		md, err := m.Metadata()
		if err == nil && md.Sequence.Consumer != last+1 {
			err = fmt.Errorf("natsevents: delivery %d of consumer %s on %s followed delivery %d; another subscriber took what is between them", md.Sequence.Consumer, durable(s.Group, s.Block), topic, last)
		}
		if err != nil {
			stopped = true // what was taken would be overtaken
			end(err)
			return
		}
		last++
		d := newDelivery(m, topic, md)
		d.late = func() bool { return b.nc.Stats().Reconnects != connection }
		if d.err == nil && len(s.Types) > 0 && !slices.Contains(s.Types, d.event.Type) {
			_ = d.msg.Ack() // not wanted; see maxFilters
			return
		}
		deliver(d)
	}
	consuming, err := c.Consume(handler,
		// The server holds back at MaxAckPending, so nothing piles up here. A pull
		// is answered with what there is, never held to fill a batch.
		jetstream.PullMaxMessages(min(s.InFlight(), 500)),
		jetstream.PullExpiry(pullExpiry),
		jetstream.PullHeartbeat(pullExpiry/2),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { end(err) }))
	if err != nil {
		return fmt.Errorf("natsevents: consume %s: %w", topic, err)
	}
	select {
	case err = <-over:
	case <-consuming.Closed():
		err = errors.New("natsevents: the consumer was closed")
	case <-ctx.Done():
	}
	mu.Lock()
	stopped = true // from here on no delivery, whatever is still on its way
	mu.Unlock()
	consuming.Stop()
	<-consuming.Closed()
	return err
}

// pullExpiry is how long a pull stands at the server: how long a subscriber that
// was stopped, or cut off, still takes events from its successor.
const pullExpiry = 6 * time.Second

// consumer finds or makes the durable consumer and sets it back to the oldest
// event that was not acknowledged. last is the number of its latest delivery.
func (b *Broker) consumer(ctx context.Context, s events.Subscription, topic string) (c jetstream.Consumer, last uint64, err error) {
	if _, err := b.ensure(ctx, topic); err != nil {
		return nil, 0, err
	}
	rctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	name := durable(s.Group, s.Block)
	cfg := jetstream.ConsumerConfig{
		Durable:       name,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       b.cfg.AckWait,
		MaxAckPending: s.InFlight(),
		MaxDeliver:    -1, // the inbox counts failures; the server's number counts crashes too
		DeliverPolicy: jetstream.DeliverAllPolicy,
	}
	if f := filters(s, topic); len(f) > 1 || f[0] != topic+".*.>" {
		cfg.FilterSubjects = f
	}
	c, err = b.createOrUpdate(rctx, s, topic, cfg)
	if err != nil {
		return nil, 0, fmt.Errorf("natsevents: consumer %s of topic %s: %w", name, topic, err)
	}
	info, err := b.alone(ctx, c)
	if err != nil {
		return nil, 0, fmt.Errorf("natsevents: consumer %s of topic %s: %w", name, topic, err)
	}
	if info.NumAckPending == 0 {
		return c, info.Delivered.Consumer, nil
	}
	rctx, cancel = context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	reset, err := b.js.ResetConsumer(rctx, topic, name)
	if err == nil {
		return c, reset.Delivered.Consumer, nil
	}
	if !b.nc.IsConnected() || ctx.Err() != nil {
		return nil, 0, fmt.Errorf("natsevents: reset consumer %s of topic %s: %w", name, topic, err)
	}
	b.cfg.Logger.WarnContext(ctx, "natsevents: the server cannot reset a consumer (2.14 or newer can), waiting for AckWait instead",
		"consumer", name, "topic", topic, "wait", b.cfg.AckWait, "error", err)
	pause(ctx, b.cfg.AckWait)
	return c, info.Delivered.Consumer, nil
}

// createOrUpdate makes the consumer what cfg says. The updated one keeps its
// position; a new one starts where the group was, whichever its blocks.
func (b *Broker) createOrUpdate(ctx context.Context, s events.Subscription, topic string, cfg jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	c, err := b.js.Consumer(ctx, topic, cfg.Durable)
	switch {
	case err == nil:
		old := c.CachedInfo().Config
		cfg.DeliverPolicy, cfg.OptStartSeq = old.DeliverPolicy, old.OptStartSeq // cannot be changed
		if old.AckWait != cfg.AckWait || old.MaxAckPending != cfg.MaxAckPending || !sameFilters(old, cfg) {
			c, err = b.js.UpdateConsumer(ctx, topic, cfg)
		}
	case errors.Is(err, jetstream.ErrConsumerNotFound):
		var all map[events.Block]*jetstream.ConsumerInfo
		if all, err = b.consumers(ctx, topic, s.Group); err != nil {
			return nil, err
		}
		if from := start(all, s.Block); from > 1 {
			cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, from
		}
		c, err = b.js.CreateConsumer(ctx, topic, cfg)
	}
	if err != nil {
		return nil, err
	}
	return c, b.retire(ctx, topic, s.Group, s.Block)
}

// sameFilters compares filters; the server keeps a single one elsewhere.
func sameFilters(a, b jetstream.ConsumerConfig) bool {
	list := func(c jetstream.ConsumerConfig) []string {
		f := slices.Clone(c.FilterSubjects)
		if c.FilterSubject != "" {
			f = append(f, c.FilterSubject)
		}
		slices.Sort(f)
		return f
	}
	return slices.Equal(list(a), list(b))
}

// alone waits until no pull of another subscriber is left at the server. One that
// ended has taken its pulls with it; those of one that was stopped expire.
func (b *Broker) alone(ctx context.Context, c jetstream.Consumer) (*jetstream.ConsumerInfo, error) {
	until := time.Now().Add(pullExpiry + time.Second)
	for {
		rctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
		info, err := c.Info(rctx)
		cancel()
		if err != nil {
			return nil, err
		}
		switch {
		case info.NumWaiting == 0:
			return info, nil
		case !time.Now().Before(until):
			return nil, errors.New("another subscriber goes on asking for its events; a group has one at a time")
		}
		pause(ctx, 100*time.Millisecond)
	}
}

// delivery is a JetStream message as an events.Delivery.
type delivery struct {
	msg     jetstream.Msg
	event   events.Event
	err     error
	attempt int
	// late tells that the connection is another one: the server may have lost the
	// event, and would take an answer for one to the event that has its place now.
	late func() bool
}

// errLate leaves the event to be delivered again, as everything unanswered is then.
var errLate = errors.New("natsevents: the delivery is of an earlier connection")

func newDelivery(m jetstream.Msg, topic string, md *jetstream.MsgMetadata) *delivery {
	d := &delivery{msg: m, attempt: int(min(md.NumDelivered, 1<<30))} //nolint:gosec // bounded
	d.event, d.err = decode(topic, m.Headers(), m.Data())
	return d
}

func (d *delivery) Event() events.Event              { return d.event }
func (d *delivery) Err() error                       { return d.err }
func (d *delivery) Attempt() int                     { return d.attempt }
func (d *delivery) Ack(context.Context) error        { return d.answer(d.msg.Ack) }
func (d *delivery) InProgress(context.Context) error { return d.answer(d.msg.InProgress) }

func (d *delivery) answer(send func() error) error {
	if d.late() {
		return errLate
	}
	return send()
}

func (d *delivery) Retry(_ context.Context, after time.Duration) error {
	if d.late() {
		return errLate
	}
	if after <= 0 {
		return d.msg.Nak()
	}
	return d.msg.NakWithDelay(after)
}
