package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/telemetry"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clean unsets what the machine that runs the tests may have set.
func clean(t *testing.T) {
	t.Helper()
	for _, v := range []string{
		"OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS",
		"OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL",
	} {
		t.Setenv(v, "")
	}
}

func start(t *testing.T, cfg telemetry.Config) *telemetry.Telemetry {
	t.Helper()
	tel, err := telemetry.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return tel
}

func TestOTLPCarriesAllThreeSignals(t *testing.T) {
	clean(t)
	var mu sync.Mutex
	got := map[string][]byte{}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		got[r.URL.Path] = append(got[r.URL.Path], body...)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=staging")

	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "order", Version: "v9", Logs: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	ctx, span := tel.TracerProvider().Tracer("t").Start(t.Context(), "the-span")
	counter, err := tel.MeterProvider().Meter("t").Int64Counter("the-counter")
	if err != nil {
		t.Fatal(err)
	}
	counter.Add(ctx, 1)
	tel.Logger().InfoContext(ctx, "the-line", "password", "hunter2")
	span.End()
	if err := tel.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/v1/traces": "the-span", "/v1/metrics": "the-counter", "/v1/logs": "the-line"} {
		mu.Lock()
		body := got[path]
		mu.Unlock()
		for _, w := range []string{want, "order", "v9", "staging"} {
			if !bytes.Contains(body, []byte(w)) {
				t.Errorf("%s: no %q among %d bytes", path, w, len(body))
			}
		}
		if bytes.Contains(body, []byte("hunter2")) {
			t.Errorf("%s: a secret left the process", path)
		}
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := tel.Shutdown(t.Context()); err != nil {
		t.Errorf("a second Shutdown: %v", err)
	}
}

func TestWithoutEndpointNothingLeaves(t *testing.T) {
	clean(t)
	tel := start(t, telemetry.Config{Service: "order", Logs: io.Discard})
	_, span := tel.TracerProvider().Tracer("t").Start(t.Context(), "x")
	span.End()
	if err := tel.Flush(t.Context()); err != nil {
		t.Errorf("nobody listens, and that must not matter: %v", err)
	}
}

func TestEnvironmentErrorsNameTheVariable(t *testing.T) {
	for name, value := range map[string]string{
		"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_METRICS_EXPORTER": "statsd", "OTEL_LOGS_EXPORTER": "prometheus", "OTEL_PROPAGATORS": "b3",
	} {
		t.Run(name, func(t *testing.T) {
			clean(t)
			t.Setenv(name, value)
			_, err := telemetry.Start(t.Context(), telemetry.Config{Service: "order"})
			if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("OTEL_EXPORTER_OTLP_PROTOCOL", func(t *testing.T) {
		clean(t)
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
		t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
		if _, err := telemetry.Start(t.Context(), telemetry.Config{Service: "order"}); err == nil || !strings.Contains(err.Error(), "OTEL_EXPORTER_OTLP_PROTOCOL") {
			t.Errorf("got %v", err)
		}
	})
	if _, err := telemetry.Start(t.Context(), telemetry.Config{}); err == nil || !strings.Contains(err.Error(), "Config.Service") {
		t.Errorf("got %v", err)
	}
}

func TestDisabled(t *testing.T) {
	clean(t)
	t.Setenv("OTEL_SDK_DISABLED", "true")
	var logs bytes.Buffer
	tel := start(t, telemetry.Config{Service: "order", Logs: &logs})
	_, span := tel.TracerProvider().Tracer("t").Start(t.Context(), "x")
	if span.SpanContext().IsValid() {
		t.Error("a span was made")
	}
	tel.Logger().Info("still here")
	if !strings.Contains(logs.String(), "still here") {
		t.Error("logs are not part of what is disabled")
	}
}

func TestMetricsHandlerHasExemplars(t *testing.T) {
	clean(t)
	rec := telemetrytest.Start(t, "order")
	ctx, span := rec.Telemetry.TracerProvider().Tracer("t").Start(t.Context(), "x")
	h, err := rec.Telemetry.MeterProvider().Meter("t").Float64Histogram("work.duration")
	if err != nil {
		t.Fatal(err)
	}
	h.Record(ctx, 0.3)
	span.End()
	get := func(accept string) string {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.Header.Set("Accept", accept)
		rec.Telemetry.MetricsHandler().ServeHTTP(w, r)
		return w.Body.String()
	}
	body := get("application/openmetrics-text;version=1.0.0")
	if want := `trace_id="` + span.SpanContext().TraceID().String() + `"`; !strings.Contains(body, want) {
		t.Errorf("no exemplar %s in\n%.3000s", want, body)
	}
	for _, want := range []string{"work_duration_bucket", "go_goroutines", "target_info{"} {
		if !strings.Contains(get(""), want) {
			t.Errorf("no %s", want)
		}
	}
	if len(rec.Spans()) != 1 || rec.Metrics(t)["work.duration"].Name == "" {
		t.Errorf("the recorder missed something: %v", rec.Spans())
	}
}

func TestPropagation(t *testing.T) {
	clean(t)
	rec := telemetrytest.Start(t, "order")
	ctx, span := rec.Telemetry.TracerProvider().Tracer("t").Start(t.Context(), "x")
	defer span.End()
	carrier := map[string]string{}
	rec.Telemetry.Propagator().Inject(ctx, mapCarrier(carrier))
	if !strings.Contains(carrier["traceparent"], span.SpanContext().TraceID().String()) {
		t.Errorf("carrier %v", carrier)
	}
	got := trace.SpanContextFromContext(rec.Telemetry.Propagator().Extract(context.Background(), mapCarrier(carrier)))
	if got.SpanID() != span.SpanContext().SpanID() || !got.IsRemote() {
		t.Errorf("extracted %v", got)
	}
}

type mapCarrier map[string]string

func (c mapCarrier) Get(k string) string { return c[k] }
func (c mapCarrier) Set(k, v string)     { c[k] = v }
func (c mapCarrier) Keys() []string      { return nil }

func TestLevelCanChange(t *testing.T) {
	clean(t)
	var logs bytes.Buffer
	level := new(slog.LevelVar)
	tel := start(t, telemetry.Config{Service: "order", Logs: &logs, Level: level})
	tel.Logger().Debug("before")
	level.Set(slog.LevelDebug)
	tel.Logger().Debug("after")
	var line map[string]any
	if err := json.Unmarshal(logs.Bytes(), &line); err != nil || line["msg"] != "after" || line["service"] != "order" {
		t.Errorf("logs %q: %v", logs.String(), err)
	}
}
