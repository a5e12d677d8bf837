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

const signInColumns = `id, client_id, redirect_uri, state, nonce, scopes, response_type, response_mode, challenge,
	browser_hash, user_id, authenticated_at, created_at, expires_at`

func scanSignIn(row sqldb.Row) (domain.Request, error) {
	var (
		r                               domain.Request
		scopes                          string
		authenticated, created, expires int64
	)
	err := row.Scan(&r.ID, &r.ClientID, &r.RedirectURI, &r.State, &r.Nonce, &scopes, &r.ResponseType, &r.ResponseMode,
		&r.Challenge, &r.BrowserHash, &r.UserID, &authenticated, &created, &expires)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return domain.Request{}, domain.ErrNotFound
	case err != nil:
		return domain.Request{}, fmt.Errorf("auth store: read sign-in: %w", err)
	}
	r.Scopes = strings.Fields(scopes)
	r.AuthenticatedAt, r.CreatedAt, r.ExpiresAt = fromMicros(authenticated), fromMicros(created), fromMicros(expires)
	return r, nil
}

// CreateSignIn keeps a new sign-in.
func (s *Store) CreateSignIn(ctx context.Context, r domain.Request) error {
	_, err := s.db.Write.ExecContext(ctx, `INSERT INTO sign_ins (`+signInColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`,
		r.ID, r.ClientID, r.RedirectURI, r.State, r.Nonce, strings.Join(r.Scopes, " "), r.ResponseType, r.ResponseMode,
		r.Challenge, r.BrowserHash, r.UserID, micros(r.AuthenticatedAt), micros(r.CreatedAt), micros(r.ExpiresAt))
	if err != nil {
		return fmt.Errorf("auth store: create sign-in: %w", err)
	}
	return nil
}

// SignIn returns a sign-in that has not expired, or ErrNotFound.
func (s *Store) SignIn(ctx context.Context, id string, now time.Time) (domain.Request, error) {
	return scanSignIn(s.db.Read.QueryRowContext(ctx,
		`SELECT `+signInColumns+` FROM sign_ins WHERE id = $1 AND expires_at > $2`, id, sqldb.Micros(now)))
}

// CompleteSignIn records who signed in, once. ErrNotFound says that the sign-in
// expired or somebody has completed it.
func (s *Store) CompleteSignIn(ctx context.Context, id, userID string, scopes []string, now time.Time) error {
	return s.one(ctx, "complete sign-in", `UPDATE sign_ins SET user_id = $2, scopes = $3, authenticated_at = $4
		WHERE id = $1 AND user_id = '' AND expires_at > $4`, id, userID, strings.Join(scopes, " "), sqldb.Micros(now))
}

// SetCode gives a completed sign-in its authorization code, once.
func (s *Store) SetCode(ctx context.Context, id, codeHash string, now time.Time) error {
	return s.one(ctx, "set code", `UPDATE sign_ins SET code_hash = $2, code_expires_at = $3
		WHERE id = $1 AND user_id <> '' AND code_hash IS NULL AND expires_at > $4`,
		id, codeHash, sqldb.Micros(now.Add(domain.CodeLife)), sqldb.Micros(now))
}

func (s *Store) one(ctx context.Context, what, query string, args ...any) error {
	res, err := s.db.Write.ExecContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("auth store: %s: %w", what, err)
	}
	if n, err := res.RowsAffected(); err != nil {
		return fmt.Errorf("auth store: %s: %w", what, err)
	} else if n == 0 {
		return domain.ErrNotFound
	}
	return nil
}

// ConsumeCode returns the sign-in of an authorization code and uses the code up,
// whatever then becomes of the exchange. A second use returns ErrNotFound and ends
// the tokens that the first one gave (RFC 6749, section 4.1.2).
func (s *Store) ConsumeCode(ctx context.Context, codeHash string, now time.Time) (domain.Request, error) {
	var r domain.Request
	found := false
	err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		var err error
		r, err = scanSignIn(tx.QueryRowContext(ctx, `UPDATE sign_ins SET code_used_at = $2
			WHERE code_hash = $1 AND code_used_at = 0 AND code_expires_at > $2 RETURNING `+signInColumns,
			codeHash, sqldb.Micros(now)))
		found = err == nil
		if !errors.Is(err, domain.ErrNotFound) {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM refresh_tokens WHERE family IN
			(SELECT id FROM sign_ins WHERE code_hash = $1 AND code_used_at <> 0)`, codeHash)
		if err != nil {
			return fmt.Errorf("auth store: end the tokens of a code used twice: %w", err)
		}
		return nil
	})
	if err == nil && !found {
		err = domain.ErrNotFound
	}
	return r, err
}
