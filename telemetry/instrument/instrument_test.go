package instrument_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
	"github.com/napkin-kit/napkin/telemetry/instrument"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newInstruments(t *testing.T) (*instrument.Instruments, *telemetrytest.Recorder) {
	t.Helper()
	rec := telemetrytest.Start(t, "order")
	ins, err := instrument.New(rec.Telemetry)
	if err != nil {
		t.Fatal(err)
	}
	return ins, rec
}

func openDB(t *testing.T) *sqldb.DB {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "test.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	for set, files := range map[string]func(sqldb.Dialect) error{
		"napkin_outbox": func(d sqldb.Dialect) error { return migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(d)) },
		"napkin_inbox":  func(d sqldb.Dialect) error { return migrate.Up(t.Context(), db, "napkin_inbox", inbox.Migrations(d)) },
		"napkin_saga":   func(d sqldb.Dialect) error { return migrate.Up(t.Context(), db, "napkin_saga", sqlsaga.Migrations(d)) },
	} {
		if err := files(db.Dialect); err != nil {
			t.Fatalf("%s: %v", set, err)
		}
	}
	return db
}

// background runs fn until the test ends.
func background(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func byName(spans []sdktrace.ReadOnlySpan) map[string][]sdktrace.ReadOnlySpan {
	out := map[string][]sdktrace.ReadOnlySpan{}
	for _, s := range spans {
		out[s.Name()] = append(out[s.Name()], s)
	}
	return out
}

// A request's event causes another event; both consumers' spans belong to the request's
// trace, and bear its correlation ID and user.
func TestOneTraceThroughEvents(t *testing.T) {
	ins, rec := newInstruments(t)
	db, broker := openDB(t), memevents.New(nil)
	if err := broker.EnsureTopics(t.Context(), "orders", "payments"); err != nil {
		t.Fatal(err)
	}
	ob := must[*outbox.Outbox](t)(outbox.New(db.Dialect, "order", &outbox.Config{Hooks: ins.Events()}))
	relay := must[*outbox.Relay](t)(outbox.NewRelay(db, ob, broker, &outbox.RelayConfig{Hooks: ins.Relay()}))
	consumer := must[*inbox.Consumer[*sql.Tx]](t)(inbox.NewConsumer("svc", db, sqldb.Std(db), broker, &inbox.ConsumerConfig{EventHooks: ins.Events(), Hooks: ins.Consumer()}))
	handled := make(chan correlation.IDs, 1)
	consumer.Handle("orders", "OrderCreated", func(ctx context.Context, tx *sql.Tx, _ events.Event) error {
		return ob.Append(ctx, tx, events.Event{Topic: "payments", Type: "Charge", Key: "o-1"})
	})
	consumer.Handle("payments", "Charge", func(ctx context.Context, _ *sql.Tx, _ events.Event) error {
		handled <- correlation.From(ctx)
		return nil
	})
	stop := must[func()](t)(ins.ObserveBacklog(relay.Backlog))
	defer stop()
	stopPool := must[func()](t)(ins.ObservePool("write", db.Write))
	defer stopPool()
	background(t, relay.Run)
	background(t, consumer.Run)

	ctx := correlation.With(t.Context(), correlation.IDs{RequestID: "req-1", CorrelationID: "flow-1", UserID: "u-1"})
	ctx, request := rec.Telemetry.TracerProvider().Tracer("test").Start(ctx, "POST /v1/orders")
	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		return ob.Append(ctx, tx, events.Event{Topic: "orders", Type: "OrderCreated", Key: "o-1"})
	})
	if err != nil {
		t.Fatal(err)
	}
	request.End()
	ids := <-handled
	if ids.CorrelationID != "flow-1" || ids.UserID != "u-1" || ids.CausationID == "" {
		t.Errorf("two events on: %+v", ids)
	}
	telemetrytest.Wait(t, "five spans", func() bool { return len(rec.Spans()) >= 5 })
	spans := byName(rec.Spans())
	parent := map[string]string{"publish orders": "POST /v1/orders", "process orders": "POST /v1/orders", "publish payments": "process orders", "process payments": "process orders"}
	for name, from := range parent {
		if len(spans[name]) != 1 || len(spans[from]) != 1 {
			t.Fatalf("spans %q and %q: %d and %d", name, from, len(spans[name]), len(spans[from]))
		}
		got := spans[name][0]
		if got.SpanContext().TraceID() != request.SpanContext().TraceID() || got.Parent().SpanID() != spans[from][0].SpanContext().SpanID() {
			t.Errorf("%q does not continue %q", name, from)
		}
		if id := telemetrytest.Attr(got, instrument.AttrCorrelationID); id != "flow-1" {
			t.Errorf("%q has correlation ID %q", name, id)
		}
	}
	telemetrytest.Wait(t, "the metrics", func() bool {
		m := rec.Metrics(t)
		age, ok := m[instrument.MetricEventAge].Data.(metricdata.Histogram[float64])
		return ok && len(age.DataPoints) == 2
	})
	metrics := rec.Metrics(t)
	for _, name := range []string{instrument.MetricPublish, instrument.MetricProcess, instrument.MetricBacklog, instrument.MetricOldest, instrument.MetricPool} {
		if metrics[name].Data == nil {
			t.Errorf("no metric %s", name)
		}
	}
}

