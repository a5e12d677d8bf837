// Package correlation carries the identifiers that tie one customer's action
// together across processes: the request, the flow it belongs to, the message
// that caused the current work, and the user on whose behalf it runs.
//
// It needs the standard library alone, so every other package may use it.
//
// # Which ID is which
//
//   - RequestID names one client request, on every synchronous hop it makes.
//   - CorrelationID names the whole flow: the request, each event it led to,
//     and each event those led to. Where a client sends none, the first request's
//     ID starts the flow.
//   - CausationID is the ID of the message (an event's, or a request's) that
//     directly caused the work at hand: following it backwards draws the tree.
//   - UserID is the end user's subject, empty for work nobody asked for.
//
// # At the border
//
// A server accepts what a caller sent only if it is [Valid], and fills in the rest:
//
//	ctx, ids := correlation.Ensure(correlation.With(ctx, correlation.IDs{
//		RequestID:     r.Header.Get(correlation.RequestIDHeader),
//		CorrelationID: r.Header.Get(correlation.CorrelationIDHeader),
//	}))
//
// # Telemetry
//
// Package telemetry adds these IDs to every log line written with a context that
// holds them; the outbox stamps CorrelationID, CausationID and UserID on events.
package correlation
