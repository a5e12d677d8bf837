package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// maxMethods bounds how many methods List returns.
const maxMethods = 100

// Vault keeps payment methods, their card numbers sealed.
type Vault struct {
	db    *sqldb.DB
	vault *domain.Vault
}

// NewVault returns the vault of db.
func NewVault(db *sqldb.DB, v *domain.Vault) *Vault { return &Vault{db: db, vault: v} }

// Add stores a method, sealing its number.
func (v *Vault) Add(ctx context.Context, m domain.Method, number string) error {
	keyID, sealed, err := v.vault.Seal(m.ID, number)
	if err != nil {
		return err
	}
	_, err = v.db.Write.ExecContext(ctx, `INSERT INTO payment_methods
			(id, user_id, brand, last4, exp_month, exp_year, key_id, sealed, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		m.ID, m.UserID, m.Brand, m.Last4, m.ExpMonth, m.ExpYear, keyID, sealed, sqldb.Micros(m.CreatedAt))
	if err != nil {
		return fmt.Errorf("payment: add method: %w", err)
	}
	return nil
}

const methodColumns = `id, user_id, brand, last4, exp_month, exp_year, created_at`

func scanMethod(row interface{ Scan(...any) error }) (m domain.Method, err error) {
	var created int64
	err = row.Scan(&m.ID, &m.UserID, &m.Brand, &m.Last4, &m.ExpMonth, &m.ExpYear, &created)
	m.CreatedAt = sqldb.FromMicros(created)
	return m, err
}

// Get returns a customer's method, or domain.ErrNoMethod.
func (v *Vault) Get(ctx context.Context, userID, id string) (domain.Method, error) {
	m, err := scanMethod(v.db.Read.QueryRowContext(ctx, `SELECT `+methodColumns+` FROM payment_methods WHERE id = $1 AND user_id = $2`, id, userID))
	if errors.Is(err, sql.ErrNoRows) {
		return m, domain.ErrNoMethod
	}
	if err != nil {
		return m, fmt.Errorf("payment: read method: %w", err)
	}
	return m, nil
}

// List returns a customer's methods, the newest first.
func (v *Vault) List(ctx context.Context, userID string) ([]domain.Method, error) {
	rows, err := v.db.Read.QueryContext(ctx, `SELECT `+methodColumns+` FROM payment_methods WHERE user_id = $1
		ORDER BY created_at DESC, id LIMIT $2`, userID, maxMethods)
	if err != nil {
		return nil, fmt.Errorf("payment: list methods: %w", err)
	}
	defer func() { _ = rows.Close() }()
	var all []domain.Method
	for rows.Next() {
		m, err := scanMethod(rows)
		if err != nil {
			return nil, fmt.Errorf("payment: list methods: %w", err)
		}
		all = append(all, m)
	}
	return all, rows.Err()
}

// Card opens the card behind a method, for the provider alone.
func (v *Vault) Card(ctx context.Context, methodID string) (domain.Card, error) {
	var c domain.Card
	var keyID string
	var sealed []byte
	err := v.db.Read.QueryRowContext(ctx, `SELECT exp_month, exp_year, key_id, sealed FROM payment_methods WHERE id = $1`, methodID).
		Scan(&c.ExpMonth, &c.ExpYear, &keyID, &sealed)
	if errors.Is(err, sql.ErrNoRows) {
		return c, domain.ErrNoMethod
	}
	if err != nil {
		return c, fmt.Errorf("payment: read card: %w", err)
	}
	c.Number, err = v.vault.Open(methodID, keyID, sealed)
	return c, err
}