func TestConsumerFailuresShow(t *testing.T) {
	ins, rec := newInstruments(t)
	hooks := ins.Consumer()
	e := events.Event{ID: "e-1", Topic: "orders", Type: "OrderCreated", Time: time.Now(), CorrelationID: "flow-1"}
	_, done := hooks.Around(t.Context(), "svc", e)
	done(errors.New("no stock"))
	hooks.Duplicate(t.Context(), "svc", e)
	hooks.DeadLettered(t.Context(), "svc", e, errors.New("no stock"))
	hooks.Parked(t.Context(), "svc", e)
	hooks.Redriven(t.Context(), "svc", e)
	ins.Relay().PublishFailed(t.Context(), e, errors.New("no responders"))
	ins.Relay().Republish(t.Context(), "orders", events.Block{})
	if s := rec.Spans()[0]; s.Status().Description != "no stock" || s.SpanKind() != trace.SpanKindConsumer {
		t.Errorf("span %v %v", s.SpanKind(), s.Status())
	}
	metrics := rec.Metrics(t)
	for _, name := range []string{
		instrument.MetricDuplicates, instrument.MetricDeadLetters, instrument.MetricParked, instrument.MetricRedriven,
		instrument.MetricPublishFailed, instrument.MetricRepublish,
	} {
		if sum, ok := metrics[name].Data.(metricdata.Sum[int64]); !ok || sum.DataPoints[0].Value != 1 {
			t.Errorf("%s: %v", name, metrics[name].Data)
		}
	}
}

type order struct{ Called string }

