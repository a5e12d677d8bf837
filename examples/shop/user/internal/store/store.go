// Package store keeps profiles in the service's own database, PostgreSQL or SQLite,
// personal data encrypted.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
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

// Store is a domain.Store. It is safe for concurrent use.
type Store struct {
	db     *sqldb.DB
	keys   *Keys
	outbox Outbox
	encode func(domain.Changed) (events.Event, error)
}

var _ domain.Store = (*Store)(nil)

// New returns a store whose writes append their event, made by encode, to outbox.
func New(db *sqldb.DB, keys *Keys, outbox Outbox, encode func(domain.Changed) (events.Event, error)) *Store {
	return &Store{db: db, keys: keys, outbox: outbox, encode: encode}
}

const columns = `id, key_id, personal, prefer_email, prefer_sms, prefer_push, created_at, updated_at`

func (s *Store) scan(row sqldb.Row) (domain.Profile, error) {
	var (
		p                domain.Profile
		keyID, sealed    string
		email, sms, push int
		created, updated int64
	)
	err := row.Scan(&p.ID, &keyID, &sealed, &email, &sms, &push, &created, &updated)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return domain.Profile{}, domain.ErrNotFound
	case err != nil:
		return domain.Profile{}, fmt.Errorf("user store: read profile: %w", err)
	}
	p.Prefers = domain.Preferences{Email: email != 0, SMS: sms != 0, Push: push != 0}
	p.CreatedAt, p.UpdatedAt = sqldb.FromMicros(created), sqldb.FromMicros(updated)
	p.Personal, err = s.keys.open(p.ID, keyID, sealed)
	return p, err
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Get implements domain.Store.
func (s *Store) Get(ctx context.Context, id string) (domain.Profile, error) {
	return s.scan(s.db.Read.QueryRowContext(ctx, `SELECT `+columns+` FROM profiles WHERE id = $1`, id))
}

// Create adds a profile in the caller's transaction, with its event. One that is
// there already stays as it is.
func (s *Store) Create(ctx context.Context, tx sqldb.Execer, p domain.Profile) error {
	keyID, sealed, err := s.keys.seal(p.ID, p.Personal)
	if err != nil {
		return err
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO profiles (`+columns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (id) DO NOTHING`, p.ID, keyID, sealed, bit(p.Prefers.Email), bit(p.Prefers.SMS), bit(p.Prefers.Push),
		sqldb.Micros(p.CreatedAt), sqldb.Micros(p.UpdatedAt))
	if err != nil {
		return fmt.Errorf("user store: create profile: %w", err)
	}
	if n, err := res.RowsAffected(); err != nil || n == 0 {
		return err
	}
	return s.tell(ctx, tx, p)
}

// Update implements domain.Store.
func (s *Store) Update(ctx context.Context, id string, change func(domain.Profile) (domain.Profile, bool, error)) (domain.Profile, error) {
	var out domain.Profile
	err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		was, err := s.scan(tx.QueryRowContext(ctx, `SELECT `+columns+` FROM profiles WHERE id = $1`+s.db.Dialect.ForUpdate(), id))
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
		return s.tell(ctx, tx, p)
	})
	return out, err
}

func (s *Store) save(ctx context.Context, tx sqldb.Execer, p domain.Profile) error {
	keyID, sealed, err := s.keys.seal(p.ID, p.Personal)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `UPDATE profiles SET key_id = $2, personal = $3, prefer_email = $4, prefer_sms = $5,
		prefer_push = $6, updated_at = $7 WHERE id = $1`,
		p.ID, keyID, sealed, bit(p.Prefers.Email), bit(p.Prefers.SMS), bit(p.Prefers.Push), sqldb.Micros(p.UpdatedAt))
	if err != nil {
		return fmt.Errorf("user store: save profile: %w", err)
	}
	return nil
}

func (s *Store) tell(ctx context.Context, tx sqldb.Execer, p domain.Profile) error {
	e, err := s.encode(domain.Changed{Profile: p})
	if err != nil {
		return err
	}
	return s.outbox.Append(ctx, tx, e)
}

// resealBatch bounds one transaction of Reseal: on SQLite nobody else writes
// meanwhile.
const resealBatch = 100

// Reseal seals anew what a former key sealed, and returns how many profiles that
// were. Once it has returned without an error, former keys can be taken out of the
// configuration. A resealed profile has not changed, so there is no event.
func (s *Store) Reseal(ctx context.Context) (int, error) {
	total := 0
	for {
		n := 0
		err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
			profiles, err := s.sealedBefore(ctx, tx)
			if err != nil {
				return err
			}
			for _, p := range profiles {
				if err := s.save(ctx, tx, p); err != nil {
					return err
				}
			}
			n = len(profiles)
			return nil
		})
		total += n
		if err != nil || n < resealBatch {
			return total, err
		}
	}
}

func (s *Store) sealedBefore(ctx context.Context, tx *sql.Tx) ([]domain.Profile, error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+columns+` FROM profiles WHERE key_id <> $1 ORDER BY id LIMIT $2`+s.db.Dialect.ForUpdate(),
		s.keys.current, resealBatch)
	if err != nil {
		return nil, fmt.Errorf("user store: read profiles to seal anew: %w", err)
	}
	defer rows.Close()
	var out []domain.Profile
	for rows.Next() {
		p, err := s.scan(rows)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("user store: read profiles to seal anew: %w", err)
	}
	return out, nil
}
