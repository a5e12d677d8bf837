// Package store keeps carts in the service's own database, PostgreSQL or SQLite.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the cart's tables, the same text for both dialects.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil { // the folder is compiled in
		panic(err)
	}
	return sub
}

// Store is a domain.Store. It is safe for concurrent use.
type Store struct{ db *sqldb.DB }

var _ domain.Store = (*Store)(nil)

// New returns the store on db.
func New(db *sqldb.DB) *Store { return &Store{db: db} }

// querier reads in or outside a transaction.
type querier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// Get implements domain.Store.
func (s *Store) Get(ctx context.Context, user string) (domain.Cart, error) {
	return read(ctx, s.db.Read, user)
}

func read(ctx context.Context, q querier, user string) (domain.Cart, error) {
	var (
		c       domain.Cart
		updated int64
	)
	err := q.QueryRowContext(ctx, `SELECT coupon, updated_at FROM carts WHERE user_id = $1`, user).Scan(&c.Coupon, &updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return domain.Cart{}, nil
	case err != nil:
		return domain.Cart{}, fmt.Errorf("cart store: read cart: %w", err)
	}
	c.UpdatedAt = sqldb.FromMicros(updated)
	rows, err := q.QueryContext(ctx, `SELECT product_id, quantity FROM cart_items WHERE user_id = $1 ORDER BY added_at, product_id`, user)
	if err != nil {
		return domain.Cart{}, fmt.Errorf("cart store: read items: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var l domain.Line
		if err := rows.Scan(&l.ProductID, &l.Quantity); err != nil {
			return domain.Cart{}, fmt.Errorf("cart store: read items: %w", err)
		}
		c.Lines = append(c.Lines, l)
	}
	if err := rows.Err(); err != nil {
		return domain.Cart{}, fmt.Errorf("cart store: read items: %w", err)
	}
	return c, nil
}

// change runs fn on a cart that nobody else changes meanwhile, and returns the cart
// as it then is.
func (s *Store) change(ctx context.Context, user string, now time.Time, fn func(tx *sql.Tx) error) (domain.Cart, error) {
	var c domain.Cart
	err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		// The row stands for the cart: writing it first makes its writers take turns.
		_, err := tx.ExecContext(ctx, `INSERT INTO carts (user_id, coupon, updated_at) VALUES ($1, '', $2)
			ON CONFLICT (user_id) DO UPDATE SET updated_at = excluded.updated_at`, user, sqldb.Micros(now))
		if err != nil {
			return fmt.Errorf("cart store: lock cart: %w", err)
		}
		if err := fn(tx); err != nil {
			return err
		}
		c, err = read(ctx, tx, user)
		return err
	})
	return c, err
}

// Put implements domain.Store.
func (s *Store) Put(ctx context.Context, user string, l domain.Line, now time.Time) (domain.Cart, error) {
	return s.change(ctx, user, now, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO cart_items (user_id, product_id, quantity, added_at) VALUES ($1, $2, $3, $4)
			ON CONFLICT (user_id, product_id) DO UPDATE SET quantity = excluded.quantity`,
			user, l.ProductID, l.Quantity, sqldb.Micros(now))
		if err != nil {
			return fmt.Errorf("cart store: put item: %w", err)
		}
		n := 0
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM cart_items WHERE user_id = $1`, user).Scan(&n); err != nil {
			return fmt.Errorf("cart store: count items: %w", err)
		}
		if n > domain.MaxProducts {
			return domain.ErrFull
		}
		return nil
	})
}

// Delete implements domain.Store.
func (s *Store) Delete(ctx context.Context, user, productID string, now time.Time) (domain.Cart, error) {
	return s.change(ctx, user, now, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM cart_items WHERE user_id = $1 AND product_id = $2`, user, productID); err != nil {
			return fmt.Errorf("cart store: delete item: %w", err)
		}
		return nil
	})
}

// SetCoupon implements domain.Store.
func (s *Store) SetCoupon(ctx context.Context, user, code string, now time.Time) (domain.Cart, error) {
	return s.change(ctx, user, now, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE carts SET coupon = $2 WHERE user_id = $1`, user, code); err != nil {
			return fmt.Errorf("cart store: set coupon: %w", err)
		}
		return nil
	})
}

// TakeOut removes, in the caller's transaction, what an order has bought. What the
// customer has added since stays; the coupon is used up.
func (s *Store) TakeOut(ctx context.Context, tx sqldb.Execer, user string, bought []domain.Line, now time.Time) error {
	res, err := tx.ExecContext(ctx, `UPDATE carts SET coupon = '', updated_at = $2 WHERE user_id = $1`, user, sqldb.Micros(now))
	if err != nil {
		return fmt.Errorf("cart store: lock cart: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("cart store: lock cart: %w", err)
	} else if n == 0 {
		return nil // no cart, nothing to take out
	}
	for _, l := range bought {
		// Delete before the update: a quantity of 0 is against the table's rule.
		for _, q := range []string{
			`DELETE FROM cart_items WHERE user_id = $1 AND product_id = $2 AND quantity <= $3`,
			`UPDATE cart_items SET quantity = quantity - $3 WHERE user_id = $1 AND product_id = $2 AND quantity > $3`,
		} {
			if _, err := tx.ExecContext(ctx, q, user, l.ProductID, l.Quantity); err != nil {
				return fmt.Errorf("cart store: take out: %w", err)
			}
		}
	}
	return nil
}
