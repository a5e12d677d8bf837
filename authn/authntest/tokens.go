package authntest

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/napkin-kit/napkin/authn"
)

// TokenIssuer signs access tokens and publishes its keys. It is an
// http.Handler that serves its key set at any path, and an http.RoundTripper
// that does so without a network, which also works inside testing/synctest.
// It is safe for concurrent use.
type TokenIssuer struct {
	issuer, audience string

	mu      sync.Mutex
	keys    []*ecdsa.PrivateKey // the last one signs
	ids     []string
	named   int
	fetches int
	down    bool
}

// JWKSURL is where a [TokenIssuer] used as a RoundTripper is asked for keys.
const JWKSURL = "https://issuer.test/jwks"

// NewTokenIssuer returns an issuer with one ES256 key.
func NewTokenIssuer(t testing.TB, issuer, audience string) *TokenIssuer {
	t.Helper()
	i := &TokenIssuer{issuer: issuer, audience: audience}
	i.AddKey(t)
	return i
}

// AddKey publishes a further key, with which tokens are signed from now on.
func (i *TokenIssuer) AddKey(t testing.TB) {
	t.Helper()
	key := newKey(t)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.named++
	i.keys = append(i.keys, key)
	i.ids = append(i.ids, fmt.Sprintf("key-%d", i.named))
}

// DropOldKeys withdraws all keys but the one that signs.
func (i *TokenIssuer) DropOldKeys() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys, i.ids = i.keys[len(i.keys)-1:], i.ids[len(i.ids)-1:]
}

// SetDown makes the issuer answer 503 to requests for keys, or stop doing so.
func (i *TokenIssuer) SetDown(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// Fetches returns how often the keys were asked for.
func (i *TokenIssuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// Verifier returns a Verifier of the issuer's tokens that fetches the keys
// from i without a network. It is closed when the test ends.
func (i *TokenIssuer) Verifier(t testing.TB) *authn.Verifier {
	t.Helper()
	v, err := authn.NewVerifier(i.VerifierConfig())
	must(t, err)
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// VerifierConfig returns the configuration that [TokenIssuer.Verifier] uses,
// to be adjusted.
func (i *TokenIssuer) VerifierConfig() authn.VerifierConfig {
	return authn.VerifierConfig{
		Issuer: i.issuer, Audience: i.audience,
		JWKSURL: JWKSURL, Client: &http.Client{Transport: i},
	}
}

// Token returns a token for subject with scopes, valid for five minutes.
func (i *TokenIssuer) Token(t testing.TB, subject string, scopes ...string) string {
	t.Helper()
	return i.Mint(t, map[string]any{"sub": subject, "scp": append([]string{}, scopes...)})
}

// Mint returns a token with the claims of [TokenIssuer.Token] and over them the
// given ones; a nil value removes a claim.
func (i *TokenIssuer) Mint(t testing.TB, claims map[string]any) string {
	t.Helper()
	now := time.Now()
	all := map[string]any{
		"iss": i.issuer, "aud": i.audience, "sub": "someone",
		"iat": now.Unix(), "exp": now.Add(5 * time.Minute).Unix(),
	}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })

	i.mu.Lock()
	key, kid := i.keys[len(i.keys)-1], i.ids[len(i.ids)-1]
	i.mu.Unlock()
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: kid}},
		(&jose.SignerOptions{}).WithType("at+jwt"),
	)
	must(t, err)
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	must(t, err)
	return token
}

// keySet returns the published document, or false while down.
func (i *TokenIssuer) keySet() ([]byte, bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetches++
	if i.down {
		return nil, false
	}
	var set jose.JSONWebKeySet
	for n, key := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: i.ids[n], Algorithm: "ES256", Use: "sig"})
	}
	doc, err := json.Marshal(set)
	return doc, err == nil
}

// ServeHTTP serves the key set.
func (i *TokenIssuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	doc, ok := i.keySet()
	if !ok {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	_, _ = w.Write(doc)
}

// RoundTrip answers any request with the key set, without a network.
func (i *TokenIssuer) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	code := http.StatusOK
	doc, ok := i.keySet()
	if !ok {
		code = http.StatusServiceUnavailable
	}
	return &http.Response{
		StatusCode: code, Status: fmt.Sprintf("%d %s", code, http.StatusText(code)),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/jwk-set+json"}},
		Body:   io.NopCloser(bytes.NewReader(doc)), Request: r,
	}, nil
}
