package events

import "context"

// Hooks join events to the tracing of the process, which this package does not
// import. Every func may be nil. telemetry/instrument supplies them.
type Hooks struct {
	// Inject writes the trace context of ctx into an event that is appended:
	// TraceParent and TraceState.
	Inject func(ctx context.Context, e *Event)
	// Extract returns a context that continues the event's trace. It is called
	// once for each delivery, before the first attempt to handle it.
	Extract func(ctx context.Context, e Event) context.Context
}

// InjectInto calls Inject where it is set.
func (h Hooks) InjectInto(ctx context.Context, e *Event) {
	if h.Inject != nil {
		h.Inject(ctx, e)
	}
}

// ExtractFrom calls Extract where it is set, and returns ctx otherwise.
func (h Hooks) ExtractFrom(ctx context.Context, e Event) context.Context {
	if h.Extract != nil {
		return h.Extract(ctx, e)
	}
	return ctx
}
