package store_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/transport"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

type journal struct {
	evs  []events.Event
	fail error
}

func (j *journal) Append(_ context.Context, _ sqldb.Execer, evs ...events.Event) error {
	j.evs = append(j.evs, evs...)
	return j.fail
}

type fixture struct {
	*store.Store
	db      *sqldb.DB
	journal *journal
}

func forEach(t *testing.T, test func(t *testing.T, f fixture)) {
	open := map[string]func(t *testing.T) *sqldb.DB{
		"sqlite": func(t *testing.T) *sqldb.DB {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "auth.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			return db
		},
		"postgres": func(t *testing.T) *sqldb.DB { return pgtest.DB(t) },
	}
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			f := fixture{db: open[name](t), journal: &journal{}}
			for range 2 { // up, down, and up again
				if err := migrate.Up(t.Context(), f.db, "auth", store.Migrations()); err != nil {
					t.Fatal(err)
				}
				if f.Store == nil {
					if err := migrate.Down(t.Context(), f.db, "auth", store.Migrations()); err != nil {
						t.Fatal(err)
					}
				}
				var err error
				if f.Store, err = store.New(f.db, f.journal, transport.Encode, make([]byte, 32)); err != nil {
					t.Fatal(err)
				}
			}
			test(t, f)
		})
	}
}

var now = time.UnixMicro(1_700_000_000_123_456).UTC()

func TestAccounts(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		a := domain.Account{ID: "usr_1", Email: "ann@example.com", Name: "Ann", PasswordHash: "h", Operator: true, CreatedAt: now}
		if err := f.CreateAccount(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		b := a
		b.ID = "usr_2"
		if err := f.CreateAccount(t.Context(), b); !errors.Is(err, domain.ErrExists) {
			t.Errorf("the same address twice: %v", err)
		}
		for _, find := range []func() (domain.Account, error){
			func() (domain.Account, error) { return f.Account(t.Context(), "usr_1") },
			func() (domain.Account, error) { return f.AccountByEmail(t.Context(), "ann@example.com") },
		} {
			if got, err := find(); err != nil || got != a {
				t.Errorf("found %+v, %v; want %+v", got, err, a)
			}
		}
		if _, err := f.Account(t.Context(), "usr_2"); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("unknown account: %v", err)
		}
		if len(f.journal.evs) != 1 || f.journal.evs[0].Key != "usr_1" {
			t.Errorf("events %v, want one for usr_1", f.journal.evs)
		}
		f.journal.fail = errors.New("no")
		b.Email = "bob@example.com"
		if err := f.CreateAccount(t.Context(), b); !errors.Is(err, f.journal.fail) {
			t.Errorf("without its event: %v", err)
		}
		if _, err := f.Account(t.Context(), "usr_2"); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("an account stands without its event: %v", err)
		}
	})
}

func TestSignInGivesOneCodeThatIsUsedOnce(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		r := domain.Request{
			ID: "s1", ClientID: "cli", RedirectURI: "http://127.0.0.1/callback", State: "st", Nonce: "n",
			Scopes: []string{"openid", "shop:admin"}, ResponseType: "code", Challenge: "c", BrowserHash: "b",
			CreatedAt: now, ExpiresAt: now.Add(time.Hour),
		}
		if err := f.CreateSignIn(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if err := f.SetCode(t.Context(), "s1", "code", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a code before the password: %v", err)
		}
		if err := f.CompleteSignIn(t.Context(), "s1", "usr_1", []string{"openid"}, now); err != nil {
			t.Fatal(err)
		}
		if err := f.CompleteSignIn(t.Context(), "s1", "usr_2", nil, now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("completed by a second user: %v", err)
		}
		if err := f.SetCode(t.Context(), "s1", "code", now); err != nil {
			t.Fatal(err)
		}
		if err := f.SetCode(t.Context(), "s1", "code2", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a second code: %v", err)
		}
		if _, err := f.ConsumeCode(t.Context(), "other", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("another code: %v", err)
		}
		got, err := f.ConsumeCode(t.Context(), "code", now.Add(time.Second))
		if err != nil || got.UserID != "usr_1" || !slices.Equal(got.Scopes, []string{"openid"}) || got.Challenge != "c" || !got.AuthenticatedAt.Equal(now) {
			t.Fatalf("consumed %+v, %v", got, err)
		}
		if err := f.CreateRefresh(t.Context(), refresh("t1", "s1")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ConsumeCode(t.Context(), "code", now.Add(time.Second)); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("used twice: %v", err)
		}
		if _, err := f.Refresh(t.Context(), "t1", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("the tokens of a code used twice live on: %v", err)
		}
	})
}

