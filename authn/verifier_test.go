package authn_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
)

const (
	issuer   = "https://auth.shop.test"
	audience = "shop"
)

func TestVerifyReturnsWhatTheTokenSays(t *testing.T) {
	i := authntest.NewTokenIssuer(t, issuer, audience)
	v := i.Verifier(t)
	raw := i.Mint(t, map[string]any{
		"sub": "u1", "scope": "orders:write cart", "scp": []string{"cart", "admin"},
		"email": "demo@shop.test", "email_verified": true, "azp": "web", "aud": []string{"other", audience},
	})
	for _, pass := range []string{"first", "cached", "cached again"} {
		p, err := v.Verify(t.Context(), raw)
		if err != nil {
			t.Fatalf("%s: %v", pass, err)
		}
		if p.Subject != "u1" || p.Issuer != issuer || p.ClientID != "web" || p.Email != "demo@shop.test" || !p.EmailVerified {
			t.Errorf("%s: %#v", pass, p)
		}
		if want := []string{"admin", "cart", "orders:write"}; !slices.Equal(p.Scopes, want) {
			t.Errorf("%s: scopes %v, want %v", pass, p.Scopes, want)
		}
		if p.BearerToken() != raw {
			t.Errorf("%s: the raw token is lost", pass)
		}
		if left := time.Until(p.Expires); left < 4*time.Minute || left > 5*time.Minute {
			t.Errorf("%s: expires in %v", pass, left)
		}
		p.Scopes[0] = "root" // must not reach the next caller
	}
	if n := i.Fetches(); n != 1 {
		t.Errorf("%d fetches of the keys, want 1", n)
	}
}

// forge makes a token of any header and claims, signed by sign over the first
// two parts.
func forge(header, claims any, sign func(signingInput []byte) []byte) string {
	part := func(v any) string {
		doc, ok := v.(string)
		if !ok {
			b, err := json.Marshal(v)
			if err != nil {
				panic(err)
			}
			doc = string(b)
		}
		return base64.RawURLEncoding.EncodeToString([]byte(doc))
	}
	input := part(header) + "." + part(claims)
	return input + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(input)))
}

// keyPair is an ES256 key whose tokens and key set the tests build by hand.
type keyPair struct{ key *ecdsa.PrivateKey }

func newKeyPair(t testing.TB) keyPair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return keyPair{key}
}

func (k keyPair) sign(input []byte) []byte {
	digest := sha256.Sum256(input)
	r, s, err := ecdsa.Sign(rand.Reader, k.key, digest[:])
	if err != nil {
		panic(err)
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return sig
}

func (k keyPair) jwk(kid string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: k.key.Public(), KeyID: kid, Use: "sig"}
}

func verifierOf(t testing.TB, change func(*authn.VerifierConfig), keys ...any) *authn.Verifier {
	t.Helper()
	doc, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	return verifierOfDoc(t, change, string(doc))
}

