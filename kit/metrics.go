package kit

import (
	"context"
	"errors"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The metrics that a service records of itself, beside OpenTelemetry's of its servers
// and clients and those of package telemetry/instrument.
const (
	// MetricInFlight is the number of requests being served.
	MetricInFlight = "napkin.server.in_flight"
	// MetricReady is 1 for each readiness check that passed last, else 0.
	MetricReady = "napkin.ready"
)

// observe reports the service's state with each collection, until it is closed.
func (s *Service) observe() error {
	meter := s.tel.MeterProvider().Meter("github.com/napkin-kit/napkin/kit")
	inFlight, err1 := meter.Int64ObservableGauge(MetricInFlight, metric.WithUnit("{request}"), metric.WithDescription("Requests being served."))
	ready, err2 := meter.Int64ObservableGauge(MetricReady, metric.WithDescription("Readiness by check: 1 where it passed last."))
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("kit: %w", err)
	}
	own, err := meter.RegisterCallback(func(_ context.Context, obs metric.Observer) error {
		obs.ObserveInt64(inFlight, s.inFlight.Load())
		for _, r := range s.checks.latest() {
			v := int64(0)
			if r.OK {
				v = 1
			}
			obs.ObserveInt64(ready, v, metric.WithAttributes(attribute.String("napkin.check", r.Name)))
		}
		return nil
	}, inFlight, ready)
	if err != nil {
		return fmt.Errorf("kit: %w", err)
	}
	s.OnClose("metrics", func(context.Context) error { return own.Unregister() })
	for _, observe := range []func() (func(), error){
		func() (func(), error) { return s.ins.ObserveDestinations(s.destinations) },
		func() (func(), error) { return s.ins.ObserveShedder(s.shedder) },
	} {
		stop, err := observe()
		if err != nil {
			return fmt.Errorf("kit: %w", err)
		}
		s.OnClose("metrics", func(context.Context) error { stop(); return nil })
	}
	return nil
}
