package instrument

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/resilience"
)

// observers makes a group of gauges that one callback fills.
type observers struct {
	i    *Instruments
	all  []metric.Observable
	errs []error
}

func (o *observers) gauge(name, unit, what string) metric.Int64ObservableGauge {
	g, err := o.i.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(what))
	o.all, o.errs = append(o.all, g), append(o.errs, err)
	return g
}

func (o *observers) seconds(name, what string) metric.Float64ObservableGauge {
	g, err := o.i.meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(what))
	o.all, o.errs = append(o.all, g), append(o.errs, err)
	return g
}

func (o *observers) register(fn metric.Callback) (stop func(), err error) {
	if err := errors.Join(o.errs...); err != nil {
		return nil, fmt.Errorf("instrument: %w", err)
	}
	r, err := o.i.meter.RegisterCallback(fn, o.all...)
	if err != nil {
		return nil, fmt.Errorf("instrument: %w", err)
	}
	return func() { _ = r.Unregister() }, nil // the SDK's never fails
}

// ObserveBacklog reports an outbox's backlog with each collection, as read returns it:
// Relay.Backlog, or outbox.ReadBacklog where no relay runs. stop ends it.
func (i *Instruments) ObserveBacklog(read func(context.Context) (outbox.Backlog, error)) (stop func(), err error) {
	o := observers{i: i}
	unpublished := o.gauge(MetricBacklog, "{event}", "Events committed and not yet published.")
	holes := o.gauge(MetricHoles, "{hole}", "Ranges of ids passed that a running transaction may fill.")
	oldest := o.seconds(MetricOldest, "Age of the oldest unpublished event.")
	return o.register(func(ctx context.Context, obs metric.Observer) error {
		b, err := read(ctx)
		if err != nil {
			return fmt.Errorf("instrument: outbox backlog: %w", err)
		}
		age := 0.0
		if !b.Oldest.IsZero() {
			age = max(time.Since(b.Oldest).Seconds(), 0)
		}
		obs.ObserveInt64(unpublished, int64(b.Unpublished))
		obs.ObserveInt64(holes, int64(b.OpenHoles))
		obs.ObserveFloat64(oldest, age)
		return nil
	})
}

// ObserveSagas reports the number of unfinished sagas with each collection, as pending
// returns it: Coordinator.Pending. stop ends it.
func (i *Instruments) ObserveSagas(pending func(context.Context) (int, error)) (stop func(), err error) {
	o := observers{i: i}
	gauge := o.gauge(MetricSagasPending, "{saga}", "Sagas that have not ended.")
	return o.register(func(ctx context.Context, obs metric.Observer) error {
		n, err := pending(ctx)
		if err != nil {
			return fmt.Errorf("instrument: pending sagas: %w", err)
		}
		obs.ObserveInt64(gauge, int64(n))
		return nil
	})
}

// ObserveDestinations reports the state of each destination's pipeline with each
// collection. stop ends it.
func (i *Instruments) ObserveDestinations(d *resilience.Destinations) (stop func(), err error) {
	o := observers{i: i}
	budget := o.gauge(MetricBudget, "{retry}", "Retries that could be made now.")
	inFlight := o.gauge(MetricInFlight, "{call}", "Calls that hold a permit of the bulkhead.")
	waiting := o.gauge(MetricWaiting, "{call}", "Calls that wait for a permit of the bulkhead.")
	return o.register(func(_ context.Context, obs metric.Observer) error {
		for _, s := range d.Snapshot() {
			name := with(str(AttrDestination, s.Name))
			obs.ObserveInt64(budget, int64(s.Budget), name)
			obs.ObserveInt64(inFlight, int64(s.InFlight), name)
			obs.ObserveInt64(waiting, int64(s.Waiting), name)
		}
		return nil
	})
}

// ObserveShedder reports a shedder's limit and use with each collection. stop ends it.
func (i *Instruments) ObserveShedder(s *resilience.Shedder) (stop func(), err error) {
	o := observers{i: i}
	limit := o.gauge(MetricShedLimit, "{request}", "Requests that may be in service at once.")
	inFlight := o.gauge(MetricShedInFlight, "{request}", "Requests in service.")
	return o.register(func(_ context.Context, obs metric.Observer) error {
		now := s.Snapshot()
		obs.ObserveInt64(limit, int64(now.Limit))
		obs.ObserveInt64(inFlight, int64(now.InFlight))
		return nil
	})
}

// ObservePool reports a database pool with each collection; name tells pools apart,
// such as "write" and "read". stop ends it.
func (i *Instruments) ObservePool(name string, db *sql.DB) (stop func(), err error) {
	o := observers{i: i}
	count := o.gauge(MetricPool, "{connection}", "Connections of the pool by state.")
	limit := o.gauge(MetricPoolMax, "{connection}", "Connections that the pool may open; 0 is no bound.")
	wait, waitErr := i.meter.Float64ObservableCounter(MetricPoolWait, metric.WithUnit("s"), metric.WithDescription("Time spent waiting for a connection."))
	o.all, o.errs = append(o.all, wait), append(o.errs, waitErr)
	pool := str("db.client.connection.pool.name", name)
	return o.register(func(_ context.Context, obs metric.Observer) error {
		s := db.Stats()
		obs.ObserveInt64(count, int64(s.Idle), with(pool, str("db.client.connection.state", "idle")))
		obs.ObserveInt64(count, int64(s.InUse), with(pool, str("db.client.connection.state", "used")))
		obs.ObserveInt64(limit, int64(s.MaxOpenConnections), with(pool))
		obs.ObserveFloat64(wait, s.WaitDuration.Seconds(), with(pool))
		return nil
	})
}