func verifierOfDoc(t testing.TB, change func(*authn.VerifierConfig), doc string) *authn.Verifier {
	t.Helper()
	cfg := authn.VerifierConfig{Issuer: issuer, Audience: audience, JWKSURL: authntest.JWKSURL, Client: serve(200, doc)}
	if change != nil {
		change(&cfg)
	}
	v, err := authn.NewVerifier(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v
}

type object = map[string]any

func goodHeader() object { return object{"alg": "ES256", "typ": "at+jwt", "kid": "k1"} }

func goodClaims() object {
	now := time.Now()
	return object{"iss": issuer, "aud": audience, "sub": "u1", "iat": now.Unix(), "exp": now.Add(time.Minute).Unix()}
}

func with(o object, name string, value any) object {
	o[name] = value
	if value == nil {
		delete(o, name)
	}
	return o
}

func TestVerifyRefuses(t *testing.T) {
	good, other := newKeyPair(t), newKeyPair(t)
	v := verifierOf(t, nil, good.jwk("k1"))
	valid := forge(goodHeader(), goodClaims(), good.sign)
	if _, err := v.Verify(t.Context(), valid); err != nil {
		t.Fatalf("a valid token: %v", err)
	}

	spki, err := x509.MarshalPKIXPublicKey(good.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	publicPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	mac := func(input []byte) []byte {
		h := hmac.New(sha256.New, publicPEM)
		h.Write(input)
		return h.Sum(nil)
	}
	nothing := func([]byte) []byte { return nil }
	now := time.Now()
	claim := func(name string, value any) string {
		return forge(goodHeader(), with(goodClaims(), name, value), good.sign)
	}
	head := func(name string, value any) string {
		return forge(with(goodHeader(), name, value), goodClaims(), good.sign)
	}
	headerText := func(text string) string { return forge(text, goodClaims(), good.sign) }

	for name, c := range map[string]struct {
		token string
		want  error
	}{
		"nothing":                     {"", authn.ErrTokenMissing},
		"no token at all":             {"hello", authn.ErrTokenInvalid},
		"three empty parts":           {"..", authn.ErrTokenInvalid},
		"a JWE":                       {"a.b.c.d.e", authn.ErrTokenInvalid},
		"a line break inside":         {valid[:10] + "\n" + valid[10:], authn.ErrTokenInvalid},
		"padding":                     {valid + "=", authn.ErrTokenInvalid},
		"JSON serialization":          {`{"payload":"","signatures":[]}`, authn.ErrTokenInvalid},
		"longer than the bound":       {claim("padding", strings.Repeat("A", 9000)), authn.ErrTokenInvalid},
		"alg none":                    {forge(with(goodHeader(), "alg", "none"), goodClaims(), nothing), authn.ErrTokenInvalid},
		"alg None":                    {forge(with(goodHeader(), "alg", "None"), goodClaims(), nothing), authn.ErrTokenInvalid},
		"no alg":                      {head("alg", nil), authn.ErrTokenInvalid},
		"alg not a string":            {head("alg", 5), authn.ErrTokenInvalid},
		"HMAC with the public key":    {forge(with(goodHeader(), "alg", "HS256"), goodClaims(), mac), authn.ErrTokenInvalid},
		"an algorithm not allowed":    {head("alg", "ES384"), authn.ErrTokenInvalid},
		"RS256 with an ECDSA key":     {head("alg", "RS256"), authn.ErrTokenInvalid},
		"no signature":                {forge(goodHeader(), goodClaims(), nothing), authn.ErrTokenInvalid},
		"another key's signature":     {forge(goodHeader(), goodClaims(), other.sign), authn.ErrTokenInvalid},
		"a zero signature":            {forge(goodHeader(), goodClaims(), func([]byte) []byte { return make([]byte, 64) }), authn.ErrTokenInvalid},
		"the claims of another token": {splice(valid, claim("sub", "admin")), authn.ErrTokenInvalid},
		"an unknown key":              {head("kid", "k2"), authn.ErrTokenInvalid},
		"no key id":                   {head("kid", nil), authn.ErrTokenInvalid},
		"a huge key id":               {head("kid", strings.Repeat("k", 300)), authn.ErrTokenInvalid},
		"its own key (jwk)":           {forge(with(goodHeader(), "jwk", other.jwk("k1")), goodClaims(), other.sign), authn.ErrTokenInvalid},
		"a key URL (jku)":             {head("jku", "https://evil.test/jwks"), authn.ErrTokenInvalid},
		"a certificate URL (x5u)":     {head("x5u", "https://evil.test/cert"), authn.ErrTokenInvalid},
		"a certificate (x5c)":         {head("x5c", []string{"AAAA"}), authn.ErrTokenInvalid},
		"a critical extension":        {head("crit", []string{"b64"}), authn.ErrTokenInvalid},
		"an unencoded payload":        {head("b64", false), authn.ErrTokenInvalid},
		"another type":                {head("typ", "logout+jwt"), authn.ErrTokenInvalid},
		"no type":                     {head("typ", nil), authn.ErrTokenInvalid},
		"alg twice":                   {headerText(`{"alg":"ES256","alg":"none","typ":"JWT","kid":"k1"}`), authn.ErrTokenInvalid},
		"ALG for alg":                 {headerText(`{"ALG":"ES256","typ":"JWT","kid":"k1"}`), authn.ErrTokenInvalid},
		"a header that is no object":  {headerText(`[]`), authn.ErrTokenInvalid},
		"a null header":               {headerText(`null`), authn.ErrTokenInvalid},
		"another issuer":              {claim("iss", "https://evil.test"), authn.ErrTokenInvalid},
		"no issuer":                   {claim("iss", nil), authn.ErrTokenInvalid},
		"another audience":            {claim("aud", "bank"), authn.ErrTokenInvalid},
		"no audience":                 {claim("aud", nil), authn.ErrTokenInvalid},
		"an audience that is a part":  {claim("aud", "shopper"), authn.ErrTokenInvalid},
		"no subject":                  {claim("sub", nil), authn.ErrTokenInvalid},
		"a huge subject":              {claim("sub", strings.Repeat("s", 300)), authn.ErrTokenInvalid},
		"no expiry":                   {claim("exp", nil), authn.ErrTokenInvalid},
		"an expiry in words":          {claim("exp", "tomorrow"), authn.ErrTokenInvalid},
		"an expiry past all time":     {claim("exp", 1e300), authn.ErrTokenInvalid},
		"expired":                     {claim("exp", now.Add(-time.Hour).Unix()), authn.ErrTokenExpired},
		"not valid yet":               {claim("nbf", now.Add(time.Hour).Unix()), authn.ErrTokenInvalid},
		"issued in the future":        {claim("iat", now.Add(time.Hour).Unix()), authn.ErrTokenInvalid},
		"scopes that are a number":    {claim("scope", 5), authn.ErrTokenInvalid},
		"claims that are no object":   {forge(goodHeader(), `"x"`, good.sign), authn.ErrTokenInvalid},
		"sub twice":                   {forge(goodHeader(), twice(goodClaims()), good.sign), authn.ErrTokenInvalid},
		"expired and for another":     {forge(goodHeader(), with(with(goodClaims(), "aud", "bank"), "exp", 1), good.sign), authn.ErrTokenInvalid},
	} {
		p, err := v.Verify(t.Context(), c.token)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if !errors.Is(err, authn.ErrUnauthenticated) {
			t.Errorf("%s: %v is not of the class ErrUnauthenticated", name, err)
		}
		if p.IsUser() || p.BearerToken() != "" {
			t.Errorf("%s: an error, and a principal with it", name)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n") {
			t.Errorf("%s: an error of several lines", name)
		}
	}
}

func splice(header, claims string) string {
	h, c := strings.Split(header, "."), strings.Split(claims, ".")
	return h[0] + "." + c[1] + "." + h[2]
}

func twice(claims object) string {
	doc, err := json.Marshal(claims)
	if err != nil {
		panic(err)
	}
	return strings.Replace(string(doc), "{", `{"sub":"admin",`, 1)
}

func TestVerifyTypesAndLeeway(t *testing.T) {
	k := newKeyPair(t)
	v := verifierOf(t, func(c *authn.VerifierConfig) { c.Leeway = time.Minute }, k.jwk("k1"))
	strict := verifierOf(t, func(c *authn.VerifierConfig) { c.Leeway, c.Types = -1, []string{"AT+JWT", ""} }, k.jwk("k1"))
	now := time.Now()
	justOver := forge(goodHeader(), with(goodClaims(), "exp", now.Add(-30*time.Second).Unix()), k.sign)
	for name, c := range map[string]struct {
		v     *authn.Verifier
		token string
		want  error
	}{
		"typ with its full media type": {v, forge(with(goodHeader(), "typ", "application/at+jwt"), goodClaims(), k.sign), nil},
		"typ in capitals":              {v, forge(with(goodHeader(), "typ", "JWT"), goodClaims(), k.sign), nil},
		"expired within the leeway":    {v, justOver, nil},
		"expired without leeway":       {strict, justOver, authn.ErrTokenExpired},
		"an allowed absent typ":        {strict, forge(with(goodHeader(), "typ", nil), goodClaims(), k.sign), nil},
		"a type taken off the list":    {strict, forge(with(goodHeader(), "typ", "JWT"), goodClaims(), k.sign), authn.ErrTokenInvalid},
	} {
		if _, err := c.v.Verify(t.Context(), c.token); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestACachedTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		v := i.Verifier(t)
		raw := i.Token(t, "u1")
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5*time.Minute + 31*time.Second) // its life and the leeway
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, authn.ErrTokenExpired) {
			t.Errorf("got %v", err)
		}
	})
}

