package domain

import (
	"context"
	"fmt"
	"time"
)

// Outcome is what T2 made of an answer.
type Outcome struct {
	// Reply says that the command can be answered now.
	Reply   bool
	Refused bool
	Reason  string
	// Held says, of a void, that there was a hold to let go.
	Held bool
}

// Settle records what came of a claim. It is called once for each claim, and
// does nothing where the intent was decided meanwhile. retryAt is when an
// undecided intent is looked at again.
func Settle(ctx context.Context, b Book, c Claim, a Answer, retryAt, now time.Time) (Outcome, error) {
	p, err := b.Payment(ctx, c.Intent.OrderID)
	if err != nil {
		return Outcome{}, err
	}
	i, err := b.Intent(ctx, c.Intent.Key)
	if err != nil {
		return Outcome{}, err
	}
	if !i.Progress.Open() {
		return Outcome{}, nil
	}
	switch a.Verdict {
	case VerdictDone, VerdictRefused:
		// The provider's word counts, whichever claim brought it.
	default:
		if i.Attempts != c.Intent.Attempts {
			return Outcome{}, nil // a later claim is at work
		}
		i.Progress, i.DueAt = Unknown, retryAt
		if a.Verdict == VerdictNotSent && !c.Ask {
			i.Progress = Recorded
		}
		return Outcome{}, b.SaveIntent(ctx, i)
	}
	i.Progress, i.Reason = Succeeded, a.Reason
	if a.Verdict == VerdictRefused {
		i.Progress = Refused
	}
	if err := b.SaveIntent(ctx, i); err != nil {
		return Outcome{}, err
	}
	outcome, err := apply(ctx, b, &p, i, a, now)
	if err != nil {
		return Outcome{}, err
	}
	return outcome, b.SavePayment(ctx, p, now)
}

// apply moves the payment and writes the ledger for a decided intent.
func apply(ctx context.Context, b Book, p *Payment, i Intent, a Answer, now time.Time) (Outcome, error) {
	outcome := Outcome{Reply: true, Refused: i.Progress == Refused, Reason: i.Reason}
	enter := func(key string, kind EntryKind, amount int64) error {
		return b.Enter(ctx, Entry{Key: key, Kind: kind, OrderID: p.OrderID, Amount: amount, Currency: p.Currency, At: now})
	}
	switch i.Kind {
	case KindAuthorize:
		if outcome.Refused {
			if p.State == StateVoidRequested {
				p.State = StateVoided // and there is nothing left to void
				return outcome, withdraw(ctx, b, p.VoidKey)
			}
			p.State = StateDeclined
			return outcome, nil
		}
		p.AuthorizationID = a.AuthorizationID
		if p.State == StateAuthorizing {
			p.State = StateAuthorized
		}
		return outcome, enter(i.Key, EntryAuthorized, i.Amount)
	case KindCapture:
		if outcome.Refused {
			return outcome, nil
		}
		p.State = StateCaptured
		return outcome, enter(i.Key, EntryCaptured, i.Amount)
	case KindRefund:
		if outcome.Refused {
			return outcome, nil
		}
		return outcome, enter(i.Key, EntryRefunded, i.Amount)
	case KindVoid:
		if outcome.Refused {
			return outcome, nil
		}
		outcome.Held = a.AuthorizationID != ""
		return outcome, voided(ctx, b, p, a, i, enter)
	default:
		return Outcome{}, fmt.Errorf("payment: unknown intent %q", i.Kind)
	}
}

// voided closes a payment whose hold is gone, or never was.
func voided(ctx context.Context, b Book, p *Payment, a Answer, i Intent, enter func(string, EntryKind, int64) error) error {
	p.State = StateVoided
	if err := withdraw(ctx, b, p.AuthorizeKey); err != nil {
		return err
	}
	if a.AuthorizationID == "" {
		return nil // there was nothing to reverse
	}
	p.AuthorizationID = a.AuthorizationID
	// The hold may be news: its own answer was lost.
	if err := enter(p.AuthorizeKey, EntryAuthorized, p.Amount); err != nil {
		return err
	}
	return enter(i.Key, EntryVoided, p.Amount)
}

// withdraw closes an intent whose effect is known to be absent.
func withdraw(ctx context.Context, b Book, key string) error {
	i, err := b.Intent(ctx, key)
	if err != nil || !i.Progress.Open() {
		return err
	}
	i.Progress = Withdrawn
	return b.SaveIntent(ctx, i)
}
