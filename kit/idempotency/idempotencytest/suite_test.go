package idempotencytest

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func memory(t *testing.T, now func() time.Time) *idempotency.Memory {
	t.Helper()
	s, err := idempotency.NewMemory(&idempotency.MemoryConfig{Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestMemoryPasses(t *testing.T) {
	TestStore(t, func(t *testing.T, now func() time.Time) idempotency.Store { return memory(t, now) })
}

// Broken stores, each with a fault that has been shipped by others.
type (
	noFingerprint struct{ idempotency.Store }
	noToken       struct {
		idempotency.Store
		last *idempotency.Claim
	}
	neverExpires struct{ idempotency.Store }
	zeroIsUnset  struct {
		idempotency.Store
		clock *Clock
	}
	unscoped struct{ idempotency.Store }
)

func (s noFingerprint) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	k.Fingerprint = []byte("any")
	return s.Store.Claim(ctx, k, ttl)
}

func (s noToken) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	c, r, err := s.Store.Claim(ctx, k, ttl)
	if err == nil && r == nil {
		*s.last = c
	}
	return c, r, err
}

func (s noToken) Complete(ctx context.Context, c idempotency.Claim, r idempotency.Response) error {
	c.Token = s.last.Token // whoever comes
	return s.Store.Complete(ctx, c, r)
}

func (s neverExpires) Claim(ctx context.Context, k idempotency.Key, _ time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	return s.Store.Claim(ctx, k, 1<<50)
}

// A claim is live as long as its age is at most the lease, not below it.
func (s zeroIsUnset) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	return s.Store.Claim(ctx, k, ttl+time.Nanosecond)
}

func (s unscoped) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	if k.Scope != "" {
		k.Scope = "everybody"
	}
	return s.Store.Claim(ctx, k, ttl)
}

func TestBrokenStoresFail(t *testing.T) {
	for name, c := range map[string]struct {
		broken func(s idempotency.Store, clock *Clock) idempotency.Store
		fails  string
	}{
		"no fingerprint": {func(s idempotency.Store, _ *Clock) idempotency.Store { return noFingerprint{s} }, "refuses another request"},
		"no token": {func(s idempotency.Store, _ *Clock) idempotency.Store {
			return noToken{s, new(idempotency.Claim)}
		}, "refuses the former holder"},
		"never expires": {func(s idempotency.Store, _ *Clock) idempotency.Store { return neverExpires{s} }, "takes over an abandoned claim"},
		"zero is unset": {func(s idempotency.Store, clock *Clock) idempotency.Store { return zeroIsUnset{s, clock} }, "takes over an abandoned claim"},
		"unscoped":      {func(s idempotency.Store, _ *Clock) idempotency.Store { return unscoped{s} }, "keeps scopes and operations apart"},
	} {
		t.Run(name, func(t *testing.T) {
			var failed []string
			for _, sc := range storeCases {
				clock := NewClock()
				if err := sc.run(t.Context(), c.broken(memory(t, clock.Now), clock), clock); err != nil {
					failed = append(failed, sc.name)
				}
			}
			if !slices.Contains(failed, c.fails) {
				t.Errorf("the suite let it pass %q; it failed %q", c.fails, failed)
			}
		})
	}
}

// txForgets stores nothing.
type txForgets struct{ idempotency.TxStore }

func (txForgets) Complete(context.Context, sqldb.Execer, idempotency.Key, idempotency.Response) error {
	return nil
}

type txNoFingerprint struct{ idempotency.TxStore }

func (s txNoFingerprint) Begin(ctx context.Context, tx sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	r, err := s.TxStore.Begin(ctx, tx, k)
	if errors.Is(err, idempotency.ErrMismatch) {
		return &idempotency.Response{}, nil
	}
	return r, err
}

func TestBrokenTxStoresFail(t *testing.T) {
	for name, c := range map[string]struct {
		broken func(idempotency.TxStore) idempotency.TxStore
		fails  string
	}{
		"stores nothing": {func(s idempotency.TxStore) idempotency.TxStore { return txForgets{s} }, "lets one of a hundred duplicates act"},
		"no fingerprint": {func(s idempotency.TxStore) idempotency.TxStore { return txNoFingerprint{s} }, "refuses another request"},
	} {
		t.Run(name, func(t *testing.T) {
			var failed []string
			for _, tc := range txCases {
				clock := NewClock()
				db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "k.db"), nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { db.Close() })
				if err := migrate.Up(t.Context(), db, sqlidempotency.Set, sqlidempotency.Migrations(db.Dialect)); err != nil {
					t.Fatal(err)
				}
				s, err := sqlidempotency.New(db.Dialect, &sqlidempotency.Config{TTL: time.Hour, Now: clock.Now})
				if err != nil {
					t.Fatal(err)
				}
				if err := tc.run(t.Context(), &txEnv{db, c.broken(s), clock}); err != nil {
					failed = append(failed, tc.name)
				}
			}
			if !slices.Contains(failed, c.fails) {
				t.Errorf("the suite let it pass %q; it failed %q", c.fails, failed)
			}
		})
	}
}
