package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Claim takes up to limit due intents for this process to work on until lease
// from now, the longest due first. One that nobody settles until then is due
// again, to be queried. next is when the next open intent is due, zero where
// there is none.
func Claim(ctx context.Context, db *sqldb.DB, v *Vault, now time.Time, lease time.Duration, limit int) (claims []domain.Claim, next time.Time, err error) {
	err = sqldb.InTx(ctx, db, func(ctx context.Context, std *sql.Tx) error {
		tx := sqldb.StdTx(std)
		due, err := dueIntents(ctx, tx, db.Dialect, now, limit)
		if err != nil {
			return err
		}
		b := book{tx: tx, d: db.Dialect}
		for _, i := range due {
			// Read without a lock: T1 and T2 lock the payment before its intents.
			p, err := payment(ctx, tx, i.OrderID, "")
			if err != nil {
				return err
			}
			ask := i.Progress != domain.Recorded
			i.Progress, i.DueAt = domain.Calling, now.Add(lease)
			i.Attempts++
			if err := b.SaveIntent(ctx, i); err != nil {
				return err
			}
			claims = append(claims, domain.Claim{
				Intent: i, Payment: p, Ask: ask,
				Card: func(ctx context.Context) (domain.Card, error) { return v.Card(ctx, p.MethodID) },
			})
		}
		next, err = nextDue(ctx, tx)
		return err
	})
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("payment: claim intents: %w", err)
	}
	return claims, next, nil
}

func dueIntents(ctx context.Context, tx sqldb.Tx, d sqldb.Dialect, now time.Time, limit int) ([]domain.Intent, error) {
	rows, err := tx.Query(ctx, `SELECT `+intentColumns+` FROM intents
		WHERE progress IN ('recorded', 'calling', 'unknown') AND due_at <= $1
		ORDER BY due_at LIMIT $2`+d.ForUpdateSkipLocked(), sqldb.Micros(now), limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	var due []domain.Intent
	for rows.Next() {
		i, err := scanIntent(rows)
		if err != nil {
			return nil, err
		}
		due = append(due, i)
	}
	return due, rows.Err()
}

func nextDue(ctx context.Context, tx sqldb.Tx) (time.Time, error) {
	var us sql.NullInt64
	err := tx.QueryRow(ctx, `SELECT MIN(due_at) FROM intents WHERE progress IN ('recorded', 'calling', 'unknown')`).Scan(&us)
	if err != nil || !us.Valid {
		return time.Time{}, err
	}
	return sqldb.FromMicros(us.Int64), nil
}

// OrderFacts is what this service knows of one order's money, in minor units.
type OrderFacts struct {
	State       string
	Sums        domain.Sums
	OpenIntents int
}

// Orders returns the facts of every order that was ever charged.
func Orders(ctx context.Context, db *sqldb.DB) (map[string]OrderFacts, error) {
	all := map[string]OrderFacts{}
	read := func(query string, scan func(rows *sql.Rows) error) error {
		rows, err := db.Read.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	// What is under way is read first: where nothing is, what is read after it is
	// as it will stay.
	err := read(`SELECT order_id, COUNT(*) FROM intents WHERE progress IN ('recorded', 'calling', 'unknown') GROUP BY order_id`, func(rows *sql.Rows) error {
		var id string
		var n int
		if err := rows.Scan(&id, &n); err != nil {
			return err
		}
		all[id] = OrderFacts{OpenIntents: n}
		return nil
	})
	if err == nil {
		err = read(`SELECT order_id, state FROM payments`, func(rows *sql.Rows) error {
			var id, state string
			if err := rows.Scan(&id, &state); err != nil {
				return err
			}
			f := all[id]
			f.State = state
			all[id] = f
			return nil
		})
	}
	if err == nil {
		err = read(`SELECT order_id, `+sumColumns+` FROM ledger GROUP BY order_id`, func(rows *sql.Rows) error {
			var id string
			var s domain.Sums
			if err := rows.Scan(&id, &s.Authorized, &s.Voided, &s.Captured, &s.Refunded); err != nil {
				return err
			}
			f := all[id]
			f.Sums = s
			all[id] = f
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("payment: read facts: %w", err)
	}
	return all, nil
}
