package instrument

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
)

// W3C names, which CloudEvents' distributed tracing extension shares.
const (
	traceParent = "traceparent"
	traceState  = "tracestate"
)

// Events writes the trace context into events and reads it back: for
// outbox.Config.Hooks and inbox.ConsumerConfig.EventHooks.
func (i *Instruments) Events() events.Hooks {
	return events.Hooks{Inject: i.inject, Extract: i.extract}
}

func (i *Instruments) inject(ctx context.Context, e *events.Event) {
	carrier := propagation.MapCarrier{}
	i.propagator.Inject(ctx, carrier)
	e.TraceParent, e.TraceState = carrier[traceParent], carrier[traceState]
}

func (i *Instruments) extract(ctx context.Context, e events.Event) context.Context {
	if e.TraceParent == "" {
		return ctx
	}
	return i.propagator.Extract(ctx, propagation.MapCarrier{traceParent: e.TraceParent, traceState: e.TraceState})
}

// Relay sees an outbox's relay: for outbox.RelayConfig.Hooks. Each event gets a span
// that begins with its append and ends with the broker's acknowledgement, so that a
// trace shows how long it waited.
func (i *Instruments) Relay() outbox.RelayHooks {
	return outbox.RelayHooks{
		AfterPublish: func(ctx context.Context, e events.Event) {
			ctx = i.extract(ctx, e) // for the exemplar too
			i.publish.Record(ctx, time.Since(e.Time).Seconds(), with(str("messaging.destination.name", e.Topic)))
			_, span := i.tracer.Start(ctx, "publish "+e.Topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(e.Time))
			if span.IsRecording() {
				span.SetAttributes(eventAttrs("publish", e)...)
			}
			span.End()
		},
		PublishFailed: func(ctx context.Context, e events.Event, _ error) {
			i.publishFailed.Add(i.extract(ctx, e), 1, with(str("messaging.destination.name", e.Topic)))
		},
		Republish: func(ctx context.Context, topic string, _ events.Block) {
			i.republish.Add(ctx, 1, with(str("messaging.destination.name", topic)))
		},
	}
}

// Consumer sees an inbox's consumer: for inbox.ConsumerConfig.Hooks. Each attempt gets
// a span that continues the event's trace.
func (i *Instruments) Consumer() inbox.Hooks {
	named := func(consumer string, e events.Event) (consumerAttr, topic, typ attr) {
		return str("messaging.consumer.group.name", consumer), str("messaging.destination.name", e.Topic), str(AttrEventType, e.Type)
	}
	return inbox.Hooks{
		Around: func(ctx context.Context, consumer string, e events.Event) (context.Context, func(error)) {
			start := time.Now()
			ctx, span := i.tracer.Start(ctx, "process "+e.Topic, trace.WithSpanKind(trace.SpanKindConsumer))
			if span.IsRecording() {
				span.SetAttributes(eventAttrs("process", e)...)
				span.SetAttributes(str("messaging.consumer.group.name", consumer))
			}
			return ctx, func(err error) {
				c, topic, typ := named(consumer, e)
				i.process.Record(ctx, time.Since(start).Seconds(), with(c, topic, typ, str(AttrOutcome, outcome(err))))
				end(span, err)
			}
		},
		AfterCommit: func(ctx context.Context, consumer string, e events.Event) {
			c, topic, typ := named(consumer, e)
			i.eventAge.Record(ctx, time.Since(e.Time).Seconds(), with(c, topic, typ))
		},
		Duplicate: func(ctx context.Context, consumer string, e events.Event) {
			c, topic, typ := named(consumer, e)
			i.duplicates.Add(ctx, 1, with(c, topic, typ))
		},
		DeadLettered: func(ctx context.Context, consumer string, e events.Event, _ error) {
			c, topic, typ := named(consumer, e)
			i.deadLetters.Add(ctx, 1, with(c, topic, typ))
		},
		Parked: func(ctx context.Context, consumer string, e events.Event) {
			c, topic, typ := named(consumer, e)
			i.parked.Add(ctx, 1, with(c, topic, typ))
		},
		Redriven: func(ctx context.Context, consumer string, e events.Event) {
			c, topic, typ := named(consumer, e)
			i.redriven.Add(ctx, 1, with(c, topic, typ))
		},
	}
}

// eventAttrs describes an event on a span. The identifiers are the event's own: a
// relay's context has none.
func eventAttrs(operation string, e events.Event) []attr {
	attrs := []attr{
		str("messaging.operation.name", operation), str("messaging.destination.name", e.Topic),
		str("messaging.message.id", e.ID), str(AttrEventType, e.Type),
	}
	for _, a := range [...]struct{ name, value string }{
		{AttrCorrelationID, e.CorrelationID}, {AttrCausationID, e.CausationID}, {"enduser.id", e.UserID},
	} {
		if a.value != "" {
			attrs = append(attrs, str(a.name, a.value))
		}
	}
	return attrs
}

func outcome(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}
