package domain

import (
	"context"
	"errors"
	"time"
)

// Errors of this package's functions.
var (
	// ErrNoPayment says that nothing was ever asked for an order.
	ErrNoPayment = errors.New("payment: nothing was asked for this order")
	// ErrNoIntent says that there is no intent of a key.
	ErrNoIntent = errors.New("payment: no intent of this key")
	// ErrNoMethod says that a payment method does not exist, or is another
	// customer's, which is the same to the caller.
	ErrNoMethod = errors.New("payment: no such payment method")
)

// State is where the payment of an order is.
type State string

// The states of a payment.
const (
	StateAuthorizing   State = "authorizing"
	StateDeclined      State = "declined"
	StateAuthorized    State = "authorized"
	StateVoidRequested State = "void_requested"
	StateVoided        State = "voided"
	StateCaptured      State = "captured"
)

// Payment is the payment of one order.
type Payment struct {
	OrderID, UserID, MethodID string
	Amount                    int64 // minor units
	Currency                  string
	State                     State
	// AuthorizeKey is the key of the intent that asks for the money.
	AuthorizeKey string
	// AuthorizationID is the provider's name for it, once known.
	AuthorizationID string
	// VoidKey is the key of the intent that lets the money go, where there is one.
	VoidKey string
}

// Kind names what an intent wants of the provider.
type Kind string

// The kinds of intents.
const (
	KindAuthorize Kind = "authorize"
	KindCapture   Kind = "capture"
	KindVoid      Kind = "void"
	KindRefund    Kind = "refund"
)

// Progress is how far an intent is.
type Progress string

// The progress of an intent. The first three are open.
const (
	// Recorded has not been called, or the provider says that it knows nothing
	// of it.
	Recorded Progress = "recorded"
	// Calling may have been called.
	Calling Progress = "calling"
	// Unknown was called, and what came of it is not known yet.
	Unknown Progress = "unknown"
	// Succeeded and Refused are the provider's outcomes.
	Succeeded Progress = "succeeded"
	Refused   Progress = "refused"
	// Withdrawn was taken back: whatever it would have done is absent.
	Withdrawn Progress = "withdrawn"
)

// Open reports whether the intent is still to be decided.
func (p Progress) Open() bool { return p == Recorded || p == Calling || p == Unknown }

// Intent is one thing that is wanted of the provider, recorded before it is
// asked for.
type Intent struct {
	// Key is the saga's step key and the provider's idempotency key.
	Key      string
	OrderID  string
	Kind     Kind
	Amount   int64
	Currency string
	Progress Progress
	Reason   string
	// Attempts counts the claims, each of which calls or queries once.
	Attempts int
	// DueAt is when it is to be worked on next; of a claimed one, when its
	// claim lapses.
	DueAt     time.Time
	CreatedAt time.Time
	Origin    Origin
}

// Origin is the flow that an intent belongs to, so that its outcome is told as
// part of it although another goroutine, or another process, finds it out.
type Origin struct {
	CorrelationID string `json:"correlation_id,omitempty"`
	// CausationID is the command's event.
	CausationID string `json:"causation_id,omitempty"`
	UserID      string `json:"user_id,omitempty"`
	TraceParent string `json:"trace_parent,omitempty"`
	TraceState  string `json:"trace_state,omitempty"`
}

// EntryKind names a line of the ledger.
type EntryKind string

// The lines of the ledger.
const (
	EntryAuthorized EntryKind = "authorized"
	EntryVoided     EntryKind = "voided"
	EntryCaptured   EntryKind = "captured"
	EntryRefunded   EntryKind = "refunded"
)

// Entry is a line of the ledger: money that moved, or was held.
type Entry struct {
	Key      string
	Kind     EntryKind
	OrderID  string
	Amount   int64
	Currency string
	At       time.Time
}

// Sums adds the ledger of one order up, in minor units.
type Sums struct{ Authorized, Voided, Captured, Refunded int64 }

// Book is the payments, intents and ledger within one transaction: the port
// that the store implements. What it reads it locks until the transaction ends;
// lock the payment before its intents.
type Book interface {
	// Payment fails with ErrNoPayment.
	Payment(ctx context.Context, orderID string) (Payment, error)
	SavePayment(ctx context.Context, p Payment, at time.Time) error
	// Intent fails with ErrNoIntent.
	Intent(ctx context.Context, key string) (Intent, error)
	SaveIntent(ctx context.Context, i Intent) error
	// Enter adds a line to the ledger, once for each key and kind.
	Enter(ctx context.Context, e Entry) error
	Sums(ctx context.Context, orderID string) (Sums, error)
	// HasMethod fails with ErrNoMethod unless the customer has the method.
	HasMethod(ctx context.Context, userID, methodID string) error
}
