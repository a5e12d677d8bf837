package instrument

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/resilience"
)

type attr = attribute.KeyValue

// callOptions keeps the attributes of MetricCalls by destination and outcome: they are
// recorded with every call, and making them anew would cost more than the rest of it.
type callOptions struct{ known sync.Map }

type callKey struct{ destination, outcome string }

func (c *callOptions) of(destination, outcome string) []metric.AddOption {
	key := callKey{destination, outcome}
	if v, ok := c.known.Load(key); ok {
		return v.([]metric.AddOption)
	}
	opts := []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(str(AttrDestination, destination), str(AttrOutcome, outcome)))}
	v, _ := c.known.LoadOrStore(key, opts)
	return v.([]metric.AddOption)
}

// Resilience sees pipelines: for resilience.DestinationsConfig.Hooks and
// resilience.Config.Hooks. What a call went through also shows as events on the span of
// its context. Give it to destinations that are few and named by configuration, not by
// callers: each becomes a label.
func (i *Instruments) Resilience() *resilience.Hooks {
	return &resilience.Hooks{
		Done: func(ctx context.Context, name string, _ int, err error) {
			i.calls.Add(ctx, 1, i.callOptions.of(name, callOutcome(err))...)
		},
		Retry: func(ctx context.Context, name string, attempt int, delay time.Duration, cause error) {
			i.retries.Add(ctx, 1, with(str(AttrDestination, name)))
			event(ctx, "retry", attribute.Int("napkin.attempt", attempt), str("napkin.delay", delay.String()), str("error", cause.Error()))
		},
		GaveUp: func(ctx context.Context, name string, attempts int, reason, _ error) {
			i.gaveUp.Add(ctx, 1, with(str(AttrDestination, name), str(AttrReason, reasonOf(reason))))
			event(ctx, "gave up", attribute.Int("napkin.attempt", attempts), str(AttrReason, reasonOf(reason)))
		},
		Rejected: func(ctx context.Context, name string, r *resilience.Rejection) {
			i.rejected.Add(ctx, 1, with(str(AttrDestination, name), str(AttrPolicy, r.Policy)))
			event(ctx, "rejected", str(AttrPolicy, r.Policy))
		},
		BreakerState: func(name string, _, to resilience.BreakerState) {
			i.breaker.Record(context.Background(), int64(to), with(str(AttrDestination, name)))
		},
		Hedged: func(ctx context.Context, name string, attempt int) {
			i.hedges.Add(ctx, 1, with(str(AttrDestination, name)))
			event(ctx, "hedged", attribute.Int("napkin.attempt", attempt))
		},
	}
}

// Shedder sees a shedder: for resilience.ShedderConfig.Hooks.
func (i *Instruments) Shedder() *resilience.ShedderHooks {
	return &resilience.ShedderHooks{Shed: func(ctx context.Context, c resilience.Criticality, reason string) {
		i.shed.Add(ctx, 1, with(str(AttrCriticality, c.String()), str(AttrReason, reason)))
		event(ctx, "shed", str(AttrReason, reason))
	}}
}

func event(ctx context.Context, name string, attrs ...attr) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.AddEvent(name, trace.WithAttributes(attrs...))
	}
}

func callOutcome(err error) string {
	switch {
	case err == nil:
		return "ok"
	case resilience.IsLocalRejection(err):
		return "rejected"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "error"
}

func reasonOf(err error) string {
	if _, ok := errors.AsType[*resilience.Rejection](err); ok {
		return "rejected"
	}
	switch {
	case errors.Is(err, resilience.ErrBudgetExhausted):
		return "budget"
	case errors.Is(err, resilience.ErrAttemptsExhausted):
		return "attempts"
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case errors.Is(err, context.Canceled):
		return "canceled"
	}
	return "other"
}
