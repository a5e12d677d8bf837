package instrument_test

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/telemetry/instrument"
)

// Every hook of package resilience is heard, also one that is added, and leads to
// the metric that its documentation names.
func TestEveryResilienceHookIsHeard(t *testing.T) {
	ins, rec := newInstruments(t)
	hooks, shedder := ins.Resilience(), ins.Shedder()
	for _, h := range []any{hooks, shedder} {
		v := reflect.ValueOf(h).Elem()
		for i := range v.NumField() {
			if v.Field(i).IsNil() {
				t.Errorf("%s.%s is not heard", v.Type(), v.Type().Field(i).Name)
			}
		}
	}
	ctx := t.Context()
	cause := errors.New("503")
	hooks.Done(ctx, "payment", 1, nil)
	hooks.Retry(ctx, "payment", 1, time.Second, cause)
	hooks.GaveUp(ctx, "payment", 1, resilience.ErrBudgetExhausted, cause)
	hooks.Rejected(ctx, "payment", &resilience.Rejection{Policy: "breaker", Err: resilience.ErrOpen})
	hooks.BreakerState("payment", resilience.BreakerClosed, resilience.BreakerOpen)
	hooks.Hedged(ctx, "payment", 2)
	shedder.Shed(ctx, resilience.Sheddable, "full")

	d := must[*resilience.Destinations](t)(resilience.NewDestinations(nil))
	if _, err := d.Get("payment"); err != nil {
		t.Fatal(err)
	}
	stop := must[func()](t)(ins.ObserveDestinations(d))
	defer stop()
	s := must[*resilience.Shedder](t)(resilience.NewShedder(nil))
	stopShedder := must[func()](t)(ins.ObserveShedder(s))
	defer stopShedder()

	metrics := rec.Metrics(t)
	for _, name := range []string{
		instrument.MetricCalls, instrument.MetricRetries, instrument.MetricGaveUp, instrument.MetricRejected, instrument.MetricBreaker,
		instrument.MetricHedges, instrument.MetricShed, instrument.MetricBudget, instrument.MetricInFlight, instrument.MetricWaiting,
		instrument.MetricShedLimit, instrument.MetricShedInFlight,
	} {
		if metrics[name].Data == nil {
			t.Errorf("no metric %s", name)
		}
	}
}

// The gauge of a breaker follows it through an operator's hands and back.
func TestBreakerGaugeFollows(t *testing.T) {
	ins, _ := newInstruments(t)
	var seen []resilience.BreakerState
	spy := &resilience.Hooks{BreakerState: func(_ string, _, to resilience.BreakerState) { seen = append(seen, to) }}
	p := must[*resilience.Pipeline](t)(resilience.NewPipeline("payment", &resilience.Config{Hooks: resilience.JoinHooks(ins.Resilience(), spy)}))
	p.Breaker().Force(resilience.BreakerForcedOpen)
	p.Breaker().Force(resilience.BreakerAuto)
	if err := p.Execute(t.Context(), func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if want := []resilience.BreakerState{resilience.BreakerOpen, resilience.BreakerClosed}; !slices.Equal(seen, want) {
		t.Errorf("seen %v, want %v", seen, want)
	}
}
