// Package store keeps payments, their intents, the ledger and the vault in SQL.
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

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
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

// Book returns the payments as one transaction sees them.
func Book(tx sqldb.Tx, d sqldb.Dialect) domain.Book { return book{tx: tx, d: d} }

type book struct {
	tx sqldb.Tx
	d  sqldb.Dialect
}

func (b book) Payment(ctx context.Context, orderID string) (domain.Payment, error) {
	return payment(ctx, b.tx, orderID, b.d.ForUpdate())
}

func payment(ctx context.Context, tx sqldb.Tx, orderID, lock string) (domain.Payment, error) {
	p := domain.Payment{OrderID: orderID}
	var state string
	err := tx.QueryRow(ctx, `SELECT user_id, method_id, amount, currency, state, authorize_key, authorization_id, void_key
		FROM payments WHERE order_id = $1`+lock, orderID).
		Scan(&p.UserID, &p.MethodID, &p.Amount, &p.Currency, &state, &p.AuthorizeKey, &p.AuthorizationID, &p.VoidKey)
	if errors.Is(err, sql.ErrNoRows) {
		return p, domain.ErrNoPayment
	}
	if err != nil {
		return p, fmt.Errorf("payment: read payment: %w", err)
	}
	p.State = domain.State(state)
	return p, nil
}

func (b book) SavePayment(ctx context.Context, p domain.Payment, at time.Time) error {
	_, err := b.tx.ExecContext(ctx, `INSERT INTO payments
			(order_id, user_id, method_id, amount, currency, state, authorize_key, authorization_id, void_key, updated_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (order_id) DO UPDATE SET state = excluded.state, authorization_id = excluded.authorization_id,
			void_key = excluded.void_key, updated_at = excluded.updated_at`,
		p.OrderID, p.UserID, p.MethodID, p.Amount, p.Currency, string(p.State), p.AuthorizeKey, p.AuthorizationID, p.VoidKey, sqldb.Micros(at))
	if err != nil {
		return fmt.Errorf("payment: save payment: %w", err)
	}
	return nil
}

const intentColumns = `key, order_id, kind, amount, currency, progress, reason, attempts, due_at, created_at, origin`

func scanIntent(row interface{ Scan(...any) error }) (i domain.Intent, err error) {
	var kind, progress, origin string
	var due, created int64
	err = row.Scan(&i.Key, &i.OrderID, &kind, &i.Amount, &i.Currency, &progress, &i.Reason, &i.Attempts, &due, &created, &origin)
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal([]byte(origin), &i.Origin); err != nil {
		return i, fmt.Errorf("origin of intent %s: %w", i.Key, err)
	}
	i.Kind, i.Progress = domain.Kind(kind), domain.Progress(progress)
	i.DueAt, i.CreatedAt = sqldb.FromMicros(due), sqldb.FromMicros(created)
	return i, nil
}

func (b book) Intent(ctx context.Context, key string) (domain.Intent, error) {
	i, err := scanIntent(b.tx.QueryRow(ctx, `SELECT `+intentColumns+` FROM intents WHERE key = $1`+b.d.ForUpdate(), key))
	if errors.Is(err, sql.ErrNoRows) {
		return i, domain.ErrNoIntent
	}
	if err != nil {
		return i, fmt.Errorf("payment: read intent: %w", err)
	}
	return i, nil
}

func (b book) SaveIntent(ctx context.Context, i domain.Intent) error {
	origin, err := json.Marshal(i.Origin)
	if err != nil {
		return fmt.Errorf("payment: save intent: %w", err)
	}
	_, err = b.tx.ExecContext(ctx, `INSERT INTO intents (`+intentColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (key) DO UPDATE SET progress = excluded.progress, reason = excluded.reason,
			attempts = excluded.attempts, due_at = excluded.due_at`,
		i.Key, i.OrderID, string(i.Kind), i.Amount, i.Currency, string(i.Progress), i.Reason, i.Attempts,
		sqldb.Micros(i.DueAt), sqldb.Micros(i.CreatedAt), string(origin))
	if err != nil {
		return fmt.Errorf("payment: save intent: %w", err)
	}
	return nil
}

func (b book) Enter(ctx context.Context, e domain.Entry) error {
	_, err := b.tx.ExecContext(ctx, `INSERT INTO ledger (key, kind, order_id, amount, currency, at) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (key, kind) DO NOTHING`, e.Key, string(e.Kind), e.OrderID, e.Amount, e.Currency, sqldb.Micros(e.At))
	if err != nil {
		return fmt.Errorf("payment: enter ledger: %w", err)
	}
	return nil
}

// sumColumns adds each kind of line up; SUM over BIGINT is NUMERIC on
// PostgreSQL, hence the casts.
const sumColumns = `
	CAST(COALESCE(SUM(CASE WHEN kind = 'authorized' THEN amount END), 0) AS BIGINT),
	CAST(COALESCE(SUM(CASE WHEN kind = 'voided' THEN amount END), 0) AS BIGINT),
	CAST(COALESCE(SUM(CASE WHEN kind = 'captured' THEN amount END), 0) AS BIGINT),
	CAST(COALESCE(SUM(CASE WHEN kind = 'refunded' THEN amount END), 0) AS BIGINT)`

func (b book) Sums(ctx context.Context, orderID string) (s domain.Sums, err error) {
	err = b.tx.QueryRow(ctx, `SELECT `+sumColumns+` FROM ledger WHERE order_id = $1`, orderID).
		Scan(&s.Authorized, &s.Voided, &s.Captured, &s.Refunded)
	if err != nil {
		return s, fmt.Errorf("payment: sum ledger: %w", err)
	}
	return s, nil
}

func (b book) HasMethod(ctx context.Context, userID, methodID string) error {
	var one int
	err := b.tx.QueryRow(ctx, `SELECT 1 FROM payment_methods WHERE id = $1 AND user_id = $2`, methodID, userID).Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return domain.ErrNoMethod
	}
	if err != nil {
		return fmt.Errorf("payment: read method: %w", err)
	}
	return nil
}
