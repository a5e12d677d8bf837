package authn_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
)

func TestHTTPMiddleware(t *testing.T) {
	tokens := authntest.NewTokenIssuer(t, issuer, audience)
	down := authntest.NewTokenIssuer(t, issuer, audience)
	down.SetDown(true)
	good := "Bearer " + tokens.Token(t, "u1", "shop:admin")
	plain := "Bearer " + tokens.Token(t, "u2")
	whoami := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := authn.PrincipalFrom(r.Context())
		_, _ = w.Write([]byte("hello " + p.Subject))
	})
	for name, c := range map[string]struct {
		auth      []string
		keys      *authntest.TokenIssuer
		open      bool
		code      int
		body      string
		challenge string
	}{
		"an open page, nobody":        {open: true, code: 200, body: "hello "},
		"an open page, a user":        {open: true, auth: []string{plain}, code: 200, body: "hello u2"},
		"an open page, a bad token":   {open: true, auth: []string{"Bearer x"}, code: 401, challenge: `Bearer error="invalid_token"`},
		"a guarded page, nobody":      {code: 401, challenge: "Bearer"},
		"a guarded page, the user":    {auth: []string{good}, code: 200, body: "hello u1"},
		"a guarded page, another":     {auth: []string{plain}, code: 403, challenge: `Bearer error="insufficient_scope"`},
		"two tokens":                  {auth: []string{good, plain}, code: 401, challenge: `Bearer error="invalid_token"`},
		"basic authentication":        {auth: []string{"Basic dTpw"}, code: 401, challenge: `Bearer error="invalid_token"`},
		"a token that cannot be told": {auth: []string{good}, keys: down, code: 503},
	} {
		t.Run(name, func(t *testing.T) {
			keys := tokens
			if c.keys != nil {
				keys = c.keys
			}
			var h http.Handler = whoami
			if !c.open {
				h = authn.RequireUser(nil, "shop:admin")(h)
			}
			h = authn.Authenticate(keys.Verifier(t), nil)(h)
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			for _, v := range c.auth {
				r.Header.Add("Authorization", v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.code || c.body != "" && w.Body.String() != c.body {
				t.Errorf("%d %q, want %d %q", w.Code, w.Body, c.code, c.body)
			}
			if got := w.Header().Get("WWW-Authenticate"); got != c.challenge {
				t.Errorf("WWW-Authenticate %q, want %q", got, c.challenge)
			}
			if c.code != 200 && strings.TrimSpace(w.Body.String()) != http.StatusText(c.code) {
				t.Errorf("the answer tells more than its status: %q", w.Body)
			}
		})
	}
}

func TestHTTPErrorsCanBeAnsweredOtherwise(t *testing.T) {
	var got error
	cfg := &authn.HTTPConfig{OnError: func(w http.ResponseWriter, _ *http.Request, err error) {
		got = err
		w.WriteHeader(authn.HTTPStatus(err))
	}}
	w := httptest.NewRecorder()
	authn.RequireUser(cfg)(http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != 401 || !errors.Is(got, authn.ErrTokenMissing) {
		t.Errorf("%d, %v", w.Code, got)
	}
	if code := authn.HTTPStatus(errors.New("x")); code != 500 {
		t.Errorf("another error: %d", code)
	}
}

// The workload identity of an HTTP client is believed only where the server's
// own handshake has verified it.
func TestHTTPWorkloadIdentity(t *testing.T) {
	ca := authntest.NewCA(t, "shop.test")
	cartID, orderID := ca.ID(t, "cart"), ca.ID(t, "order")
	v := authntest.NewTokenIssuer(t, issuer, audience).Verifier(t)
	seen := make(chan authn.Principal, 1)
	final := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		p, _ := authn.PrincipalFrom(r.Context())
		seen <- p
	})
	serve := func(cfg *authn.HTTPConfig) *httptest.Server {
		srv := httptest.NewUnstartedServer(authn.Authenticate(v, cfg)(final))
		// Not StartTLS, which would show a certificate of its own.
		srv.Listener = tls.NewListener(srv.Listener, authn.ServerTLS(ca.Identity(t, orderID), tlsconfig.AuthorizeID(cartID)))
		srv.Start()
		t.Cleanup(srv.Close)
		return srv
	}
	client := &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: authn.ClientTLS(ca.Identity(t, cartID), tlsconfig.AuthorizeID(orderID))},
	}
	defer client.CloseIdleConnections()
	get := func(srv *httptest.Server) authn.Principal {
		t.Helper()
		resp, err := client.Get("https://" + srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return <-seen
	}
	if p := get(serve(&authn.HTTPConfig{WorkloadIdentity: true})); p.Workload != cartID {
		t.Errorf("saw %v", p)
	}
	if p := get(serve(nil)); !p.Workload.IsZero() {
		t.Errorf("saw %v without being told to", p)
	}

	demanding := authn.Authenticate(v, &authn.HTTPConfig{WorkloadIdentity: true})(final)
	for name, state := range map[string]*tls.ConnectionState{"plain HTTP": nil, "no certificate": {HandshakeComplete: true}} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.TLS = state
		w := httptest.NewRecorder()
		demanding.ServeHTTP(w, r)
		if w.Code != 401 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

func TestParseBearer(t *testing.T) {
	for value, want := range map[string]string{"Bearer abc": "abc", "bearer abc": "abc", "BEARER  abc": "abc"} {
		if got, err := authn.ParseBearer(value); err != nil || got != want {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
	for value, want := range map[string]error{
		"": authn.ErrTokenMissing, "Bearer": authn.ErrTokenInvalid, "Bearer ": authn.ErrTokenInvalid, "abc": authn.ErrTokenInvalid,
		"Bearerabc": authn.ErrTokenInvalid, "Bearer a b": authn.ErrTokenInvalid, "Bearer a,b": authn.ErrTokenInvalid, "Basic abc": authn.ErrTokenInvalid,
	} {
		if _, err := authn.ParseBearer(value); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", value, err, want)
		}
	}
}
