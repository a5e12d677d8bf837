package e2e

import (
	"crypto/rand"
	"net/http"
	"os"
	"sort"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	shop "github.com/napkin-kit/napkin/examples/shop"
	"github.com/napkin-kit/napkin/examples/shop/client"
	"github.com/napkin-kit/napkin/telemetry"
	"github.com/napkin-kit/napkin/telemetry/instrument"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// TestOneTraceFromTheRequestToTheNotification: the trace shows the synchronous part end where the order is
// saved, and goes on through every service that an event reaches, under one correlation ID.
func TestOneTraceFromTheRequestToTheNotification(t *testing.T) {
	spans := &telemetrytest.Spans{}
	_, tg := openStore(t, shop.Options{Logs: logFile(t), Telemetry: func(c *telemetry.Config) {
		c.SpanProcessors = append(c.SpanProcessors, spans)
	}})
	s := newSuite(t, tg)
	c, p := s.customer(t), s.product(t, 3)
	card := s.card(t, c, cardOK)

	id := "e2e-" + rand.Text()
	var o client.Order
	h, err := c.Do(t.Context(), http.MethodPost, "/v1/orders", http.Header{"Idempotency-Key": {rand.Text()}, "X-Correlation-Id": {id}},
		map[string]any{"payment_method_id": card, "items": []client.Line{{ProductID: p.ID, Quantity: 1}}}, &o)
	if err != nil {
		t.Fatal(err)
	}
	if h.Get("X-Correlation-Id") != id {
		t.Errorf("the answer's correlation ID is %q, sent was %q", h.Get("X-Correlation-Id"), id)
	}
	if got := await(t, c, o.ID); got.Status != "confirmed" {
		t.Fatalf("%+v", got)
	}

	service := func(sp sdktrace.ReadOnlySpan) string {
		v, _ := sp.Resource().Set().Value("service.name")
		return v.AsString()
	}
	// The request's trace is found by its correlation ID at the gateway.
	var traceID trace.TraceID
	telemetrytest.Wait(t, "the notification's span", func() bool {
		for _, sp := range spans.Ended() {
			if telemetrytest.Attr(sp, instrument.AttrCorrelationID) == id && service(sp) == "order" && sp.SpanKind() == trace.SpanKindServer {
				traceID = sp.SpanContext().TraceID()
			}
		}
		for _, sp := range spans.Trace(traceID) {
			if service(sp) == "notification" && sp.SpanKind() == trace.SpanKindConsumer {
				return true
			}
		}
		return false
	})

	all := spans.Trace(traceID)
	sort.Slice(all, func(i, j int) bool { return all[i].StartTime().Before(all[j].StartTime()) })
	byService := map[string]int{}
	parents := map[trace.SpanID]bool{}
	var root, saved sdktrace.ReadOnlySpan
	for _, sp := range all {
		byService[service(sp)]++
		parents[sp.SpanContext().SpanID()] = true
		if !sp.Parent().IsValid() {
			root = sp
		}
		if service(sp) == "order" && sp.SpanKind() == trace.SpanKindServer && strings.Contains(sp.Name(), "CreateOrder") {
			saved = sp
		}
		if got := telemetrytest.Attr(sp, instrument.AttrCorrelationID); got != "" && got != id {
			t.Errorf("%s of %s has correlation ID %q", sp.Name(), service(sp), got)
		}
	}
	for _, name := range []string{"gateway", "order", "cart", "catalog", "payment", "inventory", "notification"} {
		if byService[name] == 0 {
			t.Errorf("%s has no span in the trace", name)
		}
	}
	for _, sp := range all {
		if sp.Parent().IsValid() && !parents[sp.Parent().SpanID()] {
			t.Errorf("%s of %s hangs in the air: its parent was not exported", sp.Name(), service(sp))
		}
	}
	if root == nil || service(root) != "gateway" || saved == nil {
		t.Fatalf("root %v, the span of the order's save %v", root, saved)
	}
	for _, sp := range all {
		if service(sp) == "payment" && sp.SpanKind() == trace.SpanKindConsumer && sp.StartTime().Before(saved.StartTime()) {
			t.Errorf("payment's part began before the order was saved")
		}
		if service(sp) == "notification" && sp.SpanKind() == trace.SpanKindConsumer {
			if sp.StartTime().Before(root.EndTime()) {
				t.Errorf("the request waited for the notification")
			}
			if telemetrytest.Attr(sp, instrument.AttrCorrelationID) != id {
				t.Errorf("the notification's correlation ID is %q, the browser's was %q", telemetrytest.Attr(sp, instrument.AttrCorrelationID), id)
			}
		}
	}
	if t.Failed() || os.Getenv("SHOP_PRINT_TRACE") != "" {
		for _, sp := range all {
			t.Logf("%7.1f ms %6.1f ms  %-13s %-9s %s %s", sp.StartTime().Sub(root.StartTime()).Seconds()*1e3, sp.EndTime().Sub(sp.StartTime()).Seconds()*1e3,
				service(sp), sp.SpanKind(), sp.Name(), telemetrytest.Attr(sp, instrument.AttrCorrelationID))
		}
	}
}
