package signin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/kit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer is a token endpoint whose refresh tokens rotate.
type issuer struct {
	t         *testing.T
	tokens    *authntest.TokenIssuer
	exchanges atomic.Int64
	answer    atomic.Int64 // HTTP status; 0 gives tokens
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	n := i.exchanges.Add(1)
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	switch status := int(i.answer.Load()); {
	case status == 0:
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": i.tokens.Token(i.t, "usr_1", "shop"), "refresh_token": fmt.Sprint("refresh-", n+1), "token_type": "Bearer", "expires_in": 300,
		})
	default:
		w.WriteHeader(status)
		_, _ = w.WriteString(`{"error":"invalid_grant"}`)
	}
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func party(t *testing.T) (*Party, *issuer, *session.Keeper) {
	t.Helper()
	i := &issuer{t: t, tokens: authntest.NewTokenIssuer(t, "https://shop.example", "shop")}
	k, err := session.NewKeeper(session.Config{Purpose: "storefront", Key: bytes.Repeat([]byte{1}, 32), URL: "https://shop.example"})
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Config{
		Issuer: "https://shop.example", ClientID: "storefront", Scopes: []string{"openid"}, AfterLogout: "/", Keeper: k,
		Verifier: i.tokens.Verifier(t), Auth: &http.Client{Transport: i}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, i, k
}

// visit sends a request with a session to a page for users.
func visit(t *testing.T, p *Party, k *session.Keeper, s session.Session) (who authn.Principal, next session.Session, resp *http.Response, err error) {
	t.Helper()
	set := httptest.NewRecorder()
	if err := k.Save(set, s); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/orders?page=2", nil)
	r.AddCookie(set.Result().Cookies()[0])
	w := httptest.NewRecorder()
	err = p.User(func(_ http.ResponseWriter, r *http.Request) error {
		who, _ = authn.PrincipalFrom(r.Context())
		return nil
	})(w, p.Identify(r))
	back := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, c := range w.Result().Cookies() {
		back.AddCookie(c)
	}
	return who, k.Load(back), w.Result(), err
}

func TestOneExchangeForManyRequests(t *testing.T) {
	p, i, k := party(t)
	old := session.Session{Access: "stale", Refresh: "refresh-1", AccessUntil: time.Now()}.Renewed()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			who, next, _, err := visit(t, p, k, old)
			if err != nil || who.Subject != "usr_1" || next.Refresh != "refresh-2" || next.CSRF != old.CSRF {
				t.Errorf("got %v with %+v: %v", who, next, err)
			}
		})
	}
	wg.Wait()
	if n := i.exchanges.Load(); n != 1 {
		t.Errorf("the refresh token was exchanged %d times", n)
	}
	// The new session is good without another one.
	_, next, _, err := visit(t, p, k, old)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := visit(t, p, k, next); err != nil || i.exchanges.Load() != 1 {
		t.Errorf("%v after %d exchanges", err, i.exchanges.Load())
	}
}

func TestSignInThatIsOverAsksAgain(t *testing.T) {
	p, i, k := party(t)
	i.answer.Store(http.StatusBadRequest)
	_, _, resp, err := visit(t, p, k, session.Session{Access: "stale", Refresh: "gone", AccessUntil: time.Now()})
	if err != nil || resp.StatusCode != http.StatusSeeOther || resp.Header.Get("Location") != "/auth/login?next=%2Forders%3Fpage%3D2" {
		t.Errorf("got %v, %s, %v", resp.StatusCode, resp.Header.Get("Location"), err)
	}
	if c := resp.Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
		t.Errorf("the browser keeps %v", c)
	}
}

func TestAuthDownKeepsTheSession(t *testing.T) {
	p, i, k := party(t)
	i.answer.Store(http.StatusServiceUnavailable)
	old := session.Session{Access: "stale", Refresh: "refresh-1", AccessUntil: time.Now()}
	_, _, resp, err := visit(t, p, k, old)
	if kit.Problem(err).Status != http.StatusServiceUnavailable || len(resp.Cookies()) != 0 {
		t.Errorf("got %v, %v", err, resp.Cookies())
	}
	i.answer.Store(0) // and tries again with the next request
	if _, next, _, err := visit(t, p, k, old); err != nil || next.Refresh == "" {
		t.Errorf("got %+v: %v", next, err)
	}
}

func TestForgedAccessTokenSignsOut(t *testing.T) {
	p, _, k := party(t)
	_, _, resp, err := visit(t, p, k, session.Session{Access: "a.b.c", Refresh: "r", AccessUntil: time.Now().Add(time.Hour)})
	if err != nil || resp.StatusCode != http.StatusSeeOther {
		t.Errorf("got %d: %v", resp.StatusCode, err)
	}
}

func TestRenewalsAreForgotten(t *testing.T) {
	var r renewals
	now := time.Now()
	for n := range maxRenewals + 100 {
		r.claim([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}, now)
	}
	if len(r.byOld) > maxRenewals {
		t.Errorf("%d are remembered", len(r.byOld))
	}
	if _, mine := r.claim([32]byte{255, 255, 255}, now.Add(2*remember)); !mine || len(r.byOld) != 1 {
		t.Errorf("%d are remembered", len(r.byOld))
	}
}

func TestStrangersCallbackIsRefused(t *testing.T) {
	p, i, _ := party(t)
	login := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "https://shop.example/auth/login?next=//evil.example", nil)
	if err := p.Login(login, r); err != nil {
		t.Fatal(err)
	}
	to := login.Header().Get("Location")
	for _, want := range []string{"https://shop.example/oauth/authorize?", "code_challenge_method=S256", "state=", "nonce=", "response_type=code"} {
		if !strings.Contains(to, want) {
			t.Errorf("%s lacks %s", to, want)
		}
	}
	back := httptest.NewRequest(http.MethodGet, "/auth/callback?code=c&state=another", nil)
	back.AddCookie(login.Result().Cookies()[0])
	if err := p.Callback(httptest.NewRecorder(), back); !errors.Is(err, errOver) || i.exchanges.Load() != 0 {
		t.Errorf("got %v after %d exchanges", err, i.exchanges.Load())
	}
	if err := p.Callback(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/auth/callback?code=c&state=", nil)); !errors.Is(err, errOver) {
		t.Errorf("without a sign-in: %v", err)
	}
}

func TestLoginGoesToTheSitesOwnAddress(t *testing.T) {
	p, _, _ := party(t)
	w := httptest.NewRecorder()
	if err := p.Login(w, httptest.NewRequest(http.MethodGet, "http://127.0.0.1/auth/login?next=/cart", nil)); err != nil {
		t.Fatal(err)
	}
	if to := w.Header().Get("Location"); to != "https://shop.example/auth/login?next=/cart" || len(w.Result().Cookies()) != 0 {
		t.Errorf("led to %s", to)
	}
}
