package payment

import (
	"context"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	// Orders are the payments by order.
	Orders      map[string]OrderFacts `json:"orders"`
	OpenIntents int                   `json:"open_intents"`
	Outbox      outbox.Backlog        `json:"outbox"`
	DeadLetters int                   `json:"dead_letters"`
}

// OrderFacts is the money of one order, in minor units, as the ledger adds up.
type OrderFacts struct {
	State       string `json:"state"`
	Authorised  int64  `json:"authorised"`
	Voided      int64  `json:"voided"`
	Captured    int64  `json:"captured"`
	Refunded    int64  `json:"refunded"`
	OpenIntents int    `json:"open_intents"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	orders, err := store.Orders(ctx, db)
	if err != nil {
		return Facts{}, err
	}
	f := Facts{Orders: make(map[string]OrderFacts, len(orders))}
	for id, o := range orders {
		f.OpenIntents += o.OpenIntents
		f.Orders[id] = OrderFacts{
			State: o.State, Authorised: o.Sums.Authorized, Voided: o.Sums.Voided,
			Captured: o.Sums.Captured, Refunded: o.Sums.Refunded, OpenIntents: o.OpenIntents,
		}
	}
	if f.Outbox, err = outbox.ReadBacklog(ctx, db); err != nil {
		return Facts{}, err
	}
	dead, err := inbox.ReadDeadLetters(ctx, db, "")
	f.DeadLetters = len(dead)
	return f, err
}
