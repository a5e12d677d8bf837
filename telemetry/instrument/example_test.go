package instrument_test

import (
	"context"
	"fmt"
	"io"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/telemetry"
	"github.com/napkin-kit/napkin/telemetry/instrument"
)

// An event carries the trace of the request that caused it to whoever handles it.
func ExampleNew() {
	ctx := context.Background()
	tel, err := telemetry.Start(ctx, telemetry.Config{Service: "order", Logs: io.Discard})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tel.Shutdown(ctx)
	ins, err := instrument.New(tel)
	if err != nil {
		fmt.Println(err)
		return
	}

	request, span := tel.TracerProvider().Tracer("example").Start(ctx, "POST /v1/orders")
	defer span.End()
	var e events.Event
	ins.Events().Inject(request, &e) // as outbox.Append does

	_, done := ins.Consumer().Around(ins.Events().Extract(ctx, e), "payments", e) // as a consumer does
	done(nil)
	fmt.Println(e.TraceParent[3:35] == span.SpanContext().TraceID().String())
	// Output: true
}
