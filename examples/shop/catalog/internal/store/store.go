// Package store keeps the catalogue in its own database, PostgreSQL or SQLite.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the catalogue's tables, the same text for both dialects.
func Migrations() fs.FS {
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil { // the folder is compiled in
		panic(err)
	}
	return sub
}

// Outbox takes an event into the running transaction.
type Outbox interface {
	Append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error
}

// Store is a domain.Store. It is safe for concurrent use.
type Store struct {
	db     *sqldb.DB
	outbox Outbox
	encode func(domain.Event) (events.Event, error)
	// changed is told, after the commit, that products changed.
	changed func()
	now     func() time.Time
}

var _ domain.Store = (*Store)(nil)

// New returns a store whose writes append their events, made by encode, to
// outbox, and call changed after the commit. changed must return at once.
func New(db *sqldb.DB, outbox Outbox, encode func(domain.Event) (events.Event, error), changed func()) *Store {
	return &Store{db: db, outbox: outbox, encode: encode, changed: changed, now: time.Now}
}

const columns = `id, name, description, category, price_minor, in_stock, revision, updated_at`

func scan(row sqldb.Row) (domain.Product, error) {
	var (
		p       domain.Product
		inStock int
		updated int64
	)
	err := row.Scan(&p.ID, &p.Name, &p.Description, &p.Category, &p.PriceMinor, &inStock, &p.Revision, &updated)
	p.InStock, p.UpdatedAt = inStock != 0, sqldb.FromMicros(updated)
	return p, err
}

func scanAll(rows *sql.Rows) ([]domain.Product, error) {
	defer rows.Close()
	var out []domain.Product
	for rows.Next() {
		p, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("catalog store: read products: %w", err)
		}
		out = append(out, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("catalog store: read products: %w", err)
	}
	return out, nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Get implements domain.Store.
func (s *Store) Get(ctx context.Context, id string) (domain.Product, error) {
	p, err := scan(s.db.Read.QueryRowContext(ctx, `SELECT `+columns+` FROM products WHERE id = $1`, id))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return domain.Product{}, domain.ErrNotFound
	case err != nil:
		return domain.Product{}, fmt.Errorf("catalog store: read product: %w", err)
	}
	return p, nil
}

// GetMany implements domain.Store.
func (s *Store) GetMany(ctx context.Context, ids []string) ([]domain.Product, error) {
	if len(ids) == 0 {
		return nil, nil
	}
	marks := make([]string, len(ids))
	args := make([]any, len(ids))
	for i, id := range ids {
		marks[i], args[i] = "$"+strconv.Itoa(i+1), id
	}
	rows, err := s.db.Read.QueryContext(ctx,
		`SELECT `+columns+` FROM products WHERE id IN (`+strings.Join(marks, ",")+`)`, args...)
	if err != nil {
		return nil, fmt.Errorf("catalog store: read products: %w", err)
	}
	return scanAll(rows)
}

// ChangedSince returns the products that changed at or after t, for the index.
func (s *Store) ChangedSince(ctx context.Context, t time.Time) ([]domain.Product, error) {
	rows, err := s.db.Read.QueryContext(ctx,
		`SELECT `+columns+` FROM products WHERE updated_at >= $1 ORDER BY updated_at`, sqldb.Micros(t))
	if err != nil {
		return nil, fmt.Errorf("catalog store: read changes: %w", err)
	}
	return scanAll(rows)
}

// Create implements domain.Store.
func (s *Store) Create(ctx context.Context, p domain.Product, initialStock int32) error {
	added, err := s.CreateMissing(ctx, []domain.Stocked{{Product: p, InitialStock: initialStock}})
	if err == nil && added == 0 {
		return domain.ErrExists
	}
	return err
}

// CreateMissing implements domain.Store.
func (s *Store) CreateMissing(ctx context.Context, products []domain.Stocked) (int, error) {
	added := 0
	err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		added = 0
		var evs []events.Event
		for _, sp := range products {
			p := sp.Product
			res, err := tx.ExecContext(ctx, `INSERT INTO products (`+columns+`)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO NOTHING`,
				p.ID, p.Name, p.Description, p.Category, p.PriceMinor, bit(p.InStock), p.Revision, sqldb.Micros(p.UpdatedAt))
			if err != nil {
				return fmt.Errorf("catalog store: create product: %w", err)
			}
			if n, err := res.RowsAffected(); err != nil {
				return fmt.Errorf("catalog store: create product: %w", err)
			} else if n == 0 {
				continue
			}
			added++
			e, err := s.encode(domain.Created{Product: p, InitialStock: sp.InitialStock})
			if err != nil {
				return err
			}
			evs = append(evs, e)
		}
		if added == 0 {
			return nil
		}
		sqldb.AfterCommit(ctx, s.changed)
		return s.outbox.Append(ctx, tx, evs...)
	})
	return added, err
}

// Update implements domain.Store.
func (s *Store) Update(ctx context.Context, id string, change func(domain.Product) (domain.Product, bool, error)) (domain.Product, error) {
	var out domain.Product
	err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		was, err := s.lock(ctx, sqldb.StdTx(tx), id)
		if err != nil {
			return err
		}
		p, differs, err := change(was)
		if err != nil {
			return err
		}
		out = p
		if !differs {
			return nil
		}
		if err := s.save(ctx, tx, p); err != nil {
			return err
		}
		e, err := s.encode(domain.Updated{Product: p})
		if err != nil {
			return err
		}
		return s.outbox.Append(ctx, tx, e)
	})
	return out, err
}

// SetInStock records, in the caller's transaction, whether a product is in stock.
// It reports false where the catalogue has no such product.
func (s *Store) SetInStock(ctx context.Context, tx sqldb.Tx, id string, inStock bool) (known bool, err error) {
	p, err := s.lock(ctx, tx, id)
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case p.InStock == inStock:
		return true, nil
	}
	p.InStock, p.UpdatedAt = inStock, s.now()
	p.Revision++
	return true, s.save(ctx, tx, p)
}

func (s *Store) lock(ctx context.Context, tx sqldb.Tx, id string) (domain.Product, error) {
	p, err := scan(tx.QueryRow(ctx, `SELECT `+columns+` FROM products WHERE id = $1`+s.db.Dialect.ForUpdate(), id))
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return p, domain.ErrNotFound
	case err != nil:
		return p, fmt.Errorf("catalog store: lock product: %w", err)
	}
	return p, nil
}

func (s *Store) save(ctx context.Context, tx sqldb.Execer, p domain.Product) error {
	_, err := tx.ExecContext(ctx, `UPDATE products SET name = $2, description = $3, category = $4,
		price_minor = $5, in_stock = $6, revision = $7, updated_at = $8 WHERE id = $1`,
		p.ID, p.Name, p.Description, p.Category, p.PriceMinor, bit(p.InStock), p.Revision, sqldb.Micros(p.UpdatedAt))
	if err != nil {
		return fmt.Errorf("catalog store: save product: %w", err)
	}
	sqldb.AfterCommit(ctx, s.changed)
	return nil
}