func TestTheTokenCacheIsBounded(t *testing.T) {
	i := authntest.NewTokenIssuer(t, issuer, audience)
	for _, size := range []int{-1, 1, 4} {
		cfg := i.VerifierConfig()
		cfg.CacheSize = size
		v, err := authn.NewVerifier(cfg)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 20 {
			raw := i.Token(t, fmt.Sprintf("u%d", n))
			for range 2 {
				if p, err := v.Verify(t.Context(), raw); err != nil || p.Subject != fmt.Sprintf("u%d", n) {
					t.Errorf("size %d, token %d: %v, %v", size, n, p, err)
				}
			}
		}
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	i := authntest.NewTokenIssuer(b, issuer, audience)
	for name, size := range map[string]int{"cached": 0, "uncached": -1} {
		b.Run(name, func(b *testing.B) {
			cfg := i.VerifierConfig()
			cfg.CacheSize = size
			v, err := authn.NewVerifier(cfg)
			if err != nil {
				b.Fatal(err)
			}
			defer v.Close()
			raw := i.Mint(b, map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(b.Context(), raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestTheTokenIsNeverPrinted(t *testing.T) {
	i := authntest.NewTokenIssuer(t, issuer, audience)
	raw := i.Mint(t, map[string]any{"sub": "u1", "email": "demo@shop.test"})
	p, err := i.Verifier(t).Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	inside := struct{ hidden authn.Principal }{p}
	var out bytes.Buffer
	defer func() {
		if t.Failed() {
			t.Log(out.String())
		}
	}()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, p)
		fmt.Fprintf(&out, verb, &p)
		fmt.Fprintf(&out, verb, []authn.Principal{p})
		fmt.Fprintf(&out, verb, authn.WithPrincipal(context.Background(), p))
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "principal", p, "pointer", &p, "list", []any{p})
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "principal", p, "pointer", &p, "list", []any{p})
	if strings.Contains(out.String(), p.Email) {
		t.Error("the e-mail address was printed")
	}
	// In an unexported field fmt calls no methods: the token holds all the same.
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb, inside)
	}
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "inside", inside)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "inside", inside)
	if err := json.NewEncoder(&out).Encode(p); err != nil {
		t.Fatal(err)
	}
	signature := raw[strings.LastIndexByte(raw, '.')+1:]
	for what, secret := range map[string]string{
		"token": raw, "signature": signature, "hex": fmt.Sprintf("%x", signature), "hex token": fmt.Sprintf("%x", raw),
	} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("the %s was printed", what)
		}
	}
}

