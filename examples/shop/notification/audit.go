package notification

import (
	"context"
	"fmt"

	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Told is what the service's database says of one notification.
type Told struct {
	ID      string `json:"id"`
	OrderID string `json:"order_id"`
	Kind    string `json:"kind"`
	Channel string `json:"channel"`
	Status  string `json:"status"`
}

// Facts are what the service's own database says, for the shop's check.
type Facts struct {
	Notifications []Told `json:"notifications"`
	// Outcomes are the endings heard of, as "order kind".
	Outcomes []string `json:"outcomes"`
	// Waiting counts the outcomes whose customer's contact has not arrived.
	Waiting     int `json:"waiting"`
	DeadLetters int `json:"dead_letters"`
}

// Audit reads the facts. It changes nothing.
func Audit(ctx context.Context, db *sqldb.DB) (Facts, error) {
	var f Facts
	rows, err := db.Read.QueryContext(ctx, `SELECT id, order_id, kind, channel, status FROM notifications`)
	if err != nil {
		return f, fmt.Errorf("notification: audit: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var t Told
		if err := rows.Scan(&t.ID, &t.OrderID, &t.Kind, &t.Channel, &t.Status); err != nil {
			return f, err
		}
		f.Notifications = append(f.Notifications, t)
	}
	if err := rows.Err(); err != nil {
		return f, err
	}
	outcomes, err := db.Read.QueryContext(ctx, `SELECT order_id, kind, decided FROM outcomes`)
	if err != nil {
		return f, fmt.Errorf("notification: audit: %w", err)
	}
	defer outcomes.Close()
	for outcomes.Next() {
		var order, kind string
		var decided int
		if err := outcomes.Scan(&order, &kind, &decided); err != nil {
			return f, err
		}
		f.Outcomes = append(f.Outcomes, order+" "+kind)
		if decided == 0 {
			f.Waiting++
		}
	}
	if err := outcomes.Err(); err != nil {
		return f, err
	}
	letters, err := inbox.ReadDeadLetters(ctx, db, Name)
	for _, l := range letters {
		if l.State != inbox.Redriven && l.State != inbox.Dropped {
			f.DeadLetters++
		}
	}
	return f, err
}
