package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

const refreshColumns = `hash, family, user_id, client_id, scopes, authenticated_at, issued_at, expires_at, used_at`

func scanRefresh(row sqldb.Row) (domain.Refresh, error) {
	var (
		r                                    domain.Refresh
		scopes                               string
		authenticated, issued, expires, used int64
	)
	err := row.Scan(&r.Hash, &r.Family, &r.UserID, &r.ClientID, &scopes, &authenticated, &issued, &expires, &used)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return domain.Refresh{}, domain.ErrNotFound
	case err != nil:
		return domain.Refresh{}, fmt.Errorf("auth store: read refresh token: %w", err)
	}
	r.Scopes = strings.Fields(scopes)
	r.AuthenticatedAt, r.IssuedAt, r.ExpiresAt, r.UsedAt = fromMicros(authenticated), fromMicros(issued), fromMicros(expires), fromMicros(used)
	return r, nil
}

// CreateRefresh keeps a new refresh token.
func (s *Store) CreateRefresh(ctx context.Context, r domain.Refresh) error {
	return insertRefresh(ctx, s.db.Write, r)
}

func insertRefresh(ctx context.Context, tx sqldb.Execer, r domain.Refresh) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO refresh_tokens (`+refreshColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		r.Hash, r.Family, r.UserID, r.ClientID, strings.Join(r.Scopes, " "),
		micros(r.AuthenticatedAt), micros(r.IssuedAt), micros(r.ExpiresAt), micros(r.UsedAt))
	if err != nil {
		return fmt.Errorf("auth store: create refresh token: %w", err)
	}
	return nil
}

// Refresh returns a refresh token that may be exchanged now, or ErrNotFound. A
// token that somebody must have stolen ends its whole family.
func (s *Store) Refresh(ctx context.Context, hash string, now time.Time) (domain.Refresh, error) {
	r, err := scanRefresh(s.db.Read.QueryRowContext(ctx, `SELECT `+refreshColumns+` FROM refresh_tokens WHERE hash = $1`, hash))
	if err != nil {
		return domain.Refresh{}, err
	}
	ok, stolen := r.Usable(now)
	if stolen {
		if _, err := s.db.Write.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE family = $1`, r.Family); err != nil {
			return domain.Refresh{}, fmt.Errorf("auth store: end a stolen token's family: %w", err)
		}
	}
	if !ok {
		return domain.Refresh{}, domain.ErrNotFound
	}
	return r, nil
}

// Rotate exchanges a refresh token for its successor. ErrNotFound says that the
// old one may not be exchanged (any more).
func (s *Store) Rotate(ctx context.Context, oldHash string, next domain.Refresh, now time.Time) error {
	return sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		// The family's tokens may be ended at this moment: the row's lock decides.
		old, err := scanRefresh(tx.QueryRowContext(ctx,
			`SELECT `+refreshColumns+` FROM refresh_tokens WHERE hash = $1`+s.db.Dialect.ForUpdate(), oldHash))
		if err != nil {
			return err
		}
		if ok, _ := old.Usable(now); !ok {
			return domain.ErrNotFound
		}
		if old.UsedAt.IsZero() { // the first use begins the leeway
			if _, err := tx.ExecContext(ctx, `UPDATE refresh_tokens SET used_at = $2 WHERE hash = $1`, oldHash, sqldb.Micros(now)); err != nil {
				return fmt.Errorf("auth store: use refresh token: %w", err)
			}
		}
		return insertRefresh(ctx, tx, next)
	})
}

// EndFamily ends all tokens of the sign-in that a refresh token came of, where the
// token is clientID's. It reports whether there was such a token.
func (s *Store) EndFamily(ctx context.Context, hash, clientID string) (bool, error) {
	res, err := s.db.Write.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE family IN
		(SELECT family FROM refresh_tokens WHERE hash = $1 AND client_id = $2)`, hash, clientID)
	if err != nil {
		return false, fmt.Errorf("auth store: revoke: %w", err)
	}
	n, err := res.RowsAffected()
	return n > 0, err
}

// RefreshOwner returns whose token it is, for revocation: also of a used one.
func (s *Store) RefreshOwner(ctx context.Context, hash string) (userID string, err error) {
	r, err := scanRefresh(s.db.Read.QueryRowContext(ctx, `SELECT `+refreshColumns+` FROM refresh_tokens WHERE hash = $1`, hash))
	return r.UserID, err
}

// EndSessions ends all of a user's refresh tokens with one client.
func (s *Store) EndSessions(ctx context.Context, userID, clientID string) error {
	if _, err := s.db.Write.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE user_id = $1 AND client_id = $2`, userID, clientID); err != nil {
		return fmt.Errorf("auth store: end sessions: %w", err)
	}
	return nil
}
