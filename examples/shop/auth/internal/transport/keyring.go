package transport

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// KeyStore keeps signing keys.
type KeyStore interface {
	Keys(ctx context.Context) ([]domain.Key, error)
	AddKey(ctx context.Context, generation int64, now time.Time) error
	DropKeys(ctx context.Context, before int64) error
}

const (
	keysFresh  = time.Minute      // keys are read again after
	rotateTick = 10 * time.Minute // the calendar is looked at every
)

// Keyring holds the signing keys. All replicas share them by the database; each
// reads them again every minute, long before a new one signs.
type Keyring struct {
	store KeyStore
	log   *slog.Logger
	now   func() time.Time

	mu   sync.Mutex
	keys []domain.Key
	read time.Time
}

// NewKeyring returns a keyring that has a key.
func NewKeyring(ctx context.Context, store KeyStore, log *slog.Logger, now func() time.Time) (*Keyring, error) {
	k := &Keyring{store: store, log: log, now: now}
	return k, k.Rotate(ctx)
}

// Run rotates the keys until ctx ends.
func (k *Keyring) Run(ctx context.Context) error {
	tick := time.NewTicker(rotateTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := k.Rotate(ctx); err != nil && ctx.Err() == nil {
			k.log.WarnContext(ctx, "signing keys could not be rotated; the present one goes on signing", "error", err)
		}
	}
}

// Rotate makes the next key where it is due and drops those that nobody needs.
func (k *Keyring) Rotate(ctx context.Context) error {
	keys, err := k.store.Keys(ctx)
	if err != nil {
		return err
	}
	now := k.now()
	if domain.NextDue(keys, now) {
		generation := int64(1)
		if n := len(keys); n > 0 {
			generation = keys[n-1].Generation + 1
		}
		if err := k.store.AddKey(ctx, generation, now); err != nil {
			return err
		}
		if keys, err = k.store.Keys(ctx); err != nil {
			return err
		}
		k.log.InfoContext(ctx, "signing key made", "generation", generation)
	}
	if published := domain.Published(keys, now); len(published) < len(keys) {
		if err := k.store.DropKeys(ctx, published[0].Generation); err != nil {
			return err
		}
		keys = published
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.read = keys, now
	return nil
}

func (k *Keyring) current(ctx context.Context) ([]domain.Key, error) {
	k.mu.Lock()
	keys, fresh := k.keys, k.now().Sub(k.read) < keysFresh
	k.mu.Unlock()
	if fresh {
		return keys, nil
	}
	read, err := k.store.Keys(ctx)
	if err != nil {
		if len(keys) > 0 {
			return keys, nil // the ones at hand are still good; Run warns
		}
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.keys, k.read = read, k.now()
	return read, nil
}

func (k *Keyring) signing(ctx context.Context) (op.SigningKey, error) {
	keys, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	key, ok := domain.Signing(keys, k.now())
	if !ok {
		return nil, errors.New("auth: there is no signing key")
	}
	return privateKey{key}, nil
}

func (k *Keyring) published(ctx context.Context) ([]op.Key, error) {
	keys, err := k.current(ctx)
	if err != nil {
		return nil, err
	}
	var out []op.Key
	for _, key := range domain.Published(keys, k.now()) {
		out = append(out, publicKey{key})
	}
	return out, nil
}

// privateKey and publicKey are a domain.Key as the library sees it.
type (
	privateKey struct{ key domain.Key }
	publicKey  struct{ key domain.Key }
)

func (k privateKey) ID() string                                  { return k.key.ID }
func (k privateKey) SignatureAlgorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k privateKey) Key() any                                    { return k.key.Private }

func (k publicKey) ID() string                         { return k.key.ID }
func (k publicKey) Algorithm() jose.SignatureAlgorithm { return jose.ES256 }
func (k publicKey) Use() string                        { return "sig" }
func (k publicKey) Key() any                           { return k.key.Private.Public() }
