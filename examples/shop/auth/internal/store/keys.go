package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Keys returns all signing keys in order of generation.
func (s *Store) Keys(ctx context.Context) ([]domain.Key, error) {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT generation, id, sealed, created_at FROM signing_keys ORDER BY generation`)
	if err != nil {
		return nil, fmt.Errorf("auth store: read signing keys: %w", err)
	}
	defer rows.Close()
	var out []domain.Key
	for rows.Next() {
		var (
			k       domain.Key
			sealed  string
			created int64
		)
		if err := rows.Scan(&k.Generation, &k.ID, &sealed, &created); err != nil {
			return nil, fmt.Errorf("auth store: read signing keys: %w", err)
		}
		k.CreatedAt = sqldb.FromMicros(created)
		if k.Private, err = s.open(k.ID, sealed); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("auth store: read signing keys: %w", err)
	}
	return out, nil
}

// AddKey makes a key of the given generation, unless another replica was first.
func (s *Store) AddKey(ctx context.Context, generation int64, now time.Time) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("auth store: make a signing key: %w", err)
	}
	id := domain.Random(10)
	sealed, err := s.close(id, private)
	if err != nil {
		return err
	}
	_, err = s.db.Write.ExecContext(ctx, `INSERT INTO signing_keys (generation, id, sealed, created_at)
		VALUES ($1, $2, $3, $4) ON CONFLICT (generation) DO NOTHING`, generation, id, sealed, sqldb.Micros(now))
	if err != nil {
		return fmt.Errorf("auth store: keep a signing key: %w", err)
	}
	return nil
}

// DropKeys removes the keys before a generation.
func (s *Store) DropKeys(ctx context.Context, before int64) error {
	if _, err := s.db.Write.ExecContext(ctx, `DELETE FROM signing_keys WHERE generation < $1`, before); err != nil {
		return fmt.Errorf("auth store: drop old signing keys: %w", err)
	}
	return nil
}

// close seals a private key; the key's id is authenticated with it, so that rows
// cannot be exchanged.
func (s *Store) close(id string, private *ecdsa.PrivateKey) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", fmt.Errorf("auth store: encode a signing key: %w", err)
	}
	nonce := make([]byte, s.seal.NonceSize())
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return base64.StdEncoding.EncodeToString(s.seal.Seal(nonce, nonce, der, []byte(id))), nil
}

func (s *Store) open(id, sealed string) (*ecdsa.PrivateKey, error) {
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil || len(raw) < s.seal.NonceSize() {
		return nil, fmt.Errorf("auth store: signing key %s is malformed", id)
	}
	n := s.seal.NonceSize()
	der, err := s.seal.Open(nil, raw[:n], raw[n:], []byte(id))
	if err != nil {
		return nil, fmt.Errorf("auth store: signing key %s does not open: the service was given another key than the one it was sealed with", id)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("auth store: signing key %s: %w", id, err)
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("auth store: signing key %s is a %T, not an ECDSA key", id, parsed)
	}
	return private, nil
}
