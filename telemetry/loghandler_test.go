package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/slogtest"

	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/telemetry"
)

func TestHandlerKeepsSlogsRules(t *testing.T) {
	var buf bytes.Buffer
	slogtest.Run(t, func(*testing.T) slog.Handler {
		buf.Reset()
		return telemetry.NewHandler(slog.NewJSONHandler(&buf, nil))
	}, func(t *testing.T) map[string]any {
		var m map[string]any
		if err := json.Unmarshal(buf.Bytes(), &m); err != nil {
			t.Fatalf("%q: %v", buf.String(), err)
		}
		return m
	})
}

func TestHandlerAddsIdentifiersAndRedacts(t *testing.T) {
	var buf bytes.Buffer
	log := slog.New(telemetry.NewHandler(slog.NewJSONHandler(&buf, &slog.HandlerOptions{ReplaceAttr: func(g []string, a slog.Attr) slog.Attr {
		if len(g) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}), "iban"))
	ctx := correlation.With(t.Context(), correlation.IDs{RequestID: "r", CorrelationID: "c", UserID: "u"})
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
	log.With("Authorization", "Bearer hunter2").WithGroup("g").With("api-key", "hunter2").WithGroup("h").InfoContext(ctx, "m",
		"card_number", "hunter2", "IBAN", "hunter2", "pin", telemetry.Secret("hunter2"), "plain", 1,
		slog.Group("in", "set-cookie", "hunter2", "ok", "yes"), "err", errors.New("e"))
	if strings.Contains(buf.String(), "hunter2") {
		t.Errorf("a secret was logged: %s", buf.String())
	}
	var got map[string]any
	if err := json.Unmarshal(buf.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	const gone = "[redacted]"
	want := map[string]any{
		"level": "INFO", "msg": "m", "trace_id": "01000000000000000000000000000000", "span_id": "0200000000000000",
		"request_id": "r", "correlation_id": "c", "user_id": "u", "Authorization": gone,
		"g": map[string]any{"api-key": gone, "h": map[string]any{
			"card_number": gone, "IBAN": gone, "pin": gone, "plain": 1.0, "in": map[string]any{"set-cookie": gone, "ok": "yes"}, "err": "e",
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestSecretPrintsNowhere(t *testing.T) {
	s := telemetry.Secret("hunter2")
	data, err := json.Marshal(map[string]any{"s": s})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%v %s %q %#v %+v", s, s, s, s, struct{ S telemetry.Secret }{s}), string(data)} {
		if strings.Contains(out, "hunter2") {
			t.Errorf("printed: %s", out)
		}
	}
	if string(s) != "hunter2" {
		t.Error("a conversion gives the secret to who wants it")
	}
}

func BenchmarkHandler(b *testing.B) {
	log := slog.New(telemetry.NewHandler(slog.DiscardHandler))
	ctx := correlation.With(b.Context(), correlation.IDs{RequestID: "r", CorrelationID: "c", UserID: "u"})
	b.ReportAllocs()
	for b.Loop() {
		log.LogAttrs(ctx, slog.LevelInfo, "grpc call", slog.String("rpc.method", "/a/b"), slog.String("rpc.status", "OK"))
	}
}
