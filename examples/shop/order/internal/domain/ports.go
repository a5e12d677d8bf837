package domain

import (
	"context"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Happening is something that happened to an order, told to other services.
type Happening string

// What happens to orders.
const (
	HappenedCreated   Happening = "created"
	HappenedConfirmed Happening = "confirmed"
	HappenedFailed    Happening = "failed"
	HappenedCancelled Happening = "cancelled"
	HappenedRefunded  Happening = "refunded"
	// HappenedNothing is a change that concerns nobody else.
	HappenedNothing Happening = ""
)

// Orders are the orders as one transaction sees them. The store implements it.
type Orders interface {
	// Insert adds an order and appends that it was created.
	Insert(ctx context.Context, o Order) error
	// Lock reads an order and locks it until the transaction ends. ErrNotFound.
	Lock(ctx context.Context, id string) (Order, error)
	// Save writes a changed order and appends what happened.
	Save(ctx context.Context, o Order, what Happening) error
}

// OrdersIn opens the orders in a transaction.
type OrdersIn func(tx sqldb.Tx) Orders

// Messages makes the commands that the sagas send. The transport implements it,
// so that the sagas can be read without knowing the encoding.
type Messages interface {
	ReserveStock(c Checkout) (events.Event, error)
	ReleaseStock(c Checkout) (events.Event, error)
	CommitStock(c Checkout) (events.Event, error)
	RestockItems(c Checkout) (events.Event, error)
	AuthorizePayment(c Checkout) (events.Event, error)
	VoidPayment(c Checkout) (events.Event, error)
	CapturePayment(c Checkout) (events.Event, error)
	RefundPayment(c Checkout) (events.Event, error)
}
