package instrument

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/kit/correlation"
)

const scope = "github.com/napkin-kit/napkin/telemetry/instrument"

// Source is what hooks report to; *telemetry.Telemetry is one.
type Source interface {
	TracerProvider() trace.TracerProvider
	MeterProvider() metric.MeterProvider
	Propagator() propagation.TextMapPropagator
}

// Instruments makes hooks. It is safe for concurrent use, and so are the hooks; the
// same ones may serve several consumers, relays and coordinators of a service.
type Instruments struct {
	tracer     trace.Tracer
	meter      metric.Meter
	propagator propagation.TextMapPropagator

	publish, process, eventAge, sagaDuration                            metric.Float64Histogram
	publishFailed, republish, duplicates, deadLetters, parked, redriven metric.Int64Counter
	sagaStarted, sagaStuck, sagaSteps, sagaFenced                       metric.Int64Counter
	calls, retries, gaveUp, rejected, hedges, shed                      metric.Int64Counter
	breaker                                                             metric.Int64Gauge
	callOptions                                                         callOptions
}

// Buckets of durations, in seconds: work within a process, and what takes longer.
var (
	short = metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10)
	long  = metric.WithExplicitBucketBoundaries(.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
)

// New prepares the instruments. It fails only where the meter provider refuses one.
func New(src Source) (*Instruments, error) {
	i := &Instruments{
		tracer: src.TracerProvider().Tracer(scope), meter: src.MeterProvider().Meter(scope), propagator: src.Propagator(),
	}
	var errs []error
	histogram := func(into *metric.Float64Histogram, name, what string, buckets metric.HistogramOption) {
		h, err := i.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), buckets)
		*into, errs = h, append(errs, err)
	}
	counter := func(into *metric.Int64Counter, name, unit, what string) {
		c, err := i.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		*into, errs = c, append(errs, err)
	}
	histogram(&i.publish, MetricPublish, "From an event's append to the broker's acknowledgement.", short)
	histogram(&i.process, MetricProcess, "One attempt to handle an event.", short)
	histogram(&i.eventAge, MetricEventAge, "Age of an event when its effect was committed.", long)
	histogram(&i.sagaDuration, MetricSagaDuration, "From a saga's start to its end.", long)
	counter(&i.publishFailed, MetricPublishFailed, "{event}", "Publishes that the broker did not acknowledge.")
	counter(&i.republish, MetricRepublish, "{republish}", "Times that a broker's lost log was published again.")
	counter(&i.duplicates, MetricDuplicates, "{event}", "Redeliveries that the inbox recognised.")
	counter(&i.deadLetters, MetricDeadLetters, "{event}", "Events that were dead-lettered.")
	counter(&i.parked, MetricParked, "{event}", "Events that joined the list behind a dead letter.")
	counter(&i.redriven, MetricRedriven, "{event}", "Events that were handled after a redrive.")
	counter(&i.sagaStarted, MetricSagaStarted, "{saga}", "Sagas begun.")
	counter(&i.sagaStuck, MetricSagaStuck, "{saga}", "Times that a saga came to need an operator.")
	counter(&i.sagaSteps, MetricSagaSteps, "{attempt}", "Ended attempts of saga steps.")
	counter(&i.sagaFenced, MetricSagaFenced, "{attempt}", "Outcomes refused from a node that had lost the saga.")
	counter(&i.calls, MetricCalls, "{call}", "Calls to a destination.")
	counter(&i.retries, MetricRetries, "{retry}", "Retries.")
	counter(&i.gaveUp, MetricGaveUp, "{call}", "Retries that were due and not made.")
	counter(&i.rejected, MetricRejected, "{attempt}", "Attempts refused by a policy of this process.")
	counter(&i.hedges, MetricHedges, "{attempt}", "Attempts started beside a slow one.")
	counter(&i.shed, MetricShed, "{request}", "Requests dropped under overload.")
	gauge, err := i.meter.Int64Gauge(MetricBreaker, metric.WithDescription("Breaker state: 0 closed, 1 half-open, 2 open."))
	i.breaker, errs = gauge, append(errs, err)
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("instrument: %w", err)
	}
	return i, nil
}

func str(name, value string) attribute.KeyValue { return attribute.String(name, value) }

func with(attrs ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(attrs...)
}

// identifiers are the span attributes that every span of this package has.
func identifiers(ctx context.Context) []attribute.KeyValue {
	ids := correlation.From(ctx)
	attrs := make([]attribute.KeyValue, 0, 3)
	for _, a := range [...]struct{ name, value string }{
		{AttrCorrelationID, ids.CorrelationID}, {AttrCausationID, ids.CausationID}, {"enduser.id", ids.UserID},
	} {
		if a.value != "" {
			attrs = append(attrs, str(a.name, a.value))
		}
	}
	return attrs
}

// end ends a span with an error's text. Errors of this module hold no secrets.
func end(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
