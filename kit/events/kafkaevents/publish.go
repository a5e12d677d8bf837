package kafkaevents

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/napkin-kit/napkin/kit/events"
)

// Publish implements events.Publisher. What the cluster has not acknowledged
// within Config.Timeout is reported as failed, and may be stored all the same.
func (b *Broker) Publish(ctx context.Context, evs ...events.Event) error {
	if b.isClosed() {
		return events.ErrClosed
	}
	errs := b.produce(ctx, evs)
	if len(evs) > 1 {
		// A topic whose max.message.bytes is too small refuses a whole batch for
		// the sake of one event. Alone, each answers for itself.
		for i, err := range errs {
			if tooLarge(err) && errors.Is(err, errServer) {
				errs[i] = b.produce(ctx, evs[i:i+1])[0]
			}
		}
	}
	var failed []events.FailedEvent
	for i, err := range errs {
		if err != nil {
			failed = append(failed, events.FailedEvent{Index: i, ID: evs[i].ID, Err: classify(evs[i].Topic, err)})
		}
	}
	if failed != nil {
		return &events.PublishError{Failed: failed}
	}
	return nil
}

// errServer marks what the cluster itself answered, or the client in its place.
var errServer = errors.New("not acknowledged")

// produce sends the events and returns an error for each that was not
// acknowledged.
func (b *Broker) produce(ctx context.Context, evs []events.Event) []error {
	// What is still unsent when this returns is dropped with its context. What
	// was sent, the client follows up, and keeps everything later behind it.
	ctx, cancel := context.WithTimeoutCause(ctx, b.cfg.Timeout, fmt.Errorf("no acknowledgement within %v", b.cfg.Timeout))
	defer cancel()
	errs := make([]error, len(evs))
	type ack struct {
		index int
		err   error
	}
	acks := make(chan ack, len(evs))
	open := make(map[int]bool, len(evs))
	gone := make(map[string]bool)
	defer func() {
		for name := range gone { // the client holds on to the topic that it knew
			b.client.PurgeTopicsFromProducing(name)
		}
	}()
	for i, e := range evs {
		r, err := b.record(ctx, e)
		if err != nil {
			errs[i] = err
			continue
		}
		open[i] = true
		b.client.Produce(ctx, r, func(_ *kgo.Record, err error) { acks <- ack{i, err} })
	}
	for len(open) > 0 {
		select {
		case a := <-acks:
			delete(open, a.index)
			if a.err != nil {
				errs[a.index] = fmt.Errorf("%w: %w", errServer, a.err)
				b.forget(evs[a.index].Topic)
				if errors.Is(a.err, kerr.UnknownTopicID) || errors.Is(a.err, kerr.UnknownTopicOrPartition) {
					gone[evs[a.index].Topic] = true
				}
			}
		case <-ctx.Done():
			for i := range open {
				errs[i] = context.Cause(ctx)
				b.forget(evs[i].Topic)
			}
			return errs
		}
	}
	return errs
}

func (b *Broker) record(ctx context.Context, e events.Event) (*kgo.Record, error) {
	if err := e.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", events.ErrRejected, err)
	}
	r, size := encode(e)
	if size > b.cfg.MaxEvent {
		return nil, fmt.Errorf("%w: it is %d bytes large; at most %d are taken (Config.MaxEvent)", events.ErrRejected, size, b.cfg.MaxEvent)
	}
	t, err := b.known(ctx, e.Topic)
	if err != nil {
		return nil, err
	}
	r.Partition = t.of(e.Partition())
	return r, nil
}

func tooLarge(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.RecordListTooLarge)
}

// classify says what a failure means.
func classify(topic string, err error) error {
	switch {
	case tooLarge(err) || errors.Is(err, kerr.InvalidRecord):
		return fmt.Errorf("%w: %w", events.ErrRejected, err)
	case errors.Is(err, kgo.ErrClientClosed):
		return fmt.Errorf("%w: %w", events.ErrClosed, err)
	}
	return fmt.Errorf("kafkaevents: publish to %s: %w", topic, err)
}
