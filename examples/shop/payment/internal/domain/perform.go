package domain

import (
	"context"
	"errors"
	"fmt"
)

// Verdict is what the provider says of a key.
type Verdict int

const (
	// VerdictUnknown means that no answer came.
	VerdictUnknown Verdict = iota
	// VerdictDone means that it took effect.
	VerdictDone
	// VerdictRefused means that it did not, and will not.
	VerdictRefused
	// VerdictPending means that it was accepted and takes effect later.
	VerdictPending
	// VerdictAbsent means that the provider knows nothing of the key.
	VerdictAbsent
	// VerdictNotSent means that the request certainly never left.
	VerdictNotSent
)

// Answer is what came of one call or query.
type Answer struct {
	Verdict         Verdict
	Reason          string
	AuthorizationID string
	// Amount is what was held, of a void: 0 where there was nothing to void.
	Amount int64
}

// ErrNotSent is in the tree of an Acquirer's error that proves that the request
// never left this process; any other error leaves the outcome unknown.
var ErrNotSent = errors.New("payment: the request was not sent")

// Card is what the provider needs to know of a card. It is never logged.
type Card struct {
	Number            string
	ExpMonth, ExpYear int
}

// String keeps a card out of logs and error texts.
func (Card) String() string { return "card(redacted)" }

// GoString is String for %#v.
func (c Card) GoString() string { return c.String() }

// Acquirer is the payment provider: the port that the transport implements.
// Every operation carries its idempotency key.
type Acquirer interface {
	Authorize(ctx context.Context, key string, card Card, amount int64, currency, reference string) (Answer, error)
	Capture(ctx context.Context, key, authorizationID string, amount int64) (Answer, error)
	Void(ctx context.Context, key, authorizationID string) (Answer, error)
	Refund(ctx context.Context, key, authorizationID string, amount int64) (Answer, error)
	// Reverse takes back what another key did, or keeps it from happening.
	Reverse(ctx context.Context, key, otherKey string) (Answer, error)
	// Query asks what became of a key, without doing anything.
	Query(ctx context.Context, key string) (Answer, error)
}

// Claim is an intent that this process has taken to work on, with what it needs
// for that.
type Claim struct {
	Intent  Intent
	Payment Payment
	// Ask is set where the intent may have been called before: query first.
	Ask bool
	// Card opens the vault; only an authorisation needs it.
	Card func(ctx context.Context) (Card, error)
}

// Perform calls the provider for a claim, or asks it what became of an earlier
// call. It never fails: what it could not find out is an Answer too. cause is
// for the log.
func Perform(ctx context.Context, a Acquirer, c Claim) (answer Answer, cause error) {
	if c.Ask {
		answer, err := a.Query(ctx, c.Intent.Key)
		if err != nil {
			return Answer{Verdict: VerdictUnknown}, err
		}
		if answer.Verdict != VerdictAbsent {
			return answer, nil
		}
		// The provider knows nothing of the key: calling is the only way on, and
		// should an earlier request still arrive the key makes them one.
	}
	answer, err := call(ctx, a, c)
	switch {
	case errors.Is(err, ErrNotSent):
		return Answer{Verdict: VerdictNotSent}, err
	case err != nil:
		return Answer{Verdict: VerdictUnknown}, err
	}
	return answer, nil
}

func call(ctx context.Context, a Acquirer, c Claim) (Answer, error) {
	i, p := c.Intent, c.Payment
	switch i.Kind {
	case KindAuthorize:
		card, err := c.Card(ctx)
		if err != nil {
			return Answer{}, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return a.Authorize(ctx, i.Key, card, i.Amount, i.Currency, i.OrderID)
	case KindCapture:
		return a.Capture(ctx, i.Key, p.AuthorizationID, i.Amount)
	case KindRefund:
		return a.Refund(ctx, i.Key, p.AuthorizationID, i.Amount)
	case KindVoid:
		if p.AuthorizationID == "" {
			return a.Reverse(ctx, i.Key, p.AuthorizeKey)
		}
		return a.Void(ctx, i.Key, p.AuthorizationID)
	default:
		return Answer{}, fmt.Errorf("%w: unknown intent %q", ErrNotSent, i.Kind)
	}
}
