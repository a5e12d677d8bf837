package natsevents

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/kit/events"
)

// Publish implements events.Publisher.
func (b *Broker) Publish(ctx context.Context, evs ...events.Event) error {
	_, err := b.publish(ctx, evs, func(string) error { return nil })
	return err
}

// errReconnected asks who numbers events to look at the log first.
var errReconnected = errors.New("natsevents: the connection was made anew, perhaps to a server that lost events; read the topic's StreamState first")

// unchanged returns errReconnected where the connection is another one than when
// the topic's state was last read.
func (b *Broker) unchanged(topic string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, ok := b.looked[topic]; ok && at != b.nc.Stats().Reconnects {
		return errReconnected
	}
	return nil
}

// under is a publication under way.
type under struct {
	index  int
	future jetstream.PubAckFuture
}

// PublishReceipts implements events.Log. The events of a call are sent without
// waiting for one another, at most Config.MaxPending at a time.
//
// After the connection was lost it refuses the events of a topic whose StreamState
// was read before, until that is read again: a server that came back with less
// could otherwise not be told from one that kept all, once there is something new
// in the places of what it lost.
func (b *Broker) PublishReceipts(ctx context.Context, evs ...events.Event) ([]events.Receipt, error) {
	return b.publish(ctx, evs, b.unchanged)
}

func (b *Broker) publish(ctx context.Context, evs []events.Event, check func(topic string) error) ([]events.Receipt, error) {
	if b.isClosed() {
		return nil, events.ErrClosed
	}
	receipts := make([]events.Receipt, len(evs))
	var failed []events.FailedEvent
	fail := func(i int, err error) {
		failed = append(failed, events.FailedEvent{Index: i, ID: evs[i].ID, Err: err})
	}
	var waiting []under // in the order of sending; their acks come in about the same
	collect := func() {
		u := waiting[0]
		waiting = waiting[1:]
		defer func() { <-b.room }()
		select {
		case ack := <-u.future.Ok():
			receipts[u.index] = events.Receipt{Seq: ack.Sequence, Duplicate: ack.Duplicate}
		case err := <-u.future.Err():
			fail(u.index, b.classify(ctx, evs[u.index].Topic, err))
		case <-ctx.Done():
			fail(u.index, context.Cause(ctx))
		}
	}
	for i, e := range evs {
		if err := check(e.Topic); err != nil {
			fail(i, err)
			continue
		}
		if err := b.enter(ctx, &waiting, collect); err != nil {
			fail(i, err)
			continue
		}
		future, err := b.send(e)
		if err != nil {
			<-b.room
			fail(i, b.classify(ctx, e.Topic, err))
			continue
		}
		waiting = append(waiting, under{i, future})
	}
	for len(waiting) > 0 {
		collect()
	}
	if failed != nil {
		return receipts, &events.PublishError{Failed: failed}
	}
	return receipts, nil
}

// enter takes a place for one more publication. Where there is none it first
// waits for its own oldest, so that callers never wait for each other in a ring.
func (b *Broker) enter(ctx context.Context, waiting *[]under, collect func()) error {
	for {
		select {
		case b.room <- struct{}{}:
			return nil
		default:
		}
		if len(*waiting) > 0 {
			collect()
			continue
		}
		select {
		case b.room <- struct{}{}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (b *Broker) send(e events.Event) (jetstream.PubAckFuture, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrRejected, err)
	}
	msg := &nats.Msg{Subject: subject(e), Header: encodeHeader(e), Data: e.Data}
	// The stream is named so that an event cannot end in another that happens to
	// take its subject. The library's own retry is off: it would send again
	// behind later events.
	return b.js.PublishMsgAsync(msg, jetstream.WithMsgID(e.ID), jetstream.WithExpectStream(e.Topic), jetstream.WithRetryAttempts(0))
}

// JetStream error codes that speak of the one message.
const (
	codeMessageTooLarge jetstream.ErrorCode = 10054
	codeHeaderTooLarge  jetstream.ErrorCode = 10097
)

// classify says what a failure means. A stream that has vanished is made again
// for the next attempt.
func (b *Broker) classify(ctx context.Context, topic string, err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrMaxPayload),
		errors.As(err, &api) && (api.ErrorCode == codeMessageTooLarge || api.ErrorCode == codeHeaderTooLarge):
		return fmt.Errorf("%w: %w", events.ErrRejected, err)
	case (errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)) && b.isEnsured(topic):
		if _, again := b.ensure(ctx, topic); again != nil {
			return fmt.Errorf("natsevents: topic %s: %w", topic, errors.Join(err, again))
		}
	}
	return fmt.Errorf("natsevents: topic %s: %w", topic, err)
}
