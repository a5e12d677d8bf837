// Package telemetrytest records the spans, metrics and log lines of a test in memory.
//
//	rec := telemetrytest.Start(t, "order")
//	serve(rec.Telemetry)
//	for _, span := range rec.Spans() { ... }
//
// The recorders are the SDK's own; what a test sees is what an exporter would get.
package telemetrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/telemetry"
)

// Recorder is telemetry that keeps everything. It is safe for concurrent use.
type Recorder struct {
	// Telemetry is what the code under test is given.
	Telemetry *telemetry.Telemetry

	spans  Spans
	reader *sdkmetric.ManualReader
	logs   lines
}

// Start starts telemetry for service that keeps its signals in memory and ends with
// the test. Log lines of all levels are kept.
func Start(t testing.TB, service string) *Recorder {
	t.Helper()
	r := &Recorder{reader: sdkmetric.NewManualReader()}
	tel, err := telemetry.Start(t.Context(), telemetry.Config{
		Service: service, Version: "test",
		SpanProcessors: []sdktrace.SpanProcessor{&r.spans},
		MetricReaders:  []sdkmetric.Reader{r.reader},
		Sampler:        sdktrace.AlwaysSample(),
		Logs:           &r.logs,
		Level:          slog.LevelDebug,
	})
	if err != nil {
		t.Fatalf("telemetrytest: %v", err)
	}
	t.Cleanup(func() {
		if err := tel.Shutdown(context.Background()); err != nil {
			t.Errorf("telemetrytest: %v", err)
		}
	})
	r.Telemetry = tel
	return r
}

// Spans returns the spans that have ended, in the order of their ends.
func (r *Recorder) Spans() []sdktrace.ReadOnlySpan { return r.spans.Ended() }

// Metrics collects the metrics as they stand, by name.
func (r *Recorder) Metrics(t testing.TB) map[string]metricdata.Metrics {
	t.Helper()
	var rm metricdata.ResourceMetrics
	if err := r.reader.Collect(t.Context(), &rm); err != nil {
		t.Fatalf("telemetrytest: collecting metrics: %v", err)
	}
	out := make(map[string]metricdata.Metrics)
	for _, scope := range rm.ScopeMetrics {
		for _, m := range scope.Metrics {
			out[m.Name] = m
		}
	}
	return out
}

// Logs returns the log lines so far, each as its JSON object.
func (r *Recorder) Logs(t testing.TB) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, line := range bytes.Split(bytes.TrimSpace(r.logs.bytes()), []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		var m map[string]any
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("telemetrytest: log line %q: %v", line, err)
		}
		out = append(out, m)
	}
	return out
}

// Spans is a span processor that keeps every ended span: a span recorder that
// several services can share, given in telemetry.Config.SpanProcessors. Its zero
// value is ready, and it is safe for concurrent use.
type Spans struct {
	mu    sync.Mutex
	ended []sdktrace.ReadOnlySpan
}

// OnStart implements sdktrace.SpanProcessor.
func (s *Spans) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor.
func (s *Spans) OnEnd(span sdktrace.ReadOnlySpan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = append(s.ended, span)
}

// Shutdown implements sdktrace.SpanProcessor. What was recorded stays.
func (s *Spans) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdktrace.SpanProcessor.
func (s *Spans) ForceFlush(context.Context) error { return nil }

// Ended returns a copy of the spans that have ended so far.
func (s *Spans) Ended() []sdktrace.ReadOnlySpan {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sdktrace.ReadOnlySpan(nil), s.ended...)
}

// Reset forgets all spans.
func (s *Spans) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = nil
}

// Trace returns the ended spans of one trace.
func (s *Spans) Trace(id trace.TraceID) []sdktrace.ReadOnlySpan {
	var out []sdktrace.ReadOnlySpan
	for _, span := range s.Ended() {
		if span.SpanContext().TraceID() == id {
			out = append(out, span)
		}
	}
	return out
}

// Attr returns the value of a span's attribute as a string, "" where it has none.
func Attr(span sdktrace.ReadOnlySpan, name string) string {
	for _, a := range span.Attributes() {
		if a.Key == attribute.Key(name) {
			return a.Value.String()
		}
	}
	return ""
}

// Wait polls ok until it holds, and fails the test when it does not within ten
// seconds; spans often end just after the answer has been read.
func Wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited 10 s for %s", what)
		case <-tick.C:
		}
	}
}

type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf.Bytes())
}
