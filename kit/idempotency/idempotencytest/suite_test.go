package idempotencytest

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
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
	unscoped  struct{ idempotency.Store }
	reclaims  struct{ *withClaims }
	exposes   struct{ idempotency.Store }
	renewsAny struct{ idempotency.Store }
	aliases   struct {
		idempotency.Store
		last **idempotency.Response
	}
)

// withClaims remembers who has what.
type withClaims struct {
	idempotency.Store
	mu     sync.Mutex
	claims map[string]idempotency.Claim
}

// A live claim of the same request is taken for an orphan of a crashed one.
func (s reclaims) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	c, r, err := s.Store.Claim(ctx, k, ttl)
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, idempotency.ErrInProgress) {
		return s.claims[k.Value], nil, nil
	}
	if err == nil && r == nil {
		s.claims[k.Value] = c
	}
	return c, r, err
}

// errUnique is what a driver says of a second row with one key.
var errUnique = errors.New("UNIQUE constraint failed: keys.key (2067)")

func (s exposes) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	c, r, err := s.Store.Claim(ctx, k, ttl)
	if errors.Is(err, idempotency.ErrInProgress) {
		err = errUnique
	}
	return c, r, err
}

// Whoever renews or releases is believed.
func (renewsAny) Renew(context.Context, idempotency.Claim, time.Duration) error { return nil }

func (s aliases) Complete(ctx context.Context, c idempotency.Claim, r idempotency.Response) error {
	*s.last = &r
	return s.Store.Complete(ctx, c, r)
}

func (s aliases) Claim(ctx context.Context, k idempotency.Key, ttl time.Duration) (idempotency.Claim, *idempotency.Response, error) {
	c, r, err := s.Store.Claim(ctx, k, ttl)
	if r != nil {
		r = *s.last
	}
	return c, r, err
}

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

// No time left reads as no lease set: at exactly its end the claim is held for ever.
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
		"reclaims a live record": {func(s idempotency.Store, _ *Clock) idempotency.Store {
			return reclaims{&withClaims{Store: s, claims: map[string]idempotency.Claim{}}}
		}, "keeps a live claim of the same request"},
		"surfaces a unique violation": {func(s idempotency.Store, _ *Clock) idempotency.Store { return exposes{s} }, "gives a contended key to one"},
		"renews for anybody":          {func(s idempotency.Store, _ *Clock) idempotency.Store { return renewsAny{s} }, "refuses the former holder"},
		"keeps the caller's slices": {func(s idempotency.Store, _ *Clock) idempotency.Store {
			return aliases{s, new(*idempotency.Response)}
		}, "keeps its copy apart"},
		"unscoped": {func(s idempotency.Store, _ *Clock) idempotency.Store { return unscoped{s} }, "keeps scopes and operations apart"},
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

// txDetached stores the result beside the transaction, where a rollback does not
// reach it.
type txDetached struct {
	idempotency.TxStore
	mu     *sync.Mutex
	stored map[string]*idempotency.Response
}

func (s txDetached) Begin(ctx context.Context, tx sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.stored[k.Scope+k.Operation+k.Value]; r != nil {
		return r, nil
	}
	return s.TxStore.Begin(ctx, tx, k)
}

func (s txDetached) Complete(_ context.Context, _ sqldb.Execer, k idempotency.Key, r idempotency.Response) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stored[k.Scope+k.Operation+k.Value] = &r
	return nil
}

func (s txDetached) Peek(_ context.Context, _ *sqldb.DB, k idempotency.Key) (*idempotency.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stored[k.Scope+k.Operation+k.Value], nil
}

type txUnscoped struct{ idempotency.TxStore }

func (s txUnscoped) Begin(ctx context.Context, tx sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	return s.TxStore.Begin(ctx, tx, everybody(k))
}

func (s txUnscoped) Complete(ctx context.Context, tx sqldb.Execer, k idempotency.Key, r idempotency.Response) error {
	return s.TxStore.Complete(ctx, tx, everybody(k), r)
}

func (s txUnscoped) Peek(ctx context.Context, db *sqldb.DB, k idempotency.Key) (*idempotency.Response, error) {
	return s.TxStore.Peek(ctx, db, everybody(k))
}

func everybody(k idempotency.Key) idempotency.Key {
	if k.Scope != "" {
		k.Scope = "everybody"
	}
	return k
}

// txBlind never looks, so that the second insert violates the primary key.
type txBlind struct{ idempotency.TxStore }

func (txBlind) Begin(_ context.Context, _ sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	return nil, k.Validate()
}

func (s txBlind) Complete(ctx context.Context, tx sqldb.Execer, k idempotency.Key, r idempotency.Response) error {
	err := s.TxStore.Complete(ctx, tx, k, r)
	if errors.Is(err, idempotency.ErrInProgress) {
		return errUnique
	}
	return err
}

// txForever keeps results beyond their time.
type txForever struct {
	idempotency.TxStore
	early idempotency.TxStore // the same tables at an earlier time
}

func (s txForever) Begin(ctx context.Context, tx sqldb.Tx, k idempotency.Key) (*idempotency.Response, error) {
	return s.early.Begin(ctx, tx, k)
}

func TestBrokenTxStoresFail(t *testing.T) {
	for name, c := range map[string]struct {
		broken func(idempotency.TxStore) idempotency.TxStore
		fails  string
	}{
		"stores nothing": {func(s idempotency.TxStore) idempotency.TxStore { return txForgets{s} }, "lets one of a hundred duplicates act"},
		"no fingerprint": {func(s idempotency.TxStore) idempotency.TxStore { return txNoFingerprint{s} }, "refuses another request"},
		"stores beside the transaction": {func(s idempotency.TxStore) idempotency.TxStore {
			return txDetached{s, new(sync.Mutex), map[string]*idempotency.Response{}}
		}, "frees the key when the effect rolls back"},
		"unscoped":                    {func(s idempotency.TxStore) idempotency.TxStore { return txUnscoped{s} }, "keeps scopes and operations apart"},
		"surfaces a unique violation": {func(s idempotency.TxStore) idempotency.TxStore { return txBlind{s} }, "lets one of a hundred duplicates act"},
		"keeps results for ever": {func(s idempotency.TxStore) idempotency.TxStore {
			early, err := sqlidempotency.New(sqldb.SQLite, &sqlidempotency.Config{TTL: time.Hour, Now: NewClock().Now})
			if err != nil {
				t.Fatal(err)
			}
			return txForever{s, early}
		}, "forgets what has expired"},
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
