package domain

import (
	"errors"
	"fmt"
	"time"
)

// Errors of this package's functions.
var (
	// ErrUnknownProduct says that there is no stock record of a product.
	ErrUnknownProduct = errors.New("inventory: unknown product")
	// ErrInsufficient says that a movement would promise or remove more than
	// there is.
	ErrInsufficient = errors.New("inventory: not enough stock")
	// ErrNoReservation says that an order has no reservation.
	ErrNoReservation = errors.New("inventory: no reservation for this order")
)

// Level is the stock of one product. OnHand includes what is reserved; the
// other sums count since the beginning.
type Level struct {
	ProductID                                string
	OnHand, Reserved                         int64
	Received, Adjusted, Committed, Restocked int64
}

// Available is what may still be promised.
func (l Level) Available() int64 { return l.OnHand - l.Reserved }

// Kind names what moved a level.
type Kind string

// The kinds of movement and what each of them does to a level.
const (
	Received  Kind = "received"  // on_hand +q: goods came in
	Adjusted  Kind = "adjusted"  // on_hand ±q: an operator counted again
	Reserved  Kind = "reserved"  // reserved +q: promised to an order
	Released  Kind = "released"  // reserved -q: the order gave it up
	Expired   Kind = "expired"   // reserved -q: the order took too long
	Committed Kind = "committed" // reserved -q, on_hand -q: sold
	Restocked Kind = "restocked" // on_hand +q: a sale was taken back
)

// Movement is one entry of the stock ledger.
type Movement struct {
	Kind      Kind
	ProductID string
	// Quantity is above 0, except that an adjustment may be negative.
	Quantity int64
	OrderID  string // empty for Received and Adjusted
	Reason   string
	At       time.Time
}

// Delta is what a movement adds to each column of a level.
type Delta struct{ OnHand, Reserved, Received, Adjusted, Committed, Restocked int64 }

// Delta returns the effect of m.
func (m Movement) Delta() (Delta, error) {
	q := m.Quantity
	if q <= 0 && m.Kind != Adjusted {
		return Delta{}, fmt.Errorf("inventory: %s of %d: the quantity must be above 0", m.Kind, q)
	}
	switch m.Kind {
	case Received:
		return Delta{OnHand: q, Received: q}, nil
	case Adjusted:
		return Delta{OnHand: q, Adjusted: q}, nil
	case Reserved:
		return Delta{Reserved: q}, nil
	case Released, Expired:
		return Delta{Reserved: -q}, nil
	case Committed:
		return Delta{OnHand: -q, Reserved: -q, Committed: q}, nil
	case Restocked:
		return Delta{OnHand: q, Restocked: q}, nil
	default:
		return Delta{}, fmt.Errorf("inventory: unknown movement %q", m.Kind)
	}
}

// Change is a level before and after a movement.
type Change struct{ Before, After Level }

// Flipped reports whether the product became available or unavailable.
func (c Change) Flipped() bool {
	return (c.Before.Available() > 0) != (c.After.Available() > 0)
}
