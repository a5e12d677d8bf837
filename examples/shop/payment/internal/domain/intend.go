package domain

import (
	"context"
	"errors"
	"time"
)

// Decision is what T1 made of a command.
type Decision struct {
	// Deferred says that an intent was recorded; the answer follows when it is
	// settled. Otherwise the command is answered now.
	Deferred bool
	// Refusal says why the command is refused; empty where it is done.
	Refusal string
}

var (
	deferred = Decision{Deferred: true}
	done     = Decision{}
)

func refused(reason string) Decision { return Decision{Refusal: reason} }

// Charge is what Authorize asks for.
type Charge struct {
	OrderID, UserID, MethodID string
	Amount                    int64
	Currency                  string
}

// Authorize records that an order's total is to be held on the customer's card.
func Authorize(ctx context.Context, b Book, key string, c Charge, from Origin, now time.Time) (Decision, error) {
	switch _, err := b.Payment(ctx, c.OrderID); {
	case err == nil:
		// Another step asked for this order's money already: one order, one
		// charge.
		return refused("already_requested"), nil
	case !errors.Is(err, ErrNoPayment):
		return Decision{}, err
	}
	if c.Amount <= 0 {
		return refused("nothing_to_charge"), nil
	}
	switch err := b.HasMethod(ctx, c.UserID, c.MethodID); {
	case errors.Is(err, ErrNoMethod):
		return refused("unknown_payment_method"), nil
	case err != nil:
		return Decision{}, err
	}
	p := Payment{
		OrderID: c.OrderID, UserID: c.UserID, MethodID: c.MethodID, Amount: c.Amount, Currency: c.Currency,
		State: StateAuthorizing, AuthorizeKey: key,
	}
	return intend(ctx, b, p, Intent{Key: key, Kind: KindAuthorize, Amount: c.Amount, Origin: from}, now)
}

// Capture records that money that is held is to be taken.
func Capture(ctx context.Context, b Book, key, orderID string, amount int64, from Origin, now time.Time) (Decision, error) {
	p, err := b.Payment(ctx, orderID)
	switch {
	case errors.Is(err, ErrNoPayment):
		return refused("not_authorized"), nil
	case err != nil:
		return Decision{}, err
	case p.State != StateAuthorized:
		return refused("payment_" + string(p.State)), nil
	case amount <= 0 || amount > p.Amount:
		return refused("amount_exceeds_authorization"), nil
	}
	return intend(ctx, b, p, Intent{Key: key, Kind: KindCapture, Amount: amount, Origin: from}, now)
}

// Refund records that money that was taken is to be given back.
func Refund(ctx context.Context, b Book, key, orderID string, amount int64, from Origin, now time.Time) (Decision, error) {
	p, err := b.Payment(ctx, orderID)
	switch {
	case errors.Is(err, ErrNoPayment):
		return refused("not_captured"), nil
	case err != nil:
		return Decision{}, err
	case p.State != StateCaptured:
		return refused("payment_" + string(p.State)), nil
	}
	sums, err := b.Sums(ctx, orderID)
	if err != nil {
		return Decision{}, err
	}
	if amount <= 0 || sums.Refunded+amount > sums.Captured {
		return refused("amount_exceeds_captured"), nil
	}
	return intend(ctx, b, p, Intent{Key: key, Kind: KindRefund, Amount: amount, Origin: from}, now)
}

// Void records that money that is held, or may be, is to be let go. Where none
// is held it is done at once.
func Void(ctx context.Context, b Book, key, orderID string, from Origin, now time.Time) (Decision, error) {
	p, err := b.Payment(ctx, orderID)
	if errors.Is(err, ErrNoPayment) {
		return done, nil
	}
	if err != nil {
		return Decision{}, err
	}
	switch p.State {
	case StateDeclined, StateVoided:
		return done, nil
	case StateCaptured:
		return refused("payment_captured"), nil
	case StateVoidRequested:
		return deferred, nil
	case StateAuthorizing:
		asked, err := b.Intent(ctx, p.AuthorizeKey)
		if err != nil {
			return Decision{}, err
		}
		if asked.Progress == Recorded && asked.Attempts == 0 {
			// Nobody has called yet, and this transaction holds the row that a
			// caller has to claim: nobody will.
			asked.Progress = Withdrawn
			if err := b.SaveIntent(ctx, asked); err != nil {
				return Decision{}, err
			}
		}
	}
	p.State, p.VoidKey = StateVoidRequested, key
	return intend(ctx, b, p, Intent{Key: key, Kind: KindVoid, Amount: p.Amount, Origin: from}, now)
}

func intend(ctx context.Context, b Book, p Payment, i Intent, now time.Time) (Decision, error) {
	i.OrderID, i.Currency = p.OrderID, p.Currency
	i.Progress, i.DueAt, i.CreatedAt = Recorded, now, now
	if err := b.SavePayment(ctx, p, now); err != nil {
		return Decision{}, err
	}
	if err := b.SaveIntent(ctx, i); err != nil {
		return Decision{}, err
	}
	return deferred, nil
}
