package instrument

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/saga"
)

// Saga sees a coordinator: for saga.Config.Hooks. The trace of a saga is that of its
// start, on whatever node and however late a step runs; calls get a span, and so does
// the end of each step and of the saga.
//
// Calls are also told apart for package resilience: an attempt of a saga is not retried
// below, since the saga itself tries again, and from the pivot on it is CRITICAL_PLUS.
func (i *Instruments) Saga() saga.Hooks {
	return saga.Hooks{
		Inject: func(ctx context.Context, carrier map[string]string) {
			i.propagator.Inject(ctx, propagation.MapCarrier(carrier))
		},
		Extract: func(ctx context.Context, carrier map[string]string) context.Context {
			return i.propagator.Extract(ctx, propagation.MapCarrier(carrier))
		},
		Started: func(ctx context.Context, n saga.Info) { i.sagaStarted.Add(ctx, 1, with(str(AttrSaga, n.Saga))) },
		StepEnded: func(ctx context.Context, n saga.Info) {
			i.sagaSteps.Add(ctx, 1, with(str(AttrSaga, n.Saga), str(AttrStep, n.Step), str(AttrPhase, string(n.Phase)), str(AttrOutcome, n.Outcome)))
			i.mark(ctx, "saga "+n.Saga+" "+n.Step+" "+string(n.Phase), n, str(AttrOutcome, n.Outcome))
		},
		Compensating: func(ctx context.Context, n saga.Info) { i.mark(ctx, "saga "+n.Saga+" compensating", n) },
		Completed:    func(ctx context.Context, n saga.Info) { i.sagaEnded(ctx, n, "completed") },
		Compensated:  func(ctx context.Context, n saga.Info) { i.sagaEnded(ctx, n, "compensated") },
		Stuck: func(ctx context.Context, n saga.Info) {
			i.sagaStuck.Add(ctx, 1, with(str(AttrSaga, n.Saga), str(AttrStep, n.Step)))
			i.mark(ctx, "saga "+n.Saga+" stuck", n)
		},
		Fenced: func(ctx context.Context, n saga.Info) {
			i.sagaFenced.Add(ctx, 1, with(str(AttrSaga, n.Saga), str(AttrStep, n.Step)))
		},
		Call: func(ctx context.Context, n saga.Info, kind saga.Kind) (context.Context, func(error)) {
			ctx = resilience.NoRetry(ctx)
			if kind != saga.Compensatable {
				ctx = resilience.WithCriticality(ctx, resilience.CriticalPlus)
			}
			ctx, span := i.tracer.Start(ctx, "saga call "+n.Step+" "+string(n.Phase), trace.WithAttributes(sagaAttrs(ctx, n)...))
			return ctx, func(err error) { end(span, err) }
		},
	}
}

func (i *Instruments) sagaEnded(ctx context.Context, n saga.Info, how string) {
	i.sagaDuration.Record(ctx, n.Age.Seconds(), with(str(AttrSaga, n.Saga), str(AttrOutcome, how)))
	i.mark(ctx, "saga "+n.Saga+" "+how, n)
}

// mark puts a moment into the saga's trace, as a span without length: its steps run in
// other processes, or long after the span that started it has ended. A moment of no
// known trace is left out: alone it would tell nothing.
func (i *Instruments) mark(ctx context.Context, name string, n saga.Info, more ...attr) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return
	}
	_, span := i.tracer.Start(ctx, name, trace.WithAttributes(append(sagaAttrs(ctx, n), more...)...))
	if n.Err != nil {
		span.SetStatus(codes.Error, n.Err.Error())
	}
	span.End()
}

func sagaAttrs(ctx context.Context, n saga.Info) []attr {
	attrs := append(identifiers(ctx), str(AttrSaga, n.Saga), str(AttrSagaID, n.ID))
	if n.Step != "" {
		attrs = append(attrs, str(AttrStep, n.Step), str(AttrPhase, string(n.Phase)))
	}
	if n.Cause.Kind != "" {
		attrs = append(attrs, str(AttrReason, string(n.Cause.Kind)))
	}
	return attrs
}
