// Package store keeps orders in SQL.
package store

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
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

// Outbox takes the events of a transaction.
type Outbox interface {
	Append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error
}

// Store keeps orders. It is safe for concurrent use.
type Store struct {
	db      *sqldb.DB
	outbox  Outbox
	encode  func(o domain.Order, what domain.Happening) (events.Event, error)
	changed func(orderID string)
}

// New returns the orders of a database. encode makes the event of what happened
// to an order; changed is called after each commit that changed one.
func New(db *sqldb.DB, ob Outbox, encode func(domain.Order, domain.Happening) (events.Event, error), changed func(orderID string)) *Store {
	return &Store{db: db, outbox: ob, encode: encode, changed: changed}
}

// In opens the orders in a transaction.
func (s *Store) In(tx sqldb.Tx) domain.Orders { return orders{Store: s, tx: tx} }

type orders struct {
	*Store
	tx sqldb.Tx
}

const columns = `id, user_id, method_id, status, items, total, discount, currency, failure_reason, from_cart, refunding, cancel_requested, revision, created_at, updated_at`

func scan(row interface{ Scan(...any) error }) (o domain.Order, err error) {
	var status, items string
	var created, updated int64
	err = row.Scan(&o.ID, &o.UserID, &o.MethodID, &status, &items, &o.Total, &o.Discount, &o.Currency,
		&o.FailureReason, &o.FromCart, &o.Refunding, &o.CancelRequested, &o.Revision, &created, &updated)
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal([]byte(items), &o.Items); err != nil {
		return o, fmt.Errorf("items of %s: %w", o.ID, err)
	}
	o.Status, o.CreatedAt, o.UpdatedAt = domain.Status(status), sqldb.FromMicros(created), sqldb.FromMicros(updated)
	return o, nil
}

func (s orders) Insert(ctx context.Context, o domain.Order) error {
	items, err := json.Marshal(o.Items)
	if err != nil {
		return fmt.Errorf("order: insert: %w", err)
	}
	_, err = s.tx.ExecContext(ctx, `INSERT INTO orders (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		o.ID, o.UserID, o.MethodID, string(o.Status), string(items), o.Total, o.Discount, o.Currency,
		o.FailureReason, o.FromCart, o.Refunding, o.CancelRequested, o.Revision, sqldb.Micros(o.CreatedAt), sqldb.Micros(o.UpdatedAt))
	if err != nil {
		return fmt.Errorf("order: insert: %w", err)
	}
	return s.tell(ctx, o, domain.HappenedCreated)
}

func (s orders) Lock(ctx context.Context, id string) (domain.Order, error) {
	return found(scan(s.tx.QueryRow(ctx, `SELECT `+columns+` FROM orders WHERE id = $1`+s.db.Dialect.ForUpdate(), id)))
}

func (s orders) Save(ctx context.Context, o domain.Order, what domain.Happening) error {
	_, err := s.tx.ExecContext(ctx, `UPDATE orders SET status = $2, failure_reason = $3, refunding = $4, cancel_requested = $5, revision = $6, updated_at = $7 WHERE id = $1`,
		o.ID, string(o.Status), o.FailureReason, o.Refunding, o.CancelRequested, o.Revision, sqldb.Micros(o.UpdatedAt))
	if err != nil {
		return fmt.Errorf("order: save: %w", err)
	}
	return s.tell(ctx, o, what)
}

func (s orders) tell(ctx context.Context, o domain.Order, what domain.Happening) error {
	sqldb.AfterCommit(ctx, func() { s.changed(o.ID) })
	if what == domain.HappenedNothing {
		return nil
	}
	e, err := s.encode(o, what)
	if err != nil {
		return err
	}
	return s.outbox.Append(ctx, s.tx, e)
}

func found(o domain.Order, err error) (domain.Order, error) {
	if errors.Is(err, sql.ErrNoRows) {
		return domain.Order{}, domain.ErrNotFound
	}
	if err != nil {
		return domain.Order{}, fmt.Errorf("order: read: %w", err)
	}
	return o, nil
}

// Get returns an order, or domain.ErrNotFound.
func (s *Store) Get(ctx context.Context, id string) (domain.Order, error) {
	return found(scan(s.db.Read.QueryRowContext(ctx, `SELECT `+columns+` FROM orders WHERE id = $1`, id)))
}

// Filter selects orders for List.
type Filter struct {
	// UserID and Status select; empty selects all.
	UserID string
	Status domain.Status
	// Before selects the orders made before this place in the list. Its zero
	// value selects from the newest on.
	Before Place
	Limit  int
}

// Place is a place in the list of orders, the newest first.
type Place struct {
	At time.Time
	ID string
}

// List returns orders, the newest first.
func (s *Store) List(ctx context.Context, f Filter) ([]domain.Order, error) {
	at := int64(1<<63 - 1)
	if f.Before.ID != "" {
		at = sqldb.Micros(f.Before.At)
	}
	// One of three plans, each with an index of its own.
	where, args := ``, []any{at, f.Before.ID, f.Limit}
	switch {
	case f.UserID != "":
		where, args = ` AND user_id = $4`, append(args, f.UserID)
	case f.Status != "":
		where, args = ` AND status = $4`, append(args, string(f.Status))
	}
	rows, err := s.db.Read.QueryContext(ctx, `SELECT `+columns+` FROM orders
		WHERE (created_at < $1 OR (created_at = $1 AND id < $2))`+where+` ORDER BY created_at DESC, id DESC LIMIT $3`, args...)
	if err != nil {
		return nil, fmt.Errorf("order: list: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []domain.Order
	for rows.Next() {
		o, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("order: list: %w", err)
		}
		all = append(all, o)
	}
	return all, rows.Err()
}

// Counts returns the number of orders by status.
func (s *Store) Counts(ctx context.Context) (map[domain.Status]int, error) {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT status, COUNT(*) FROM orders GROUP BY status`)
	if err != nil {
		return nil, fmt.Errorf("order: count: %w", err)
	}
	defer func() { _ = rows.Close() }()
	counts := map[domain.Status]int{}
	for rows.Next() {
		var status string
		var n int
		if err := rows.Scan(&status, &n); err != nil {
			return nil, fmt.Errorf("order: count: %w", err)
		}
		counts[domain.Status(status)] = n
	}
	return counts, rows.Err()
}
