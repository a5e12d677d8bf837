package telemetry_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/telemetry"
)

func ExampleStart() {
	ctx := context.Background()
	tel, err := telemetry.Start(ctx, telemetry.Config{Service: "order", Version: "v1.4.0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tel.Shutdown(ctx)

	ctx, span := tel.TracerProvider().Tracer("order").Start(ctx, "place order")
	defer span.End()
	fmt.Println(tel.Service(), span.SpanContext().IsSampled(), tel.Logger().Enabled(ctx, slog.LevelInfo))
	// Output: order true true
}

// Whatever is logged with a request's context says whose request it was, and no secret.
func ExampleNewHandler() {
	noTime := &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}
	log := slog.New(telemetry.NewHandler(slog.NewTextHandler(os.Stdout, noTime)))
	ctx := correlation.With(context.Background(), correlation.IDs{CorrelationID: "flow-1", UserID: "u-7"})
	log.InfoContext(ctx, "signed in", "password", "correct horse", "method", "code")
	// Output: level=INFO msg="signed in" correlation_id=flow-1 user_id=u-7 password=[redacted] method=code
}
