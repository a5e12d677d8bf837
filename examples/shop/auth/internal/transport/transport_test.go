package transport_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/napkin-kit/napkin/authn"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

const (
	password = "correct horse"
	secret   = "0123456789abcdef0123456789abcdef"
)

// shop is the provider as a client meets it, over SQLite and plain HTTP.
type shop struct {
	issuer   string
	server   *transport.Server
	registry *domain.Registry
	down     func() // takes the database away
}

func open(t *testing.T) shop {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "auth.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	if err := migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	if err := migrate.Up(t.Context(), db, "auth", store.Migrations()); err != nil {
		t.Fatal(err)
	}
	ob, err := outbox.New(db.Dialect, "auth", nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(db, ob, transport.Encode, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	keys, err := transport.NewKeyring(t.Context(), st, log, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	registry := domain.NewRegistry(st, domain.NewHasher(), time.Now)
	scopes := []string{"shop", "shop:admin"}
	p, err := transport.NewProvider(transport.ProviderConfig{
		Issuer: srv.URL, Store: st, Keys: keys, Registry: registry, Logger: log, Now: time.Now,
		Note: func(clientID string) string { return "a note for " + clientID },
		Clients: []*transport.Client{
			{ID: "cli", Scopes: scopes, Loopback: true, Redirects: []string{"http://127.0.0.1/callback"}},
			{ID: "robot", Scopes: scopes, Service: true, SecretSHA256: sha256.Sum256([]byte(secret))},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.Routes(mux)
	mux.HandleFunc("GET /{$}", func(http.ResponseWriter, *http.Request) {}) // the storefront, where signing out leads
	return shop{srv.URL, transport.NewServer(registry), registry, func() { _ = db.Close() }}
}

func (s shop) config(ctx context.Context, t *testing.T) (*oidc.Provider, *oauth2.Config) {
	t.Helper()
	p, err := oidc.NewProvider(ctx, s.issuer)
	if err != nil {
		t.Fatal(err)
	}
	endpoint := p.Endpoint()
	endpoint.AuthStyle = oauth2.AuthStyleInParams
	return p, &oauth2.Config{ClientID: "cli", Endpoint: endpoint, RedirectURL: "http://127.0.0.1:4711/callback",
		Scopes: []string{"openid", "profile", "email", "offline_access", "shop", "shop:admin"}}
}

// browser is one with cookies that stops at the client's redirect.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Port() == "4711" {
			return http.ErrUseLastResponse
		}
		return nil
	}}
}

var hidden = regexp.MustCompile(`name="(id|csrf)" value="([^"]*)"`)

// form opens a page and returns its sign-in form, empty where there is none.
func form(t *testing.T, b *http.Client, u string) (url.Values, int) {
	t.Helper()
	resp, err := b.Get(u)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	v := url.Values{}
	if note := strings.Contains(string(body), "a note for cli"); note != strings.Contains(string(body), "<form") {
		t.Errorf("the note of the client is shown: %t\n%s", note, body)
	}
	for _, m := range hidden.FindAllStringSubmatch(string(body), -1) {
		v.Set(m[1], m[2])
	}
	return v, resp.StatusCode
}

func (s shop) post(t *testing.T, b *http.Client, v url.Values) *http.Response {
	t.Helper()
	resp, err := b.PostForm(s.issuer+transport.LoginPath, v)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp
}

// signIn goes through the whole flow and returns the tokens.
func (s shop) signIn(t *testing.T, email string) (*oidc.Provider, *oauth2.Config, *oauth2.Token) {
	t.Helper()
	p, conf := s.config(t.Context(), t)
	b, verifier := browser(t), oauth2.GenerateVerifier()
	v, _ := form(t, b, conf.AuthCodeURL("state", oauth2.S256ChallengeOption(verifier), oidc.Nonce("nonce")))
	v.Set("email", email)
	v.Set("password", password)
	resp := s.post(t, b, v)
	loc, err := resp.Location()
	if err != nil || loc.Query().Get("state") != "state" {
		t.Fatalf("after the password: %s to %v, %v", resp.Status, loc, err)
	}
	token, err := conf.Exchange(t.Context(), loc.Query().Get("code"), oauth2.VerifierOption(verifier))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conf.Exchange(t.Context(), loc.Query().Get("code"), oauth2.VerifierOption(verifier)); err == nil {
		t.Error("the code worked twice")
	}
	return p, conf, token
}

func (s shop) register(t *testing.T, email string) string {
	t.Helper()
	resp, err := s.server.Register(t.Context(), &authv1.RegisterRequest{Email: email, Password: password, Name: "Ann"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetUser().GetId()
}

func TestCodeFlowWithPKCE(t *testing.T) {
	s := open(t)
	id := s.register(t, "ann@example.com")
	// Without the second exchange of signIn, which would end the tokens.
	p, conf := s.config(t.Context(), t)
	b, pkce := browser(t), oauth2.GenerateVerifier()
	v, _ := form(t, b, conf.AuthCodeURL("state", oauth2.S256ChallengeOption(pkce), oidc.Nonce("nonce")))
	v.Set("email", "ann@example.com")
	v.Set("password", password)
	loc, err := s.post(t, b, v).Location()
	if err != nil {
		t.Fatal(err)
	}
	token, err := conf.Exchange(t.Context(), loc.Query().Get("code"), oauth2.VerifierOption(pkce))
	if err != nil {
		t.Fatal(err)
	}

	rawID, _ := token.Extra("id_token").(string)
	idToken, err := p.VerifierContext(t.Context(), &oidc.Config{ClientID: "cli"}).Verify(t.Context(), rawID)
	if err != nil {
		t.Fatal(err)
	}
	var claims struct{ Name, Email, Nonce string }
	if err := idToken.Claims(&claims); err != nil || claims.Name != "Ann" || claims.Email != "ann@example.com" || claims.Nonce != "nonce" || idToken.Subject != id {
		t.Errorf("ID token %+v of %s, %v", claims, idToken.Subject, err)
	}

	verifier, err := authn.NewVerifier(authn.VerifierConfig{Issuer: s.issuer, Audience: transport.Audience, JWKSURL: s.issuer + "/oauth/jwks"})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	who, err := verifier.Verify(t.Context(), token.AccessToken)
	if err != nil || who.Subject != id || !who.HasScopes("openid", "shop") || who.HasScopes("shop:admin") {
		t.Errorf("access token of %v with %v, %v; want %s without shop:admin", who, who.Scopes, err, id)
	}
	if _, err := verifier.Verify(t.Context(), rawID); err == nil {
		t.Error("an ID token passes for an access token")
	}

	info, err := p.UserInfo(t.Context(), oauth2.StaticTokenSource(token))
	if err != nil || info.Subject != id || info.Email != "ann@example.com" {
		t.Errorf("userinfo %+v, %v", info, err)
	}
	if _, err := p.UserInfo(t.Context(), oauth2.StaticTokenSource(&oauth2.Token{AccessToken: rawID, TokenType: "Bearer"})); err == nil {
		t.Error("userinfo for an ID token")
	}

	refreshed, err := conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token()
	if err != nil || refreshed.RefreshToken == token.RefreshToken || refreshed.AccessToken == token.AccessToken {
		t.Fatalf("refreshed: %v", err)
	}
	if who, err := verifier.Verify(t.Context(), refreshed.AccessToken); err != nil || !who.HasScopes("shop") {
		t.Errorf("refreshed access token: %v, %v", who, err)
	}
	resp, err := http.PostForm(s.issuer+"/oauth/revoke", url.Values{"token": {refreshed.RefreshToken}, "client_id": {"cli"}})
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("revoke: %v, %v", resp, err)
	}
	_ = resp.Body.Close()
	if _, err := conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: refreshed.RefreshToken}).Token(); err == nil {
		t.Error("a revoked refresh token works")
	}
}

