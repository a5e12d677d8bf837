package telemetry

import (
	"fmt"
	"strings"

	"go.opentelemetry.io/otel/propagation"
)

// environment is what the OTEL_* variables ask of this package; the exporters and
// the SDK read the rest themselves.
type environment struct {
	disabled                                      bool
	otlpTraces, otlpMetrics, otlpLogs, hasSampler bool
	propagator                                    propagation.TextMapPropagator
}

func readEnvironment(getenv func(string) string) (environment, error) {
	env := environment{
		disabled:   strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true"),
		hasSampler: getenv("OTEL_TRACES_SAMPLER") != "",
	}
	for _, signal := range []struct {
		name string
		otlp *bool
	}{{"TRACES", &env.otlpTraces}, {"METRICS", &env.otlpMetrics}, {"LOGS", &env.otlpLogs}} {
		on, err := otlpWanted(getenv, signal.name)
		if err != nil {
			return env, err
		}
		*signal.otlp = on && !env.disabled
	}
	var err error
	env.propagator, err = propagators(getenv("OTEL_PROPAGATORS"))
	return env, err
}

// otlpWanted departs from the specification in one point: without an endpoint and
// without being named, OTLP is off. Trying localhost:4318 for ever where nobody
// listens would make the default noisy.
func otlpWanted(getenv func(string) string, signal string) (bool, error) {
	exporter := "OTEL_" + signal + "_EXPORTER"
	want := getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
	for _, name := range strings.Split(getenv(exporter), ",") {
		switch strings.TrimSpace(strings.ToLower(name)) {
		case "":
		case "otlp":
			want = true
		case "none":
			want = false
		case "prometheus":
			if signal != "METRICS" {
				return false, fmt.Errorf("telemetry: %s=%q: prometheus serves metrics only; use otlp or none", exporter, name)
			}
			want = false // it is always served
		default:
			return false, fmt.Errorf("telemetry: %s=%q: use otlp or none", exporter, name)
		}
	}
	for _, v := range []string{"OTEL_EXPORTER_OTLP_" + signal + "_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"} {
		if p := getenv(v); want && p != "" && p != "http/protobuf" {
			return false, fmt.Errorf("telemetry: %s=%q: only http/protobuf is spoken here; unset it and point the endpoint at port 4318", v, p)
		}
	}
	return want, nil
}

func propagators(list string) (propagation.TextMapPropagator, error) {
	if list == "" {
		list = "tracecontext,baggage"
	}
	var all []propagation.TextMapPropagator
	for _, name := range strings.Split(list, ",") {
		switch strings.TrimSpace(strings.ToLower(name)) {
		case "tracecontext":
			all = append(all, propagation.TraceContext{})
		case "baggage":
			all = append(all, propagation.Baggage{})
		case "none", "":
		default:
			return nil, fmt.Errorf("telemetry: OTEL_PROPAGATORS=%q: use tracecontext, baggage or none", name)
		}
	}
	return propagation.NewCompositeTextMapPropagator(all...), nil
}
