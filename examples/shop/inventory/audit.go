package inventory

import (
	"context"
	"math"

	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/store"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	// Products are the levels by product.
	Products map[string]ProductFacts `json:"products"`
	// Reservations are active, committed, released, expired or restocked, by
	// order.
	Reservations       map[string]string `json:"reservations"`
	ActiveReservations int               `json:"active_reservations"`
	Outbox             outbox.Backlog    `json:"outbox"`
	DeadLetters        int               `json:"dead_letters"`
}

// ProductFacts is the level of one product. The sums count since the beginning.
type ProductFacts struct {
	OnHand    int64 `json:"on_hand"`
	Reserved  int64 `json:"reserved"`
	Committed int64 `json:"committed"`
	Received  int64 `json:"received"`
	Adjusted  int64 `json:"adjusted"`
	Restocked int64 `json:"restocked"`
	// LedgerAgrees says that the movements add up to the level.
	LedgerAgrees bool `json:"ledger_agrees"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	f := Facts{Products: map[string]ProductFacts{}, Reservations: map[string]string{}}
	levels, err := store.List(ctx, db, "", math.MaxInt32)
	if err != nil {
		return Facts{}, err
	}
	sums, err := store.LedgerSums(ctx, db)
	if err != nil {
		return Facts{}, err
	}
	for _, l := range levels {
		m := sums[l.ProductID]
		f.Products[l.ProductID] = ProductFacts{
			OnHand: l.OnHand, Reserved: l.Reserved, Committed: l.Committed,
			Received: l.Received, Adjusted: l.Adjusted, Restocked: l.Restocked,
			LedgerAgrees: l.Received == m[domain.Received] && l.Adjusted == m[domain.Adjusted] &&
				l.Committed == m[domain.Committed] && l.Restocked == m[domain.Restocked] &&
				l.Reserved == m[domain.Reserved]-m[domain.Released]-m[domain.Expired]-m[domain.Committed],
		}
	}
	reservations, err := store.Reservations(ctx, db)
	if err != nil {
		return Facts{}, err
	}
	for id, status := range reservations {
		f.Reservations[id] = string(status)
		if status == domain.StatusActive {
			f.ActiveReservations++
		}
	}
	if f.Outbox, err = outbox.ReadBacklog(ctx, db); err != nil {
		return Facts{}, err
	}
	dead, err := inbox.ReadDeadLetters(ctx, db, "")
	f.DeadLetters = len(dead)
	return f, err
}