func TestCodeUsedTwiceEndsItsTokens(t *testing.T) {
	s := open(t)
	s.register(t, "ann@example.com")
	_, conf, token := s.signIn(t, "ann@example.com") // uses the code twice
	if _, err := conf.TokenSource(t.Context(), &oauth2.Token{RefreshToken: token.RefreshToken}).Token(); err == nil {
		t.Error("the refresh token of a code that was used twice works")
	}
}

func TestOperatorsMayHaveTheAdminScope(t *testing.T) {
	s := open(t)
	if _, err := s.registry.RegisterOperator(t.Context(), domain.Registration{Email: "ada@example.com", Password: password, Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	_, _, token := s.signIn(t, "ada@example.com")
	if granted, _ := token.Extra("scope").(string); !strings.Contains(granted, "shop:admin") {
		t.Errorf("granted %q", granted)
	}
}

func TestSignInPageRefuses(t *testing.T) {
	s := open(t)
	s.register(t, "ann@example.com")
	_, conf := s.config(t.Context(), t)
	start := func(b *http.Client) url.Values {
		v, _ := form(t, b, conf.AuthCodeURL("state", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())))
		v.Set("email", "ann@example.com")
		v.Set("password", password)
		return v
	}
	t.Run("a wrong password", func(t *testing.T) {
		b := browser(t)
		v := start(b)
		v.Set("password", "wrong password")
		if resp := s.post(t, b, v); resp.StatusCode != http.StatusUnauthorized {
			t.Error(resp.Status)
		}
		v.Set("password", password) // the sign-in is still good
		if resp := s.post(t, b, v); resp.StatusCode != http.StatusFound {
			t.Error(resp.Status)
		}
	})
	t.Run("a missing or foreign CSRF token", func(t *testing.T) {
		b := browser(t)
		v := start(b)
		for _, token := range []string{"", strings.Repeat("0", 64), start(browser(t)).Get("csrf")} {
			v.Set("csrf", token)
			if resp := s.post(t, b, v); resp.StatusCode != http.StatusForbidden {
				t.Error(resp.Status)
			}
		}
	})
	t.Run("a link from another browser", func(t *testing.T) {
		attacker, victim := browser(t), browser(t)
		v := start(attacker)
		start(victim) // has a cookie of its own
		if got, code := form(t, victim, s.issuer+transport.LoginPath+"?id="+v.Get("id")); code != http.StatusBadRequest || len(got) != 0 {
			t.Errorf("the page of somebody else's sign-in: %d, %v", code, got)
		}
		if resp := s.post(t, victim, v); resp.StatusCode != http.StatusBadRequest {
			t.Error(resp.Status)
		}
	})
	t.Run("another browser collecting the code", func(t *testing.T) {
		b, thief := browser(t), browser(t)
		v := start(b)
		b.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		callback, err := s.post(t, b, v).Location()
		if err != nil {
			t.Fatal(err)
		}
		resp, err := thief.Get(callback.String())
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if loc := resp.Header.Get("Location"); strings.Contains(loc, "code=") {
			t.Errorf("a thief was given %s", loc)
		}
	})
	t.Run("too many attempts", func(t *testing.T) {
		b := browser(t)
		v := start(b)
		v.Set("email", "victim@example.com")
		v.Set("password", "guess")
		for range 30 {
			resp := s.post(t, b, v)
			if resp.StatusCode == http.StatusTooManyRequests {
				if resp.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
				return
			}
		}
		t.Error("thirty guesses went through")
	})
}

func TestAuthorizeRefuses(t *testing.T) {
	s := open(t)
	_, conf := s.config(t.Context(), t)
	pkce := oauth2.S256ChallengeOption(oauth2.GenerateVerifier())
	get := func(u string) (int, *url.URL) {
		resp, err := browser(t).Get(u)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		loc, _ := resp.Location() // none where the error is shown to the user
		return resp.StatusCode, loc
	}
	for name, u := range map[string]string{
		"no PKCE":    conf.AuthCodeURL("s"),
		"plain PKCE": conf.AuthCodeURL("s", oauth2.SetAuthURLParam("code_challenge", "abc"), oauth2.SetAuthURLParam("code_challenge_method", "plain")),
		"implicit":   conf.AuthCodeURL("s", pkce, oauth2.SetAuthURLParam("response_type", "id_token token")),
		"silent":     conf.AuthCodeURL("s", pkce, oauth2.SetAuthURLParam("prompt", "none")),
	} {
		if _, loc := get(u); loc == nil || loc.Port() != "4711" || !strings.Contains(loc.String(), "error=") {
			t.Errorf("%s: redirected to %v", name, loc)
		}
	}
	for name, change := range map[string]string{"redirect_uri": "https://evil.example/callback", "client_id": "nobody"} {
		if code, loc := get(conf.AuthCodeURL("s", pkce, oauth2.SetAuthURLParam(name, change))); loc != nil || code != http.StatusBadRequest {
			t.Errorf("%s %s: %d to %v", name, change, code, loc)
		}
	}
}

func TestClientCredentials(t *testing.T) {
	s := open(t)
	p, _ := s.config(t.Context(), t)
	conf := clientcredentials.Config{ClientID: "robot", ClientSecret: secret, TokenURL: p.Endpoint().TokenURL, Scopes: []string{"shop:admin"}}
	token, err := conf.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := authn.NewVerifier(authn.VerifierConfig{Issuer: s.issuer, Audience: transport.Audience, JWKSURL: s.issuer + "/oauth/jwks"})
	if err != nil {
		t.Fatal(err)
	}
	defer verifier.Close()
	if who, err := verifier.Verify(t.Context(), token.AccessToken); err != nil || who.Subject != "robot" || !who.HasScopes("shop:admin") || who.HasScopes("shop") {
		t.Errorf("token of %v with %v, %v", who, who.Scopes, err)
	}
	conf.ClientSecret = "wrong"
	if _, err := conf.Token(t.Context()); err == nil {
		t.Error("a wrong secret works")
	}
	conf.ClientID, conf.ClientSecret = "cli", ""
	if _, err := conf.Token(t.Context()); err == nil {
		t.Error("a public client signs in as itself")
	}
}

// Whatever a stranger sends is his fault, on either database: no parameter gets as far as to look like ours.
func TestRubbishIsTheCallersFault(t *testing.T) {
	s := open(t)
	token := s.issuer + "/oauth/token"
	for name, tt := range map[string]struct {
		url    string
		form   url.Values
		status int
	}{
		"refresh by a client nobody knows":  {token, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {"nobody"}}, 401},
		"code by a client nobody knows":     {token, url.Values{"grant_type": {"authorization_code"}, "code": {"x"}, "client_id": {"nobody"}}, 400},
		"end of session of nobody's client": {s.issuer + "/oauth/end_session", url.Values{"client_id": {"nobody"}}, 401},
		"NUL in a token":                    {token, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x\x00"}, "client_id": {"cli"}}, 400},
		"no UTF-8 in a state":               {s.issuer + "/oauth/authorize", url.Values{"state": {"\xff"}}, 400},
		"NUL in an address":                 {s.issuer + transport.LoginPath, url.Values{"email": {"\x00"}}, 400},
		"NUL in a name":                     {s.issuer + transport.LoginPath + "?%00=1", nil, 400},
		"a broken escape":                   {s.issuer + transport.LoginPath + "?id=%zz", nil, 400},
	} {
		resp, err := http.PostForm(tt.url, tt.form)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		var answer struct{ Error string }
		if err != nil || resp.StatusCode != tt.status || json.Unmarshal(body, &answer) != nil || answer.Error == "" || strings.Contains(string(body), "auth:") {
			t.Errorf("%s: %s %s, %v", name, resp.Status, body, err)
		}
	}
}

func TestAnOutageIsNotAnInvalidGrant(t *testing.T) {
	s := open(t)
	s.register(t, "ann@example.com")
	_, conf := s.config(t.Context(), t)
	s.down()
	for name, call := range map[string]func() (*http.Response, error){
		"refresh": func() (*http.Response, error) {
			return http.PostForm(s.issuer+"/oauth/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}, "client_id": {"cli"}})
		},
		"authorize": func() (*http.Response, error) {
			return browser(t).Get(conf.AuthCodeURL("s", oauth2.S256ChallengeOption(oauth2.GenerateVerifier())))
		},
	} {
		resp, err := call()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(string(body), "sql") {
			t.Errorf("%s: %s %s, %v", name, resp.Status, body, err)
		}
	}
}

func TestDiscoveryPromisesOnlyWhatIsServed(t *testing.T) {
	s := open(t)
	resp, err := http.Get(s.issuer + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var d map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&d); err != nil {
		t.Fatal(err)
	}
	for name, v := range d {
		u, ok := v.(string)
		if !ok || !strings.HasSuffix(name, "_endpoint") && name != "jwks_uri" {
			continue
		}
		got, err := http.Get(u)
		if err != nil {
			t.Fatal(err)
		}
		_ = got.Body.Close()
		if !strings.HasPrefix(u, s.issuer+"/oauth/") || got.StatusCode == http.StatusNotFound {
			t.Errorf("%s: %s answers %s", name, u, got.Status)
		}
	}
	if d["issuer"] != s.issuer {
		t.Errorf("issuer %v", d["issuer"])
	}
}

func TestRegisterErrors(t *testing.T) {
	s := open(t)
	s.register(t, "ann@example.com")
	for status, req := range map[int]*authv1.RegisterRequest{
		http.StatusConflict:   {Email: "Ann@example.com", Password: password, Name: "Ann"},
		http.StatusBadRequest: {Email: "not an address", Password: password, Name: "Ann"},
	} {
		_, err := s.server.Register(t.Context(), req)
		if p := kit.Problem(err); err == nil || p.Status != status {
			t.Errorf("%v: %v", req, err)
		}
	}
}

func TestIssuerIsChecked(t *testing.T) {
	for _, issuer := range []string{"", "shop.example", "http://shop.example", "https://shop.example/path", "ftp://localhost"} {
		if _, err := transport.NewProvider(transport.ProviderConfig{Issuer: issuer}); err == nil {
			t.Errorf("issuer %q was taken", issuer)
		}
	}
}
