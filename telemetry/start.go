package telemetry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// newResource describes the process under the names of the semantic conventions.
func newResource(ctx context.Context, cfg Config) (*resource.Resource, error) {
	if cfg.Version == "" {
		if info, ok := debug.ReadBuildInfo(); ok {
			cfg.Version = info.Main.Version
		}
	}
	if cfg.Instance == "" {
		var b [8]byte
		rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read is documented never to fail
		cfg.Instance = hex.EncodeToString(b[:])
	}
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", cfg.Service),
			attribute.String("service.version", cfg.Version),
			attribute.String("service.instance.id", cfg.Instance),
			attribute.String("process.runtime.name", "go"),
		),
		resource.WithFromEnv(), // last, so that OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win
	)
	if err != nil {
		return nil, fmt.Errorf("telemetry: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return res, nil
}

func (t *Telemetry) startTraces(ctx context.Context, cfg Config, env environment, res *resource.Resource) error {
	if env.disabled {
		t.tracers = tracenoop.NewTracerProvider()
		return nil
	}
	opts := []sdktrace.TracerProviderOption{sdktrace.WithResource(res)}
	switch {
	case cfg.Sampler != nil:
		opts = append(opts, sdktrace.WithSampler(cfg.Sampler))
	case !env.hasSampler: // else the SDK reads OTEL_TRACES_SAMPLER
		opts = append(opts, sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.AlwaysSample())))
	}
	for _, p := range cfg.SpanProcessors {
		opts = append(opts, sdktrace.WithSpanProcessor(p))
	}
	exporters := cfg.SpanExporters
	if env.otlpTraces {
		e, err := otlptracehttp.New(ctx)
		if err != nil {
			return fmt.Errorf("telemetry: OTLP traces: %w", err)
		}
		exporters = append(exporters[:len(exporters):len(exporters)], e)
	}
	for _, e := range exporters {
		opts = append(opts, sdktrace.WithBatcher(e))
	}
	p := sdktrace.NewTracerProvider(opts...)
	t.tracers = p
	t.flush, t.stop = append(t.flush, p.ForceFlush), append(t.stop, p.Shutdown)
	return nil
}

func (t *Telemetry) startMetrics(ctx context.Context, cfg Config, env environment, res *resource.Resource) error {
	if env.disabled {
		t.meters = metricnoop.NewMeterProvider()
		return nil
	}
	t.registry.MustRegister( // a fresh registry: nothing can clash
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	prom, err := otelprom.New(otelprom.WithRegisterer(t.registry), otelprom.WithoutScopeInfo())
	if err != nil {
		return fmt.Errorf("telemetry: Prometheus: %w", err)
	}
	opts := []sdkmetric.Option{sdkmetric.WithResource(res), sdkmetric.WithReader(prom)}
	for _, r := range cfg.MetricReaders {
		opts = append(opts, sdkmetric.WithReader(r))
	}
	if env.otlpMetrics {
		e, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return fmt.Errorf("telemetry: OTLP metrics: %w", err)
		}
		opts = append(opts, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(e)))
	}
	p := sdkmetric.NewMeterProvider(opts...)
	t.meters = p
	t.flush, t.stop = append(t.flush, p.ForceFlush), append(t.stop, p.Shutdown)
	return nil
}

func (t *Telemetry) startLogs(ctx context.Context, cfg Config, env environment, res *resource.Resource) error {
	handlers := []slog.Handler{slog.NewJSONHandler(cfg.Logs, &slog.HandlerOptions{Level: cfg.Level})}
	exporters := cfg.LogExporters
	if env.otlpLogs {
		e, err := otlploghttp.New(ctx)
		if err != nil {
			return fmt.Errorf("telemetry: OTLP logs: %w", err)
		}
		exporters = append(exporters[:len(exporters):len(exporters)], e)
	}
	if len(exporters) > 0 && !env.disabled {
		opts := []sdklog.LoggerProviderOption{sdklog.WithResource(res)}
		for _, e := range exporters {
			opts = append(opts, sdklog.WithProcessor(sdklog.NewBatchProcessor(e)))
		}
		p := sdklog.NewLoggerProvider(opts...)
		bridge := otelslog.NewHandler(cfg.Service, otelslog.WithLoggerProvider(p))
		handlers = append(handlers, leveled{bridge, cfg.Level})
		t.flush, t.stop = append(t.flush, p.ForceFlush), append(t.stop, p.Shutdown)
	}
	t.logger = slog.New(NewHandler(slog.NewMultiHandler(handlers...), cfg.SecretNames...)).With("service", cfg.Service)
	return nil
}

// leveled holds a handler that has no level of its own to Config.Level.
type leveled struct {
	slog.Handler
	level slog.Leveler
}

func (h leveled) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h leveled) WithAttrs(attrs []slog.Attr) slog.Handler {
	return leveled{h.Handler.WithAttrs(attrs), h.level}
}

func (h leveled) WithGroup(name string) slog.Handler {
	return leveled{h.Handler.WithGroup(name), h.level}
}
