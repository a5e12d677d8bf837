// Package eventresilience applies package resilience to what publishes events,
// so that a broker has a deadline, a breaker, a bulkhead and one retry budget
// like any other destination, whoever calls it:
//
//	broker, err := natsevents.New(…)
//	relay, err := outbox.NewRelay(db, box, eventresilience.Publisher(dests, "nats", broker), nil)
//
// Publishing is safe to repeat (see [events.Publisher]). Only what was not
// acknowledged is sent again, and never what the broker refuses for good. Where
// the publisher is an [events.Log], so is the result, and the outbox relay loses
// nothing of what it can do.
//
// The outbox relay tries again by itself, for ever and with pauses of its own.
// The attempts in between cost the budget; Retry.Off for the broker's name
// leaves the relay's alone.
//
// # Errors
//
// What Publish returns is what the publisher did: a [*events.PublishError] that
// says which events were not acknowledged, or any other error where none is
// known to be. Rejections match the sentinels of package resilience.
package eventresilience

import (
	"context"
	"errors"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/resilience"
)

// Publisher makes the calls of p through the pipeline of a destination: its name
// in d, usually the broker's. The result is safe for concurrent use if p is.
func Publisher(d *resilience.Destinations, destination string, p events.Publisher) events.Publisher {
	pub := &publisher{destinations: d, name: destination, next: p}
	if log, ok := p.(events.Log); ok {
		return &logPublisher{publisher: pub, log: log}
	}
	return pub
}

type publisher struct {
	destinations *resilience.Destinations
	name         string
	next         events.Publisher
}

func (p *publisher) Publish(ctx context.Context, evs ...events.Event) error {
	return p.publish(ctx, evs, func(ctx context.Context, evs []events.Event, _ []int) error {
		return p.next.Publish(ctx, evs...)
	})
}

// publish calls send with the events that are not acknowledged yet; at says
// where each of them stands in evs.
func (p *publisher) publish(ctx context.Context, evs []events.Event, send func(ctx context.Context, evs []events.Event, at []int) error) error {
	pipeline, err := p.destinations.Get(p.name)
	if err != nil {
		return err
	}
	b := newBatch(evs)
	err = pipeline.Call(ctx, resilience.Call{Idempotent: true}, func(ctx context.Context) error {
		return b.settle(send(ctx, b.left, b.at))
	})
	return b.result(err)
}

// batch is what a call has to publish.
type batch struct {
	left    []events.Event       // not acknowledged, and not refused for good
	at      []int                // their positions
	refused []events.FailedEvent // for good
	failed  map[int]error        // the last cause, by position
}

func newBatch(evs []events.Event) *batch {
	b := &batch{left: evs, at: make([]int, len(evs)), failed: make(map[int]error)}
	for i := range evs {
		b.at[i] = i
	}
	return b
}

// settle takes what an attempt has come to, and returns what the policies are to
// think of it.
func (b *batch) settle(err error) error {
	if err == nil {
		b.left, b.at = nil, nil
		return nil
	}
	var partial *events.PublishError
	if !errors.As(err, &partial) {
		for position := range b.failed { // of which more is known by now
			b.failed[position] = err
		}
		return judge(err)
	}
	for _, f := range partial.Failed {
		if f.Index < 0 || f.Index >= len(b.left) {
			return judge(err) // it speaks of something else
		}
	}
	var left []events.Event
	var at []int
	for _, f := range partial.Failed {
		position := b.at[f.Index]
		if final(f.Err) {
			b.refused = append(b.refused, events.FailedEvent{Index: position, ID: f.ID, Err: f.Err})
			continue
		}
		left, at = append(left, b.left[f.Index]), append(at, position)
		b.failed[position] = f.Err
	}
	b.left, b.at = left, at
	if len(left) == 0 { // refusals only: the broker has answered
		return resilience.Permanent(err)
	}
	return b.failed[at[0]]
}

// result is what the caller is told: the policies' error if nothing is known of
// any event, else each event's.
func (b *batch) result(err error) error {
	if len(b.left)+len(b.refused) == 0 {
		return nil
	}
	if len(b.failed)+len(b.refused) == 0 { // nothing is known of any
		return err
	}
	all := &events.PublishError{Failed: b.refused}
	gaveUp, retried := errors.AsType[*resilience.RetryError](err)
	for i, e := range b.left {
		cause := b.failed[b.at[i]]
		if retried {
			cause = &resilience.RetryError{Attempts: gaveUp.Attempts, Cause: cause, Reason: gaveUp.Reason}
		}
		all.Failed = append(all.Failed, events.FailedEvent{Index: b.at[i], ID: e.ID, Err: cause})
	}
	return all
}

// final: another attempt changes nothing.
func final(err error) bool {
	return errors.Is(err, events.ErrRejected) || errors.Is(err, events.ErrInvalid) || errors.Is(err, events.ErrNoTopic)
}

// judge says what an error means for the broker's health.
func judge(err error) error {
	if final(err) {
		return resilience.Permanent(err)
	}
	return err
}

// logPublisher is a publisher that is a log too.
type logPublisher struct {
	*publisher
	log events.Log
}

var _ events.Log = (*logPublisher)(nil)

// PublishReceipts implements [events.Log].
func (p *logPublisher) PublishReceipts(ctx context.Context, evs ...events.Event) ([]events.Receipt, error) {
	receipts := make([]events.Receipt, len(evs))
	known := false
	err := p.publish(ctx, evs, func(ctx context.Context, evs []events.Event, at []int) error {
		got, err := p.log.PublishReceipts(ctx, evs...)
		for i, r := range got {
			if i < len(at) && r != (events.Receipt{}) {
				receipts[at[i]], known = r, true
			}
		}
		return err
	})
	if err != nil && !known {
		return nil, err
	}
	return receipts, err
}

// StreamState implements [events.Log].
func (p *logPublisher) StreamState(ctx context.Context, topic string) (events.StreamState, error) {
	pipeline, err := p.destinations.Get(p.name)
	if err != nil {
		return events.StreamState{}, err
	}
	return resilience.Do(resilience.Idempotent(ctx), pipeline, func(ctx context.Context) (events.StreamState, error) {
		state, err := p.log.StreamState(ctx, topic)
		return state, judge(err)
	})
}
