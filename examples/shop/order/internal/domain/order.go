// Package domain holds the rules of orders: their states, who may change them,
// and the two sagas that carry them through. It knows neither SQL nor the wire.
//
//	pending ──checkout completes──→ confirmed ──refund completes──→ refunded
//	   ├──checkout is refused, or takes too long──→ failed
//	   └──checkout is cancelled──→ cancelled
package domain

import (
	"errors"
	"fmt"
	"time"
)

// Errors of this package's functions.
var (
	// ErrNotFound says that there is no such order, or that it is another
	// customer's, which is the same to the caller.
	ErrNotFound = errors.New("order: no such order")
	// ErrNotCancellable says that an order ended in a way that leaves nothing
	// to cancel.
	ErrNotCancellable = errors.New("order: it cannot be cancelled any more")
	// ErrTransition says that a change does not fit the order's state.
	ErrTransition = errors.New("order: the change does not fit its state")
)

// Status is where an order is.
type Status string

// The statuses of an order.
const (
	Pending   Status = "pending"
	Confirmed Status = "confirmed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
	Refunded  Status = "refunded"
)

// Item is a line of an order, priced when the order was made.
type Item struct {
	ProductID string `json:"product_id"`
	Name      string `json:"name"`
	Quantity  int32  `json:"quantity"`
	UnitPrice int32  `json:"unit_price"` // minor units
}

// Order is what a customer bought, or tried to. Amounts are in minor units of
// Currency.
type Order struct {
	ID, UserID    string
	MethodID      string
	Status        Status
	Items         []Item
	Total         int32
	Discount      int32
	Currency      string
	FailureReason string
	// FromCart says that the order was made of the customer's cart.
	FromCart bool
	// Refunding says that the money is on its way back.
	Refunding bool
	// CancelRequested says that the customer wants it back, and that how far that
	// goes is being worked out.
	CancelRequested bool
	// Revision grows with each change.
	Revision             int64
	CreatedAt, UpdatedAt time.Time
}

// Ended reports whether nothing more will happen to the order by itself.
func (o Order) Ended() bool {
	switch o.Status {
	case Failed, Cancelled, Refunded:
		return true
	case Confirmed:
		return !o.Refunding
	default:
		return false
	}
}

// change is the one way an order changes.
func (o *Order) change(from, to Status, now time.Time) error {
	if o.Status != from {
		return fmt.Errorf("%w: %s is %s, not %s", ErrTransition, o.ID, o.Status, from)
	}
	o.Status, o.UpdatedAt = to, now
	o.Revision++
	return nil
}

// Confirm records that the order is paid and its goods are sold.
func (o *Order) Confirm(now time.Time) error { return o.change(Pending, Confirmed, now) }

// Fail records that the order did not come about.
func (o *Order) Fail(reason string, now time.Time) error {
	o.FailureReason = reason
	return o.change(Pending, Failed, now)
}

// Cancel records that the order was taken back before it was paid.
func (o *Order) Cancel(reason string, now time.Time) error {
	o.FailureReason = reason
	return o.change(Pending, Cancelled, now)
}

// RequestCancel records that the customer wants the order back. first is false
// where that was known.
func (o *Order) RequestCancel(now time.Time) (first bool, err error) {
	if o.CancelRequested {
		return false, nil
	}
	if err := o.change(o.Status, o.Status, now); err != nil {
		return false, err
	}
	o.CancelRequested = true
	return true, nil
}

// BeginRefund records that the money is on its way back. first is false where
// that was known.
func (o *Order) BeginRefund(now time.Time) (first bool, err error) {
	if o.Refunding || o.Status == Refunded {
		return false, nil
	}
	if err := o.change(Confirmed, Confirmed, now); err != nil {
		return false, err
	}
	o.Refunding, o.CancelRequested = true, true
	return true, nil
}

// Refund records that the money is back.
func (o *Order) Refund(now time.Time) error {
	o.Refunding = false
	return o.change(Confirmed, Refunded, now)
}
