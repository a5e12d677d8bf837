package store

import (
	"context"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// List returns up to limit levels whose product ids follow after, in order.
func List(ctx context.Context, db *sqldb.DB, after string, limit int) ([]domain.Level, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT `+levelColumns+` FROM stock WHERE product_id > $1 ORDER BY product_id LIMIT $2`, after, limit)
	if err != nil {
		return nil, fmt.Errorf("inventory: list stock: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var levels []domain.Level
	for rows.Next() {
		l, err := scanLevel(rows)
		if err != nil {
			return nil, fmt.Errorf("inventory: list stock: %w", err)
		}
		levels = append(levels, l)
	}
	return levels, rows.Err()
}

// Due returns up to limit orders whose active reservations ended before now,
// oldest first.
func Due(ctx context.Context, db *sqldb.DB, now time.Time, limit int) ([]string, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT order_id FROM reservations
		WHERE status = 'active' AND expires_at <= $1 ORDER BY expires_at LIMIT $2`, sqldb.Micros(now), limit)
	if err != nil {
		return nil, fmt.Errorf("inventory: find expired reservations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("inventory: find expired reservations: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// Reservations returns the status of every order's reservation.
func Reservations(ctx context.Context, db *sqldb.DB) (map[string]domain.Status, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT order_id, status FROM reservations`)
	if err != nil {
		return nil, fmt.Errorf("inventory: read reservations: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string]domain.Status{}
	for rows.Next() {
		var id, status string
		if err := rows.Scan(&id, &status); err != nil {
			return nil, fmt.Errorf("inventory: read reservations: %w", err)
		}
		all[id] = domain.Status(status)
	}
	return all, rows.Err()
}

// LedgerSums adds up the movements by product and kind, for an audit that does
// not take the levels' word for it.
func LedgerSums(ctx context.Context, db *sqldb.DB) (map[string]map[domain.Kind]int64, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT product_id, kind, CAST(SUM(quantity) AS BIGINT) FROM movements GROUP BY product_id, kind`)
	if err != nil {
		return nil, fmt.Errorf("inventory: sum movements: %w", err)
	}
	defer func() { _ = rows.Close() }()
	all := map[string]map[domain.Kind]int64{}
	for rows.Next() {
		var id, kind string
		var sum int64
		if err := rows.Scan(&id, &kind, &sum); err != nil {
			return nil, fmt.Errorf("inventory: sum movements: %w", err)
		}
		if all[id] == nil {
			all[id] = map[domain.Kind]int64{}
		}
		all[id][domain.Kind(kind)] = sum
	}
	return all, rows.Err()
}
