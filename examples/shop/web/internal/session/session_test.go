package session_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/kit/problem"
)

var key = bytes.Repeat([]byte{7}, 32)

func keeper(t *testing.T, purpose string, now func() time.Time) *session.Keeper {
	t.Helper()
	k, err := session.NewKeeper(session.Config{Purpose: purpose, Key: key, URL: "https://shop.example", Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// saved returns the cookies that a browser gets.
func saved(t *testing.T, k *session.Keeper, s session.Session) []*http.Cookie {
	t.Helper()
	w := httptest.NewRecorder()
	if err := k.Save(w, s); err != nil {
		t.Fatal(err)
	}
	return w.Result().Cookies()
}

func request(cookies []*http.Cookie) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	return r
}

func TestSessionSurvivesTheBrowser(t *testing.T) {
	k := keeper(t, "storefront", nil)
	want := session.Session{Access: "access", Refresh: "refresh", Name: "Dana"}.Renewed()
	cookies := saved(t, k, want)
	c := cookies[0]
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || !strings.HasPrefix(c.Name, "__Host-") {
		t.Errorf("cookie %v is not kept to this site", c)
	}
	if strings.Contains(c.Value, "refresh") || strings.Contains(c.Value, "Dana") {
		t.Error("the cookie can be read")
	}
	if got := k.Load(request(cookies)); got != want || !got.SignedIn() {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestForeignCookiesAreNoSession(t *testing.T) {
	now := time.Now()
	k := keeper(t, "storefront", func() time.Time { return now })
	cookies := saved(t, k, session.Session{Refresh: "r"})
	other := keeper(t, "console", nil)
	foreign := saved(t, other, session.Session{Refresh: "r"})
	foreign[0].Name = cookies[0].Name // as another port of this host could set it

	bent := *cookies[0]
	bent.Value = flipped(bent.Value)
	pending := httptest.NewRecorder()
	if err := k.SavePending(pending, session.Pending{State: "s"}); err != nil {
		t.Fatal(err)
	}
	moved := pending.Result().Cookies()
	moved[0].Name = cookies[0].Name
	for name, c := range map[string][]*http.Cookie{"none": nil, "bent": {&bent}, "the console's": foreign, "of another kind": moved, "no base64": {{Name: cookies[0].Name, Value: "%"}}} {
		if got := k.Load(request(c)); got != (session.Session{}) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	now = now.Add(31 * 24 * time.Hour)
	if k.Load(request(cookies)).SignedIn() {
		t.Error("a session outlived its refresh token")
	}
}

// flipped is the value with one bit of one of its whole bytes changed.
func flipped(v string) string {
	raw, err := base64.RawURLEncoding.DecodeString(v)
	if err != nil {
		panic(err)
	}
	raw[len(raw)/2] ^= 1
	return base64.RawURLEncoding.EncodeToString(raw)
}

func TestSignInIsTakenOnce(t *testing.T) {
	k := keeper(t, "storefront", nil)
	w := httptest.NewRecorder()
	want := session.Pending{State: "s", Nonce: "n", Verifier: "v", Next: "/cart"}
	if err := k.SavePending(w, want); err != nil {
		t.Fatal(err)
	}
	w2 := httptest.NewRecorder()
	if got, ok := k.TakePending(w2, request(w.Result().Cookies())); !ok || got != want {
		t.Errorf("got %+v, %v", got, ok)
	}
	if c := w2.Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 {
		t.Errorf("the browser keeps %v", c)
	}
}

func TestPostsFromElsewhereAreRefused(t *testing.T) {
	k := keeper(t, "storefront", nil)
	s := session.Session{Refresh: "r"}.Renewed()
	for _, tc := range []struct {
		name    string
		headers map[string]string
		csrf    string
		session session.Session
		code    string // "" passes
	}{
		{"ours", map[string]string{"Origin": "https://shop.example"}, s.CSRF, s, ""},
		{"ours, by fetch metadata", map[string]string{"Sec-Fetch-Site": "same-origin"}, s.CSRF, s, ""},
		{"ours, by referer", map[string]string{"Referer": "https://shop.example/cart"}, s.CSRF, s, ""},
		{"another origin", map[string]string{"Origin": "https://evil.example"}, s.CSRF, s, "foreign_form"},
		{"another port", map[string]string{"Origin": "https://shop.example:8081"}, s.CSRF, s, "foreign_form"},
		{"origin null", map[string]string{"Origin": "null"}, s.CSRF, s, "foreign_form"},
		{"same site, not origin", map[string]string{"Origin": "https://shop.example", "Sec-Fetch-Site": "same-site"}, s.CSRF, s, "foreign_form"},
		{"silent", nil, s.CSRF, s, "foreign_form"},
		{"no token", map[string]string{"Origin": "https://shop.example"}, "", s, "stale_form"},
		{"another token", map[string]string{"Origin": "https://shop.example"}, "x", s, "stale_form"},
		{"no session", map[string]string{"Origin": "https://shop.example"}, "", session.Session{}, "stale_form"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/cart", strings.NewReader(url.Values{session.Field: {tc.csrf}}.Encode()))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			for k, v := range tc.headers {
				r.Header.Set(k, v)
			}
			err := k.CheckPost(r, tc.session)
			code := ""
			if p, ok := errors.AsType[*problem.Problem](err); ok {
				code = p.Code
			}
			if code != tc.code {
				t.Errorf("got %v, want %q", err, tc.code)
			}
		})
	}
}

func TestLocalPath(t *testing.T) {
	for next, want := range map[string]string{
		"/orders/1?x=2": "/orders/1?x=2", "/": "/", "": "/else", "//evil.example": "/else", `/\evil.example`: "/else",
		"https://evil.example/": "/else", "/\t/evil.example": "/else", "/a\nb": "/else", "javascript:alert(1)": "/else", "orders": "/else",
		"/" + strings.Repeat("x", 2000): "/else",
	} {
		if got := session.LocalPath(next, "/else"); got != want {
			t.Errorf("LocalPath(%q) = %q, want %q", next, got, want)
		}
	}
}

func FuzzLocalPath(f *testing.F) {
	for _, s := range []string{"/a", "//b", "/\\c", "/d?e=//f", "https:/g", "/%2f/h"} {
		f.Add(s)
	}
	base, _ := url.Parse("https://shop.example/here")
	f.Fuzz(func(t *testing.T, next string) {
		to, err := base.Parse(session.LocalPath(next, "/"))
		if err != nil || to.Host != "shop.example" || to.Scheme != "https" {
			t.Fatalf("%q leads to %v (%v)", next, to, err)
		}
	})
}

func TestKeeperNamesTheFault(t *testing.T) {
	for want, cfg := range map[string]session.Config{
		"32 random": {Purpose: "x", Key: key[:31], URL: "http://localhost:8080"},
		"URL":       {Purpose: "x", Key: key, URL: "localhost"},
		"Purpose":   {Key: key, URL: "http://localhost:8080"},
	} {
		if _, err := session.NewKeeper(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want a word of %q", err, want)
		}
	}
}
