// Package store keeps stock, its ledger and its reservations in SQL.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the tables of this store, the same for both dialects.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the folder is embedded above
	}
	return sub
}

// Shelf returns the stock as one transaction sees it.
func Shelf(tx sqldb.Tx, d sqldb.Dialect) domain.Shelf { return shelf{tx: tx, d: d} }

type shelf struct {
	tx sqldb.Tx
	d  sqldb.Dialect
}

const levelColumns = `product_id, on_hand, reserved, received, adjusted, committed, restocked`

func scanLevel(row interface{ Scan(...any) error }) (l domain.Level, err error) {
	err = row.Scan(&l.ProductID, &l.OnHand, &l.Reserved, &l.Received, &l.Adjusted, &l.Committed, &l.Restocked)
	return l, err
}

func (s shelf) Levels(ctx context.Context, productIDs []string) (map[string]domain.Level, error) {
	ids := slices.Clone(productIDs)
	slices.Sort(ids)
	levels := make(map[string]domain.Level, len(ids))
	// Row by row: ORDER BY with FOR UPDATE does not promise the order of locks
	// where the plan sorts after locking.
	for _, id := range ids {
		l, err := scanLevel(s.tx.QueryRow(ctx, `SELECT `+levelColumns+` FROM stock WHERE product_id = $1`+s.d.ForUpdate(), id))
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("inventory: read level: %w", err)
		}
		levels[id] = l
	}
	return levels, nil
}

func (s shelf) Move(ctx context.Context, m domain.Movement) (domain.Change, error) {
	d, err := m.Delta()
	if err != nil {
		return domain.Change{}, err
	}
	// The condition stands in the statement, so no reader of an older level can
	// promise what is gone.
	update := func() (domain.Level, error) {
		return scanLevel(s.tx.QueryRow(ctx, `UPDATE stock SET on_hand = on_hand + $2, reserved = reserved + $3,
			received = received + $4, adjusted = adjusted + $5, committed = committed + $6, restocked = restocked + $7, updated_at = $8
		WHERE product_id = $1 AND reserved + $3 >= 0 AND reserved + $3 <= on_hand + $2
		RETURNING `+levelColumns,
			m.ProductID, d.OnHand, d.Reserved, d.Received, d.Adjusted, d.Committed, d.Restocked, sqldb.Micros(m.At)))
	}
	after, err := update()
	if errors.Is(err, sql.ErrNoRows) {
		levels, lerr := s.Levels(ctx, []string{m.ProductID})
		if lerr != nil {
			return domain.Change{}, lerr
		}
		if _, known := levels[m.ProductID]; !known {
			return domain.Change{}, domain.ErrUnknownProduct
		}
		// On PostgreSQL each statement sees what has committed before it: the
		// product may have come between the two. It is locked now, so the second
		// answer holds.
		if after, err = update(); errors.Is(err, sql.ErrNoRows) {
			return domain.Change{}, domain.ErrInsufficient
		}
	}
	if err != nil {
		return domain.Change{}, fmt.Errorf("inventory: move stock: %w", err)
	}
	_, err = s.tx.ExecContext(ctx, `INSERT INTO movements (id, product_id, kind, quantity, order_id, reason, at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		"mov_"+strings.ToLower(rand.Text()), m.ProductID, string(m.Kind), m.Quantity, m.OrderID, m.Reason, sqldb.Micros(m.At))
	if err != nil {
		return domain.Change{}, fmt.Errorf("inventory: enter movement: %w", err)
	}
	before := after
	before.OnHand -= d.OnHand
	before.Reserved -= d.Reserved
	before.Received -= d.Received
	before.Adjusted -= d.Adjusted
	before.Committed -= d.Committed
	before.Restocked -= d.Restocked
	return domain.Change{Before: before, After: after}, nil
}

func (s shelf) Open(ctx context.Context, productID string, at time.Time) (bool, error) {
	res, err := s.tx.ExecContext(ctx, `INSERT INTO stock (product_id, updated_at) VALUES ($1, $2) ON CONFLICT (product_id) DO NOTHING`,
		productID, sqldb.Micros(at))
	if err != nil {
		return false, fmt.Errorf("inventory: open stock: %w", err)
	}
	n, err := res.RowsAffected()
	return n == 1, err
}

// line is domain.Line as the lines column holds it.
type line struct {
	ProductID string `json:"product_id"`
	Quantity  int64  `json:"quantity"`
}

func (s shelf) Reservation(ctx context.Context, orderID string) (domain.Reservation, error) {
	r := domain.Reservation{OrderID: orderID}
	var status, lines string
	var expires int64
	err := s.tx.QueryRow(ctx, `SELECT status, lines, expires_at FROM reservations WHERE order_id = $1`+s.d.ForUpdate(), orderID).
		Scan(&status, &lines, &expires)
	if errors.Is(err, sql.ErrNoRows) {
		return r, domain.ErrNoReservation
	}
	if err != nil {
		return r, fmt.Errorf("inventory: read reservation: %w", err)
	}
	var parsed []line
	if err := json.Unmarshal([]byte(lines), &parsed); err != nil {
		return r, fmt.Errorf("inventory: reservation of %s: %w", orderID, err)
	}
	for _, l := range parsed {
		r.Lines = append(r.Lines, domain.Line(l))
	}
	r.Status, r.ExpiresAt = domain.Status(status), sqldb.FromMicros(expires)
	return r, nil
}

func (s shelf) Save(ctx context.Context, r domain.Reservation, at time.Time) error {
	lines := make([]line, len(r.Lines))
	for i, l := range r.Lines {
		lines[i] = line(l)
	}
	raw, err := json.Marshal(lines)
	if err != nil {
		return fmt.Errorf("inventory: save reservation: %w", err)
	}
	_, err = s.tx.ExecContext(ctx, `INSERT INTO reservations (order_id, status, lines, expires_at, updated_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (order_id) DO UPDATE SET status = excluded.status, updated_at = excluded.updated_at`,
		r.OrderID, string(r.Status), string(raw), sqldb.Micros(r.ExpiresAt), sqldb.Micros(at))
	if err != nil {
		return fmt.Errorf("inventory: save reservation: %w", err)
	}
	return nil
}
