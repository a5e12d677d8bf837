package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Config says what [Start] starts. Service alone is required.
type Config struct {
	// Service is service.name. OTEL_SERVICE_NAME overrides it.
	Service string
	// Version is service.version. Defaults to the main module's version.
	Version string
	// Instance is service.instance.id. Defaults to random hexadecimal digits, so
	// that two replicas on one host differ.
	Instance string

	// SpanExporters get each sampled span in batches, beside what OTEL_* names.
	SpanExporters []sdktrace.SpanExporter
	// SpanProcessors see each span as it starts and ends; telemetrytest brings one.
	SpanProcessors []sdktrace.SpanProcessor
	// MetricReaders read the metrics beside the Prometheus endpoint.
	MetricReaders []sdkmetric.Reader
	// LogExporters get each log record in batches, beside Logs.
	LogExporters []sdklog.Exporter
	// Sampler decides on head sampling. Defaults to what OTEL_TRACES_SAMPLER
	// says, and to parentbased_always_on without it.
	Sampler sdktrace.Sampler

	// Logs receives the log as JSON lines. Defaults to os.Stderr; io.Discard
	// turns it off.
	Logs io.Writer
	// Level is the least level written. Defaults to slog.LevelInfo. A
	// *slog.LevelVar can be changed while running.
	Level slog.Leveler
	// SecretNames are names of attributes, beside DefaultSecretNames, whose
	// values are redacted. Case does not matter.
	SecretNames []string

	// SetGlobals also installs the providers and the propagator as
	// OpenTelemetry's globals, for libraries that know no other way. Defaults to
	// false.
	SetGlobals bool
}

// Telemetry is the running telemetry of one service. It is safe for concurrent use.
type Telemetry struct {
	service    string
	tracers    trace.TracerProvider
	meters     metric.MeterProvider
	propagator propagation.TextMapPropagator
	logger     *slog.Logger
	registry   *prometheus.Registry
	flush      []func(context.Context) error
	stop       []func(context.Context) error
}

// Start reads the OTEL_* variables and starts the telemetry of one service. The
// caller owns the result and ends it with [Telemetry.Shutdown]. ctx bounds the start
// only. Errors name the field or the variable at fault.
func Start(ctx context.Context, cfg Config) (*Telemetry, error) {
	if cfg.Service == "" {
		return nil, errors.New("telemetry: Config.Service is empty: name the service")
	}
	if cfg.Logs == nil {
		cfg.Logs = os.Stderr
	}
	if cfg.Level == nil {
		cfg.Level = slog.LevelInfo
	}
	env, err := readEnvironment(os.Getenv)
	if err != nil {
		return nil, err
	}
	res, err := newResource(ctx, cfg)
	if err != nil {
		return nil, err
	}

	t := &Telemetry{service: cfg.Service, registry: prometheus.NewRegistry(), propagator: env.propagator}
	steps := []func() error{
		func() error { return t.startTraces(ctx, cfg, env, res) },
		func() error { return t.startMetrics(ctx, cfg, env, res) },
		func() error { return t.startLogs(ctx, cfg, env, res) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return nil, errors.Join(err, t.Shutdown(ctx))
		}
	}
	if cfg.SetGlobals {
		otel.SetTracerProvider(t.tracers)
		otel.SetMeterProvider(t.meters)
		otel.SetTextMapPropagator(t.propagator)
	}
	return t, nil
}

// Service returns the name given in Config.
func (t *Telemetry) Service() string { return t.service }

// TracerProvider makes tracers.
func (t *Telemetry) TracerProvider() trace.TracerProvider { return t.tracers }

// MeterProvider makes meters.
func (t *Telemetry) MeterProvider() metric.MeterProvider { return t.meters }

// Propagator reads and writes the trace context of messages: W3C traceparent and
// baggage unless OTEL_PROPAGATORS says otherwise.
func (t *Telemetry) Propagator() propagation.TextMapPropagator { return t.propagator }

// Logger is the service's logger; see the package's notes on logs.
func (t *Telemetry) Logger() *slog.Logger { return t.logger }

// Registry is the Prometheus registry behind MetricsHandler, for collectors of your own.
func (t *Telemetry) Registry() *prometheus.Registry { return t.registry }

// MetricsHandler serves the metrics to Prometheus; OpenMetrics, and with it
// exemplars, where the scraper asks for it. It is meant for an admin listener.
func (t *Telemetry) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(t.registry, promhttp.HandlerOpts{
		EnableOpenMetrics: true,
		ErrorHandling:     promhttp.ContinueOnError,
		Timeout:           10 * time.Second,
	})
}

// Flush sends out what is buffered, so that nothing is lost when the process ends
// soon. It returns when that is done or ctx ends.
func (t *Telemetry) Flush(ctx context.Context) error {
	return all(ctx, t.flush)
}

// Shutdown flushes and stops everything Start started. After it the providers do
// nothing; the logger still writes to Config.Logs. A second call is harmless.
func (t *Telemetry) Shutdown(ctx context.Context) error {
	stop := t.stop
	t.stop, t.flush = nil, nil
	return all(ctx, stop)
}

func all(ctx context.Context, fns []func(context.Context) error) error {
	var errs []error
	for _, fn := range fns {
		if err := fn(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	return nil
}
