// Package telemetry starts OpenTelemetry traces, metrics and logs, a Prometheus
// endpoint and a structured logger for one service, in one call and without any
// global state:
//
//	tel, err := telemetry.Start(ctx, telemetry.Config{Service: "order", Version: "v1.4.0"})
//	if err != nil {
//		return err
//	}
//	defer tel.Shutdown(context.WithoutCancel(ctx))
//
// What it hands out, other packages take as arguments: [Telemetry.TracerProvider]
// and [Telemetry.MeterProvider], [Telemetry.Propagator], [Telemetry.Logger], and
// [Telemetry.MetricsHandler] for /metrics. Package telemetry/instrument makes hooks
// from them for events, outbox, inbox, saga and resilience.
//
// # Where the signals go
//
//   - Metrics are always at MetricsHandler, with exemplars (trace IDs) in the
//     OpenMetrics form, under the names of OpenTelemetry's semantic conventions.
//   - Traces, metrics and logs go out by OTLP over HTTP where the standard OTEL_*
//     variables say so: an endpoint (OTEL_EXPORTER_OTLP_ENDPOINT or one signal's
//     own), or otlp named in OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER or
//     OTEL_LOGS_EXPORTER. Without them nothing leaves the process.
//   - Logs are always written, one JSON object per line, to Config.Logs.
//
// Also read: OTEL_SDK_DISABLED, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES,
// OTEL_TRACES_SAMPLER and its _ARG, OTEL_BSP_*, OTEL_PROPAGATORS (tracecontext and
// baggage), and the exporters' own OTEL_EXPORTER_OTLP_*. The protocol is
// http/protobuf; another one named in OTEL_EXPORTER_OTLP_PROTOCOL is refused.
//
// # Logs
//
// Every line written with a context bears trace_id and span_id of the span in it,
// and request_id, correlation_id and user_id from package kit/correlation, at the
// top level whatever group the logger has opened. Values of type [Secret], and
// values under a name that speaks of a secret ([DefaultSecretNames]), are written as
// "[redacted]".
//
// # Sampling
//
// The root of a trace decides (parentbased_always_on unless OTEL_TRACES_SAMPLER says
// otherwise), and everyone below follows.
package telemetry
