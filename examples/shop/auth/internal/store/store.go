// Package store keeps accounts, sign-ins, refresh tokens and signing keys in the
// service's own database, PostgreSQL or SQLite.
package store

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Migrations returns the service's tables, the same text for both dialects.
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

// Store is safe for concurrent use.
type Store struct {
	db     *sqldb.DB
	outbox Outbox
	encode func(domain.Registered) (events.Event, error)
	seal   cipher.AEAD
}

var _ domain.Accounts = (*Store)(nil)

// New returns a store whose new accounts append their event, made by encode, to
// outbox. key, of 32 bytes, seals the signing keys at rest.
func New(db *sqldb.DB, outbox Outbox, encode func(domain.Registered) (events.Event, error), key []byte) (*Store, error) {
	if len(key) != 32 {
		return nil, fmt.Errorf("auth store: the key has %d bytes; give 32 random ones", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("auth store: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("auth store: %w", err)
	}
	return &Store{db: db, outbox: outbox, encode: encode, seal: aead}, nil
}

const accountColumns = `id, email, name, password_hash, operator, created_at`

// CreateAccount implements domain.Accounts.
func (s *Store) CreateAccount(ctx context.Context, a domain.Account) error {
	return sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		operator := 0
		if a.Operator {
			operator = 1
		}
		res, err := tx.ExecContext(ctx, `INSERT INTO accounts (`+accountColumns+`) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (email) DO NOTHING`, a.ID, a.Email, a.Name, a.PasswordHash, operator, sqldb.Micros(a.CreatedAt))
		if err != nil {
			return fmt.Errorf("auth store: create account: %w", err)
		}
		if n, err := res.RowsAffected(); err != nil {
			return fmt.Errorf("auth store: create account: %w", err)
		} else if n == 0 {
			return domain.ErrExists
		}
		e, err := s.encode(domain.Registered{Account: a})
		if err != nil {
			return err
		}
		return s.outbox.Append(ctx, tx, e)
	})
}

// AccountByEmail implements domain.Accounts.
func (s *Store) AccountByEmail(ctx context.Context, email string) (domain.Account, error) {
	return s.account(ctx, `email = $1`, email)
}

// Account implements domain.Accounts.
func (s *Store) Account(ctx context.Context, id string) (domain.Account, error) {
	return s.account(ctx, `id = $1`, id)
}

func (s *Store) account(ctx context.Context, where string, arg string) (domain.Account, error) {
	var (
		a        domain.Account
		operator int
		created  int64
	)
	err := s.db.Read.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM accounts WHERE `+where, arg).
		Scan(&a.ID, &a.Email, &a.Name, &a.PasswordHash, &operator, &created)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return domain.Account{}, domain.ErrNotFound
	case err != nil:
		return domain.Account{}, fmt.Errorf("auth store: read account: %w", err)
	}
	a.Operator, a.CreatedAt = operator != 0, sqldb.FromMicros(created)
	return a, nil
}

// Sweep removes what has expired.
func (s *Store) Sweep(ctx context.Context, now time.Time) error {
	for _, q := range []string{
		`DELETE FROM sign_ins WHERE expires_at < $1`,
		`DELETE FROM refresh_tokens WHERE expires_at < $1`,
	} {
		if _, err := s.db.Write.ExecContext(ctx, q, sqldb.Micros(now)); err != nil {
			return fmt.Errorf("auth store: sweep: %w", err)
		}
	}
	return nil
}

// micros keeps the zero time as 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return sqldb.Micros(t)
}

func fromMicros(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return sqldb.FromMicros(us)
}