// A saga's steps belong to the trace of its start, and a call past the pivot says that
// it matters most and is not to be retried below.
func TestSagaTrace(t *testing.T) {
	ins, rec := newInstruments(t)
	db := openDB(t)
	store := must[saga.Store](t)(sqlsaga.New(db, nil))
	c := must[*saga.Coordinator](t)(saga.NewCoordinator(store, &saga.Config{Hooks: ins.Saga()}))
	type seen struct {
		criticality resilience.Criticality
		trace       trace.TraceID
		ids         correlation.IDs
	}
	calls := make(chan seen, 2)
	call := func(ctx context.Context, _ *order) error {
		calls <- seen{resilience.CriticalityFrom(ctx), trace.SpanContextFromContext(ctx).TraceID(), correlation.From(ctx)}
		return nil
	}
	h := must[*saga.Handle[order]](t)(saga.Register(c, saga.Definition[order]{Name: "checkout", Steps: []saga.Step[order]{
		&saga.Call[order]{Name: "reserve", Do: call, Undo: func(context.Context, *order) error { return nil }},
		&saga.Call[order]{Name: "capture", Kind: saga.Pivot, Do: call},
	}}))
	stop := must[func()](t)(ins.ObserveSagas(c.Pending))
	defer stop()
	background(t, c.Run)

	ctx := correlation.With(t.Context(), correlation.IDs{CorrelationID: "flow-2"})
	ctx, request := rec.Telemetry.TracerProvider().Tracer("test").Start(ctx, "POST /v1/orders")
	if err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error { return h.Start(ctx, tx, "s-1", order{}) }); err != nil {
		t.Fatal(err)
	}
	request.End()
	want := request.SpanContext().TraceID()
	for i, criticality := range []resilience.Criticality{resilience.Critical, resilience.CriticalPlus} {
		if got := <-calls; got.criticality != criticality || got.trace != want || got.ids.CorrelationID != "flow-2" {
			t.Errorf("call %d: %+v", i, got)
		}
	}
	telemetrytest.Wait(t, "the end of the saga", func() bool { return len(byName(rec.Spans())["saga checkout completed"]) == 1 })
	for _, name := range []string{"saga call reserve do", "saga call capture do", "saga checkout completed"} {
		spans := byName(rec.Spans())[name]
		if len(spans) != 1 {
			t.Errorf("%q: %d spans", name, len(spans))
			continue
		}
		if spans[0].SpanContext().TraceID() != want || telemetrytest.Attr(spans[0], instrument.AttrCorrelationID) != "flow-2" || telemetrytest.Attr(spans[0], instrument.AttrSagaID) != "s-1" {
			t.Errorf("%q: %v", name, spans[0].Attributes())
		}
	}
	metrics := rec.Metrics(t)
	for _, name := range []string{instrument.MetricSagaStarted, instrument.MetricSagaDuration, instrument.MetricSagaSteps, instrument.MetricSagasPending} {
		if metrics[name].Data == nil {
			t.Errorf("no metric %s", name)
		}
	}
}

func TestResilienceShows(t *testing.T) {
	ins, rec := newInstruments(t)
	dests := must[*resilience.Destinations](t)(resilience.NewDestinations(&resilience.DestinationsConfig{Hooks: ins.Resilience(), Configure: func(_ string, c *resilience.Config) {
		c.Retry = resilience.RetryConfig{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}
	}}))
	stop := must[func()](t)(ins.ObserveDestinations(dests))
	defer stop()
	p := must[*resilience.Pipeline](t)(dests.Get("payment"))
	ctx, span := rec.Telemetry.TracerProvider().Tracer("test").Start(t.Context(), "call")
	err := p.Call(ctx, resilience.Call{Idempotent: true}, func(context.Context) error {
		return resilience.RetryAfter(errors.New("503"), 0)
	})
	if err == nil {
		t.Fatal("the call succeeded")
	}
	if err := p.Execute(ctx, func(context.Context) error { return nil }); err != nil {
		t.Fatal(err)
	}
	span.End()
	var names []string
	for _, e := range rec.Spans()[0].Events() {
		names = append(names, e.Name)
	}
	if got := strings.Join(names, " "); !strings.HasPrefix(got, "retry") || !strings.Contains(got, "gave up") {
		t.Errorf("span events: %s", got)
	}
	metrics := rec.Metrics(t)
	outcomes := map[string]int64{}
	for _, p := range metrics[instrument.MetricCalls].Data.(metricdata.Sum[int64]).DataPoints {
		v, _ := p.Attributes.Value(instrument.AttrOutcome)
		outcomes[v.AsString()] = p.Value
	}
	if outcomes["ok"] != 1 || outcomes["error"] != 1 {
		t.Errorf("calls by outcome: %v", outcomes)
	}
	for _, name := range []string{instrument.MetricRetries, instrument.MetricGaveUp, instrument.MetricBudget} {
		if metrics[name].Data == nil {
			t.Errorf("no metric %s", name)
		}
	}
}

// What a call that succeeds pays for being counted.
func BenchmarkCallDone(b *testing.B) {
	rec := telemetrytest.Start(b, "order")
	ins, err := instrument.New(rec.Telemetry)
	if err != nil {
		b.Fatal(err)
	}
	done := ins.Resilience().Done
	b.ReportAllocs()
	for b.Loop() {
		done(b.Context(), "payment", 1, nil)
	}
}
