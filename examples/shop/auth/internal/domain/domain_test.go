package domain_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

func TestHasher(t *testing.T) {
	h := domain.NewHasher()
	hash, err := h.Hash(t.Context(), "correct horse")
	if err != nil {
		t.Fatal(err)
	}
	again, err := h.Hash(t.Context(), "correct horse")
	if err != nil || again == hash || !strings.HasPrefix(hash, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("hashes %q and %q, %v", hash, again, err)
	}
	for password, want := range map[string]bool{"correct horse": true, "correct horses": false, "": false} {
		if ok, err := h.Verify(t.Context(), hash, password); err != nil || ok != want {
			t.Errorf("verify %q: %v, %v", password, ok, err)
		}
	}
	if ok, err := h.Verify(t.Context(), "", "anything"); ok || err != nil {
		t.Errorf("nobody's hash: %v, %v", ok, err)
	}
	// Parameters stand in the hash: one of others is still verified.
	if ok, err := h.Verify(t.Context(), "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$MTIzNDU2Nzg5MDEyMzQ1Ng", "x"); ok || err != nil {
		t.Errorf("hash with other parameters: %v, %v", ok, err)
	}
	for _, bad := range []string{"plain", "$argon2i$v=19$m=1,t=1,p=1$AAAA$AAAA", "$argon2id$v=19$m=0,t=0,p=0$AAAA$AAAAAAAAAAAAAAAAAAAAAAAA", "$argon2id$v=19$x$!$!"} {
		if _, err := h.Verify(t.Context(), bad, "x"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var wg sync.WaitGroup
	for range 64 { // more than there are slots: some meet the cancelled context
		wg.Go(func() {
			if _, err := h.Hash(ctx, "x"); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// people is domain.Accounts in memory.
type people map[string]domain.Account

func (p people) CreateAccount(_ context.Context, a domain.Account) error {
	if _, taken := p[a.Email]; taken {
		return domain.ErrExists
	}
	p[a.Email] = a
	return nil
}

func (p people) AccountByEmail(_ context.Context, email string) (domain.Account, error) {
	if a, ok := p[email]; ok {
		return a, nil
	}
	return domain.Account{}, domain.ErrNotFound
}

func (p people) Account(context.Context, string) (domain.Account, error) {
	return domain.Account{}, domain.ErrNotFound
}

func TestRegistry(t *testing.T) {
	r := domain.NewRegistry(people{}, domain.NewHasher(), time.Now)
	a, err := r.Register(t.Context(), domain.Registration{Email: " Ann@Example.com", Password: "correct horse", Name: " Ann "})
	if err != nil || a.Email != "ann@example.com" || a.Name != "Ann" || a.Operator || !strings.HasPrefix(a.ID, "usr_") {
		t.Fatalf("registered %+v, %v", a, err)
	}
	if _, err := r.Register(t.Context(), domain.Registration{Email: "ANN@example.com", Password: "another one!", Name: "B"}); !errors.Is(err, domain.ErrExists) {
		t.Errorf("registered twice: %v", err)
	}
	if got, err := r.Authenticate(t.Context(), "Ann@EXAMPLE.com", "correct horse"); err != nil || got.ID != a.ID {
		t.Errorf("authenticated %+v, %v", got, err)
	}
	for _, c := range [][2]string{{"ann@example.com", "wrong"}, {"bob@example.com", "correct horse"}, {"", ""}} {
		if _, err := r.Authenticate(t.Context(), c[0], c[1]); !errors.Is(err, domain.ErrCredentials) {
			t.Errorf("authenticate %q %q: %v", c[0], c[1], err)
		}
	}
	for field, reg := range map[string]domain.Registration{
		"email":    {Email: "Ann <ann@example.com>", Password: "correct horse", Name: "A"},
		"password": {Email: "b@example.com", Password: "short", Name: "A"},
		"name":     {Email: "b@example.com", Password: "correct horse", Name: " "},
	} {
		_, err := r.Register(t.Context(), reg)
		if f, ok := errors.AsType[*domain.FieldError](err); !ok || f.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	if _, err := r.Register(t.Context(), domain.Registration{Email: "longlong@example.com", Password: "LongLong@example.com", Name: "A"}); err == nil {
		t.Error("the e-mail address was taken as password")
	}
}

func TestKeysRotateWithoutGap(t *testing.T) {
	start := time.Unix(1_700_000_000, 0)
	var keys []domain.Key
	signed := map[int64]time.Time{} // generation → when it last signed
	signsSince := map[int64]time.Time{}
	for at := start; at.Before(start.Add(100 * 24 * time.Hour)); at = at.Add(10 * time.Minute) {
		if domain.NextDue(keys, at) {
			keys = append(keys, domain.Key{Generation: int64(len(keys) + 1), CreatedAt: at})
		}
		k, ok := domain.Signing(keys, at)
		if !ok {
			t.Fatal("no key signs")
		}
		if _, known := signsSince[k.Generation]; !known {
			signsSince[k.Generation] = at
			if k.Generation > 1 && at.Sub(k.CreatedAt) < domain.KeyLead {
				t.Errorf("key %d signs %v after it was made", k.Generation, at.Sub(k.CreatedAt))
			}
		}
		signed[k.Generation] = at
		published := map[int64]bool{}
		for _, p := range domain.Published(keys, at) {
			published[p.Generation] = true
		}
		for g, last := range signed { // every token that may still live can be verified
			if at.Sub(last) <= domain.AccessLife && !published[g] {
				t.Fatalf("key %d is withdrawn %v after it signed", g, at.Sub(last))
			}
		}
		if len(published) > 2 {
			t.Fatalf("%d keys are published", len(published))
		}
	}
	if len(keys) < 4 {
		t.Errorf("%d keys in a hundred days", len(keys))
	}
}

func TestRefreshUsable(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, c := range []struct {
		name       string
		r          domain.Refresh
		ok, stolen bool
	}{
		{"fresh", domain.Refresh{ExpiresAt: now.Add(1)}, true, false},
		{"expired", domain.Refresh{ExpiresAt: now}, false, false},
		{"just used", domain.Refresh{ExpiresAt: now.Add(1), UsedAt: now.Add(-domain.RefreshLeeway)}, true, false},
		{"used before", domain.Refresh{ExpiresAt: now.Add(1), UsedAt: now.Add(-domain.RefreshLeeway - 1)}, false, true},
	} {
		if ok, stolen := c.r.Usable(now); ok != c.ok || stolen != c.stolen {
			t.Errorf("%s: %v, %v", c.name, ok, stolen)
		}
	}
}

func TestGrant(t *testing.T) {
	wanted := []string{"openid", "shop", "shop:admin"}
	if got := domain.Grant(wanted, domain.Account{}); len(got) != 2 {
		t.Errorf("a customer is granted %v", got)
	}
	if got := domain.Grant(wanted, domain.Account{Operator: true}); len(got) != 3 || len(wanted) != 3 {
		t.Errorf("an operator is granted %v of %v", got, wanted)
	}
}
