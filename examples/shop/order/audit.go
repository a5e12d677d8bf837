package order

import (
	"context"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	Orders []OrderFacts `json:"orders"`
	// SagasUnfinished counts the sagas that have not ended, SagasStuck those of
	// them that wait for an operator.
	SagasUnfinished int            `json:"sagas_unfinished"`
	SagasStuck      int            `json:"sagas_stuck"`
	Outbox          outbox.Backlog `json:"outbox"`
	DeadLetters     int            `json:"dead_letters"`
}

// OrderFacts is one order.
type OrderFacts struct {
	ID         string    `json:"id"`
	UserID     string    `json:"user"`
	Status     string    `json:"status"`
	TotalMinor int64     `json:"total_minor"`
	Refunding  bool      `json:"refunding"`
	CreatedAt  time.Time `json:"created_at"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	var f Facts
	var err error
	// What is under way is read before the orders: where nothing is, the orders
	// read after it are as they will stay.
	if f.SagasUnfinished, f.SagasStuck, err = sqlsaga.Unfinished(ctx, db); err != nil {
		return Facts{}, err
	}
	if f.Outbox, err = outbox.ReadBacklog(ctx, db); err != nil {
		return Facts{}, err
	}
	rows, err := db.Read.QueryContext(ctx, `SELECT id, user_id, status, total, refunding, created_at FROM orders ORDER BY created_at, id`)
	if err != nil {
		return Facts{}, fmt.Errorf("order: audit: %w", err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var o OrderFacts
		var created int64
		if err := rows.Scan(&o.ID, &o.UserID, &o.Status, &o.TotalMinor, &o.Refunding, &created); err != nil {
			return Facts{}, fmt.Errorf("order: audit: %w", err)
		}
		o.CreatedAt = sqldb.FromMicros(created)
		f.Orders = append(f.Orders, o)
	}
	if err := rows.Err(); err != nil {
		return Facts{}, fmt.Errorf("order: audit: %w", err)
	}
	dead, err := inbox.ReadDeadLetters(ctx, db, "")
	f.DeadLetters = len(dead)
	return f, err
}