func TestNewVerifierNamesTheField(t *testing.T) {
	good := authn.VerifierConfig{Issuer: issuer, Audience: audience, JWKSURL: "https://auth.shop.test/jwks"}
	for field, change := range map[string]func(*authn.VerifierConfig){
		"Issuer":             func(c *authn.VerifierConfig) { c.Issuer = "" },
		"Audience":           func(c *authn.VerifierConfig) { c.Audience = "" },
		"JWKSURL":            func(c *authn.VerifierConfig) { c.JWKSURL = "" },
		"JWKSURL ":           func(c *authn.VerifierConfig) { c.JWKSURL = "http://auth.shop.test/jwks" },
		"JWKSURL  ":          func(c *authn.VerifierConfig) { c.JWKSURL = "file:///etc/passwd" },
		"JWKSURL   ":         func(c *authn.VerifierConfig) { c.JWKSURL = "http://localhost.evil.test/jwks" },
		"Algorithms":         func(c *authn.VerifierConfig) { c.Algorithms = []string{"HS256"} },
		"Algorithms ":        func(c *authn.VerifierConfig) { c.Algorithms = []string{"ES256", "none"} },
		"Leeway":             func(c *authn.VerifierConfig) { c.Leeway = time.Hour },
		"MaxTokenBytes":      func(c *authn.VerifierConfig) { c.MaxTokenBytes = -1 },
		"MaxStale":           func(c *authn.VerifierConfig) { c.MaxStale = time.Second },
		"RefreshInterval":    func(c *authn.VerifierConfig) { c.RefreshInterval = -1 },
		"MinRefetchInterval": func(c *authn.VerifierConfig) { c.MinRefetchInterval = -1 },
	} {
		cfg := good
		change(&cfg)
		field = strings.TrimSpace(field)
		if _, err := authn.NewVerifier(cfg); err == nil || !strings.Contains(err.Error(), "VerifierConfig."+field+" ") {
			t.Errorf("%s: got %v", field, err)
		}
	}
	for _, url := range []string{"http://127.0.0.1:8080/jwks", "http://localhost:8080/jwks", "http://[::1]/jwks", "https://a/jwks"} {
		cfg := good
		cfg.JWKSURL = url
		if v, err := authn.NewVerifier(cfg); err != nil {
			t.Errorf("%s: %v", url, err)
		} else if err := v.Close(); err != nil {
			t.Error(err)
		}
	}
}

// FuzzVerify throws text at the door that anyone can knock on. Whatever is not
// the one valid token must be refused, as unauthenticated.
func FuzzVerify(f *testing.F) {
	k := newKeyPair(f)
	v := verifierOf(f, nil, k.jwk("k1"))
	claims := with(goodClaims(), "exp", time.Now().Add(24*time.Hour).Unix())
	valid := forge(goodHeader(), claims, k.sign)
	f.Add(valid)
	f.Add(valid[:len(valid)-2])
	f.Add(forge(with(goodHeader(), "alg", "none"), claims, func([]byte) []byte { return nil }))
	f.Add(forge(with(goodHeader(), "jwk", k.jwk("k1")), claims, k.sign))
	f.Add(forge(goodHeader(), strings.Repeat("[", 2000), k.sign))
	f.Add("eyJhbGciOiJFUzI1NiJ9..")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		p, err := v.Verify(t.Context(), raw)
		switch {
		case err == nil && raw != valid:
			t.Errorf("accepted %q as %v", raw, p)
		case err != nil && !errors.Is(err, authn.ErrUnauthenticated):
			t.Errorf("%q: %v is not of the class ErrUnauthenticated", raw, err)
		}
	})
}
