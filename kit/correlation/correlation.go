package correlation

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

// Names under which the identifiers travel. HTTP spells them as here; gRPC
// metadata uses the lower-case form, which [RequestIDMetadata] and
// [CorrelationIDMetadata] hold.
const (
	RequestIDHeader       = "X-Request-Id"
	CorrelationIDHeader   = "X-Correlation-Id"
	RequestIDMetadata     = "x-request-id"
	CorrelationIDMetadata = "x-correlation-id"
)

// MaxLength is the longest identifier that [Valid] accepts, in bytes.
const MaxLength = 128

// IDs are the identifiers of the work a context stands for. The zero value means
// that none is known. IDs is a plain value: copying it is safe.
type IDs struct {
	// RequestID names one client request on all its synchronous hops.
	RequestID string
	// CorrelationID names the whole flow, across requests and events.
	CorrelationID string
	// CausationID is the ID of the message that directly caused this work.
	CausationID string
	// UserID is the end user's subject; empty when no user is involved.
	UserID string
}

type contextKey struct{}

// From returns the identifiers in ctx, or the zero IDs where there are none.
func From(ctx context.Context) IDs {
	ids, _ := ctx.Value(contextKey{}).(IDs)
	return ids
}

// With returns a context that holds ids in place of any before. It does not
// validate: values from outside the process belong through [Ensure].
func With(ctx context.Context, ids IDs) context.Context {
	return context.WithValue(ctx, contextKey{}, ids)
}

// WithUser returns a context whose UserID is user and whose other identifiers are
// those of ctx.
func WithUser(ctx context.Context, user string) context.Context {
	ids := From(ctx)
	ids.UserID = user
	return With(ctx, ids)
}

// Caused returns a context for the work that message id causes: the other
// identifiers stay, CausationID becomes id.
func Caused(ctx context.Context, id string) context.Context {
	ids := From(ctx)
	ids.CausationID = id
	return With(ctx, ids)
}

// Ensure returns a context whose RequestID and CorrelationID are both present and
// [Valid], with the identifiers it holds. An invalid RequestID is replaced by a
// [NewID]; an invalid or missing CorrelationID by the RequestID; an invalid
// CausationID is dropped. What is valid stays as it was.
func Ensure(ctx context.Context) (context.Context, IDs) {
	before := From(ctx)
	ids := before
	if !Valid(ids.RequestID) {
		ids.RequestID = NewID()
	}
	if !Valid(ids.CorrelationID) {
		ids.CorrelationID = ids.RequestID
	}
	if !Valid(ids.CausationID) {
		ids.CausationID = ""
	}
	if ids == before {
		return ctx, ids
	}
	return With(ctx, ids), ids
}

// Valid reports whether id may be accepted from another process: 1 to [MaxLength]
// characters out of A-Z, a-z, 0-9, '.', '_' and '-'. Anything else could forge log
// lines or header fields.
func Valid(id string) bool {
	if id == "" || len(id) > MaxLength {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}

// NewID returns a fresh identifier: 128 random bits as 32 hexadecimal digits.
// It is safe for concurrent use and never fails.
func NewID() string {
	var b [16]byte
	rand.Read(b[:]) //nolint:errcheck // crypto/rand.Read is documented never to fail
	var out [32]byte
	hex.Encode(out[:], b[:])
	return string(out[:])
}
