package correlation_test

import (
	"context"
	"fmt"

	"github.com/napkin-kit/napkin/kit/correlation"
)

// A server keeps what its caller sent, and fills in what is missing.
func ExampleEnsure() {
	ctx := correlation.With(context.Background(), correlation.IDs{RequestID: "req-7"})
	_, ids := correlation.Ensure(ctx)
	fmt.Println(ids.RequestID, ids.CorrelationID)
	// Output: req-7 req-7
}

// A consumer notes which message caused the work it does next.
func ExampleCaused() {
	ctx := correlation.With(context.Background(), correlation.IDs{CorrelationID: "flow-1"})
	ctx = correlation.Caused(ctx, "event-9")
	fmt.Println(correlation.From(ctx).CorrelationID, correlation.From(ctx).CausationID)
	// Output: flow-1 event-9
}
