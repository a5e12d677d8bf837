package domain

import (
	"context"
	"errors"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// Checkout is the state of both sagas: what the commands are made of.
type Checkout struct {
	OrderID  string `json:"order_id"`
	UserID   string `json:"user_id"`
	MethodID string `json:"method_id"`
	Items    []Item `json:"items"`
	Amount   int32  `json:"amount"` // minor units
	Currency string `json:"currency"`
	// ReservedUntil is when the stock's reservation expires.
	ReservedUntil time.Time `json:"reserved_until"`
}

// pivotBound is how much longer than the checkout's deadline a reservation is
// kept: the time that the capture may need to be decided, by query where its
// answer is lost.
const pivotBound = 3 * time.Minute

// NewCheckout returns the saga state of a new order.
func NewCheckout(o Order, deadline time.Duration) Checkout {
	return Checkout{
		OrderID: o.ID, UserID: o.UserID, MethodID: o.MethodID, Items: o.Items,
		Amount: o.Total, Currency: o.Currency, ReservedUntil: o.CreatedAt.Add(deadline + pivotBound),
	}
}

// CheckoutID names the saga that carries an order through checkout.
func CheckoutID(orderID string) string { return orderID }

// RefundID names the saga that gives an order's money back.
func RefundID(orderID string) string { return orderID + ".refund" }

// Sagas makes the two definitions. Its fields are required.
type Sagas struct {
	Messages Messages
	Orders   OrdersIn
	// Deadline is how long a checkout may take before it is taken back.
	Deadline time.Duration
	Now      func() time.Time
	// StartRefund starts the saga that Refund defines.
	StartRefund func(ctx context.Context, tx sqldb.Tx, c Checkout) error
}

// Checkout is the saga of an order:
//
//	reserve-stock ∥ authorize-payment → commit-stock → capture-payment* → confirm-order
//
// Until the capture (*, the pivot) is attempted everything is taken back: on a
// refusal, at the deadline, and when the customer cancels. Once it has happened
// the order is confirmed; a cancellation that came meanwhile starts the refund
// in the same transaction.
func (s Sagas) Checkout() saga.Definition[Checkout] {
	m := s.Messages
	return saga.Definition[Checkout]{
		Name: "checkout", Version: 1, Deadline: s.Deadline,
		Steps: []saga.Step[Checkout]{
			saga.Parallel[Checkout]("hold",
				&saga.Command[Checkout]{Name: "reserve-stock", Do: message(m.ReserveStock), Undo: message(m.ReleaseStock)},
				&saga.Command[Checkout]{Name: "authorize-payment", Do: message(m.AuthorizePayment), Undo: message(m.VoidPayment)},
			),
			&saga.Command[Checkout]{Name: "commit-stock", Do: message(m.CommitStock), Undo: message(m.RestockItems)},
			&saga.Command[Checkout]{Name: "capture-payment", Kind: saga.Pivot, Do: message(m.CapturePayment)},
			&saga.Local[Checkout]{Name: "confirm-order", Kind: saga.Retriable, Do: s.confirm},
		},
		OnCompleted:   s.completed,
		OnCompensated: s.compensated,
	}
}

// Refund is the saga that gives an order's money back and its goods.
func (s Sagas) Refund() saga.Definition[Checkout] {
	m := s.Messages
	return saga.Definition[Checkout]{
		Name: "refund", Version: 1,
		Steps: []saga.Step[Checkout]{
			&saga.Command[Checkout]{Name: "refund-payment", Kind: saga.Retriable, Do: message(m.RefundPayment)},
			&saga.Command[Checkout]{Name: "restock", Kind: saga.Retriable, Do: message(m.RestockItems)},
			&saga.Local[Checkout]{Name: "mark-refunded", Kind: saga.Retriable, Do: s.refunded},
		},
	}
}

func message(build func(Checkout) (events.Event, error)) func(*Checkout) (events.Event, error) {
	return func(c *Checkout) (events.Event, error) { return build(*c) }
}

func (s Sagas) confirm(ctx context.Context, tx sqldb.Tx, c *Checkout) error {
	orders := s.Orders(tx)
	o, err := orders.Lock(ctx, c.OrderID)
	if err != nil {
		return err
	}
	if err := o.Confirm(s.Now()); err != nil {
		return err
	}
	return orders.Save(ctx, o, HappenedConfirmed)
}

// completed runs in the transaction that confirmed the order. A cancellation
// that came when the capture was under way could not take it back: the refund
// starts here, so that there is no moment at which it can be lost.
func (s Sagas) completed(ctx context.Context, tx sqldb.Tx, c *Checkout) error {
	if _, cancelled := saga.CancelRequested(ctx); !cancelled {
		return nil
	}
	return s.BeginRefund(ctx, tx, *c)
}

// BeginRefund marks a confirmed order and starts its refund, once.
func (s Sagas) BeginRefund(ctx context.Context, tx sqldb.Tx, c Checkout) error {
	orders := s.Orders(tx)
	o, err := orders.Lock(ctx, c.OrderID)
	if err != nil {
		return err
	}
	first, err := o.BeginRefund(s.Now())
	if err != nil || !first {
		return err
	}
	if err := orders.Save(ctx, o, HappenedNothing); err != nil {
		return err
	}
	return s.StartRefund(ctx, tx, c)
}

func (s Sagas) compensated(ctx context.Context, tx sqldb.Tx, c *Checkout, why saga.Cause) error {
	orders := s.Orders(tx)
	o, err := orders.Lock(ctx, c.OrderID)
	if err != nil {
		return err
	}
	what := HappenedFailed
	if why.Kind == saga.CauseCancelled {
		what = HappenedCancelled
		err = o.Cancel(why.Reason, s.Now())
	} else {
		err = o.Fail(failureReason(why), s.Now())
	}
	if err != nil {
		return err
	}
	return orders.Save(ctx, o, what)
}

// failureReason is what the customer reads: a participant's reason is a word of
// its contract, everything else stays with the operator.
func failureReason(why saga.Cause) string {
	switch why.Kind {
	case saga.CauseRefused:
		return why.Reason
	case saga.CauseDeadline:
		return "timed_out"
	default:
		return "could_not_be_completed"
	}
}

func (s Sagas) refunded(ctx context.Context, tx sqldb.Tx, c *Checkout) error {
	orders := s.Orders(tx)
	o, err := orders.Lock(ctx, c.OrderID)
	if err != nil {
		return err
	}
	if err := o.Refund(s.Now()); err != nil {
		return err
	}
	return orders.Save(ctx, o, HappenedRefunded)
}

// Canceller cancels checkouts; the saga's handle implements it.
type Canceller interface {
	Cancel(ctx context.Context, tx sqldb.Tx, id, reason string) (saga.CancelResult, error)
}

// CancelOrder takes an order back, whatever it takes at this moment:
// compensation, a refund once it is paid, or nothing where that is done already.
// It locks the saga before the order, as the coordinator does.
func (s Sagas) CancelOrder(ctx context.Context, tx sqldb.Tx, checkouts Canceller, userID, id, reason string) (Order, error) {
	orders := s.Orders(tx)
	result, err := checkouts.Cancel(ctx, tx, CheckoutID(id), reason)
	if errors.Is(err, saga.ErrNotFound) {
		return Order{}, ErrNotFound
	}
	if err != nil {
		return Order{}, err
	}
	o, err := orders.Lock(ctx, id)
	if err != nil {
		return Order{}, err
	}
	if o.UserID != userID {
		return Order{}, ErrNotFound // and the transaction rolls the cancellation back
	}
	switch {
	case o.Status == Pending:
		// Under way; the saga brings the outcome, and the customer sees that it was asked for.
		first, err := o.RequestCancel(s.Now())
		if err != nil || !first {
			return o, err
		}
		return o, orders.Save(ctx, o, HappenedNothing)
	case result != saga.CancelEndedCompleted && result != saga.CancelEndedCompensated:
		return o, nil // it ended in this very transaction: nothing was owed
	case o.Status == Failed:
		return Order{}, ErrNotCancellable
	case o.Status == Confirmed && !o.Refunding:
		if err := s.BeginRefund(ctx, tx, NewCheckout(o, s.Deadline)); err != nil {
			return Order{}, err
		}
		return orders.Lock(ctx, id)
	default:
		return o, nil // cancelled or refunded already, or about to be
	}
}