func TestSignInsAndCodesExpire(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		if err := f.CreateSignIn(t.Context(), domain.Request{ID: "s1", CreatedAt: now, ExpiresAt: now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.CompleteSignIn(t.Context(), "s1", "u", nil, now), f.SetCode(t.Context(), "s1", "code", now)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.ConsumeCode(t.Context(), "code", now.Add(domain.CodeLife)); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a stale code: %v", err)
		}
		if _, err := f.SignIn(t.Context(), "s1", now.Add(time.Hour)); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a stale sign-in: %v", err)
		}
		if err := f.Sweep(t.Context(), now.Add(2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.SignIn(t.Context(), "s1", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("swept: %v", err)
		}
	})
}

func refresh(hash, family string) domain.Refresh {
	return domain.Refresh{
		Hash: hash, Family: family, UserID: "u", ClientID: "cli", Scopes: []string{"openid", "shop"},
		AuthenticatedAt: now, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
	}
}

func TestRefreshTokensRotateAndATheftEndsThemAll(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		if err := f.CreateRefresh(t.Context(), refresh("t1", "f")); err != nil {
			t.Fatal(err)
		}
		if err := f.Rotate(t.Context(), "t1", refresh("t2", "f"), now); err != nil {
			t.Fatal(err)
		}
		soon := now.Add(domain.RefreshLeeway)
		if err := f.Rotate(t.Context(), "t1", refresh("t3", "f"), soon); err != nil {
			t.Errorf("a retry within the leeway: %v", err)
		}
		if err := f.Rotate(t.Context(), "t2", refresh("t4", "f"), soon); err != nil {
			t.Errorf("the successor: %v", err)
		}
		later := soon.Add(time.Second)
		if err := f.Rotate(t.Context(), "t1", refresh("t5", "f"), later); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a used token after the leeway: %v", err)
		}
		if got, err := f.Refresh(t.Context(), "t4", later); err != nil || !slices.Equal(got.Scopes, []string{"openid", "shop"}) {
			t.Errorf("the newest token: %+v, %v", got, err)
		}
		if _, err := f.Refresh(t.Context(), "t1", later); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a stolen token: %v", err)
		}
		if _, err := f.Refresh(t.Context(), "t4", later); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("the family of a stolen token lives on: %v", err)
		}
	})
}

func TestRevocationAndEndOfSessions(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		for _, r := range []domain.Refresh{refresh("a1", "a"), refresh("a2", "a"), refresh("b1", "b"), refresh("c1", "c")} {
			if r.Hash == "c1" {
				r.ClientID = "storefront"
			}
			if err := f.CreateRefresh(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		if ended, err := f.EndFamily(t.Context(), "a1", "storefront"); err != nil || ended {
			t.Errorf("another client's token: %v, %v", ended, err)
		}
		if ended, err := f.EndFamily(t.Context(), "a1", "cli"); err != nil || !ended {
			t.Errorf("revoked: %v, %v", ended, err)
		}
		if _, err := f.Refresh(t.Context(), "a2", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("a token of a revoked family: %v", err)
		}
		if owner, err := f.RefreshOwner(t.Context(), "b1"); err != nil || owner != "u" {
			t.Errorf("owner %q, %v", owner, err)
		}
		if err := f.EndSessions(t.Context(), "u", "cli"); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Refresh(t.Context(), "b1", now); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("after signing out: %v", err)
		}
		if _, err := f.Refresh(t.Context(), "c1", now); err != nil {
			t.Errorf("another client's session ended too: %v", err)
		}
	})
}

func TestSigningKeys(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		for _, generation := range []int64{1, 1, 2} { // two replicas make the first
			if err := f.AddKey(t.Context(), generation, now); err != nil {
				t.Fatal(err)
			}
		}
		keys, err := f.Keys(t.Context())
		if err != nil || len(keys) != 2 || keys[0].Generation != 1 || keys[1].Generation != 2 || keys[0].Private == nil {
			t.Fatalf("keys %v, %v", keys, err)
		}
		again, err := f.Keys(t.Context())
		if err != nil || !again[0].Private.Equal(keys[0].Private) || again[0].ID != keys[0].ID {
			t.Errorf("another key the second time: %v", err)
		}
		other, err := store.New(f.db, f.journal, transport.Encode, []byte(strings.Repeat("x", 32)))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := other.Keys(t.Context()); err == nil || !strings.Contains(err.Error(), "another key") {
			t.Errorf("opened with another key: %v", err)
		}
		if err := f.DropKeys(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		if keys, err := f.Keys(t.Context()); err != nil || len(keys) != 1 || keys[0].Generation != 2 {
			t.Errorf("after dropping: %v, %v", keys, err)
		}
	})
	if _, err := store.New(nil, nil, nil, []byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}
