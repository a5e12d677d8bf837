package authn_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/authn/authntest"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// serve is a client that gets the same answer to everything.
func serve(code int, body string) *http.Client {
	return &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: code, Status: fmt.Sprint(code), Request: r,
			Header: http.Header{"Location": {"https://evil.test/jwks"}},
			Body:   io.NopCloser(strings.NewReader(body)),
		}, nil
	})}
}

func TestANewKeyIsFetchedWhenATokenNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		v := i.Verifier(t)
		verify := func(raw string, want error) {
			t.Helper()
			if _, err := v.Verify(t.Context(), raw); !errors.Is(err, want) || want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, want)
			}
		}
		old := i.Token(t, "u1")
		verify(old, nil)
		time.Sleep(11 * time.Second)

		i.AddKey(t)
		verify(i.Token(t, "u1"), nil)
		verify(old, nil) // its key is still published
		if n := i.Fetches(); n != 2 {
			t.Fatalf("%d fetches, want 2", n)
		}
	})
}

func TestAWithdrawnKeyCeasesToCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		v := i.Verifier(t)
		cached := i.Mint(t, map[string]any{"exp": time.Now().Add(time.Hour).Unix()})
		if _, err := v.Verify(t.Context(), cached); err != nil {
			t.Fatal(err)
		}
		i.AddKey(t)
		i.DropOldKeys() // the issuer's key was stolen
		time.Sleep(5*time.Minute + time.Second)
		_, _ = v.Verify(t.Context(), cached) // starts the refresh, is not kept waiting by it
		synctest.Wait()
		if _, err := v.Verify(t.Context(), cached); !errors.Is(err, authn.ErrTokenInvalid) {
			t.Errorf("a token of a withdrawn key: %v", err)
		}
	})
}

func TestUnknownKeysCannotMakeTheIssuerBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		v := i.Verifier(t)
		k := newKeyPair(t)
		var wg sync.WaitGroup
		for n := range 100 {
			wg.Go(func() {
				raw := forge(with(goodHeader(), "kid", fmt.Sprintf("guess-%d", n)), goodClaims(), k.sign)
				if _, err := v.Verify(t.Context(), raw); !errors.Is(err, authn.ErrTokenInvalid) {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		if n := i.Fetches(); n != 1 {
			t.Errorf("100 unknown keys at once made %d fetches, want 1", n)
		}
		for range 60 { // a minute of them
			time.Sleep(time.Second)
			raw := forge(with(goodHeader(), "kid", "guess"), goodClaims(), k.sign)
			_, _ = v.Verify(t.Context(), raw)
		}
		if n := i.Fetches(); n > 7 {
			t.Errorf("a minute of unknown keys made %d fetches, want at most one in 10 s", n)
		}
	})
}

func TestTheIssuerMayBeDownForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		i.SetDown(true)
		v := i.Verifier(t)
		long := i.Mint(t, map[string]any{"exp": time.Now().Add(24 * time.Hour).Unix()})
		verify := func(want error) {
			t.Helper()
			_, err := v.Verify(t.Context(), long)
			if !errors.Is(err, want) || want == nil && err != nil {
				t.Fatalf("got %v, want %v", err, want)
			}
		}
		verify(authn.ErrUnavailable) // nobody can say: not the caller's fault
		if err := v.Warm(t.Context()); !errors.Is(err, authn.ErrUnavailable) {
			t.Fatalf("Warm: %v", err)
		}
		i.SetDown(false)
		time.Sleep(time.Second)
		if err := v.Warm(t.Context()); err != nil {
			t.Fatalf("Warm after a second: %v", err)
		}
		verify(nil)

		i.SetDown(true)
		for range 50 { // fifty minutes on the keys at hand
			time.Sleep(time.Minute)
			verify(nil)
			synctest.Wait()
		}
		time.Sleep(20 * time.Minute)
		verify(authn.ErrUnavailable) // an hour without news is too long
		i.SetDown(false)
		time.Sleep(11 * time.Second)
		verify(nil)
	})
}

func TestACallerDoesNotWaitLongerThanItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		cfg := i.VerifierConfig()
		cfg.Client = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			select {
			case <-time.After(3 * time.Second):
				return i.RoundTrip(r)
			case <-r.Context().Done():
				return nil, r.Context().Err()
			}
		})}
		v, err := authn.NewVerifier(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		raw := i.Token(t, "u1")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := v.Verify(ctx, raw); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the impatient caller: %v", err)
		}
		// The fetch that it started goes on for the next one.
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Errorf("the patient caller: %v", err)
		}
		if n := i.Fetches(); n != 1 {
			t.Errorf("%d fetches, want 1", n)
		}
	})
}

func TestCloseEndsAFetch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := authntest.NewTokenIssuer(t, issuer, audience)
		cfg := i.VerifierConfig()
		cfg.Client = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		v, err := authn.NewVerifier(cfg)
		if err != nil {
			t.Fatal(err)
		}
		raw := i.Token(t, "u1")
		failed := make(chan error)
		go func() {
			_, err := v.Verify(context.Background(), raw)
			failed <- err
		}()
		synctest.Wait()
		before := time.Now()
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(before); waited != 0 {
			t.Errorf("Close waited %v for a fetch that it should have ended", waited)
		}
		for range 2 {
			if err := <-failed; !errors.Is(err, authn.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			go func() {
				_, err := v.Verify(context.Background(), raw)
				failed <- err
			}()
		}
		<-failed
	})
}

func TestKeySetsThatAreNotUsed(t *testing.T) {
	k := newKeyPair(t)
	raw := forge(goodHeader(), goodClaims(), k.sign)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	doc := func(keys ...any) string {
		b, err := json.Marshal(map[string]any{"keys": keys})
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	encryption := k.jwk("k1")
	encryption.Use = "enc"
	otherAlg := k.jwk("k1")
	otherAlg.Algorithm = "ES384"
	nameless := k.jwk("")
	good := doc(k.jwk("k1"))

	elsewhere := &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.URL.Host == "evil.test" {
			return serve(200, good).Transport.RoundTrip(r)
		}
		return serve(302, "").Transport.RoundTrip(r)
	})}

	for name, c := range map[string]struct {
		client *http.Client
		want   error
	}{
		"an error page":          {serve(500, good), authn.ErrUnavailable},
		"a redirect":             {elsewhere, authn.ErrUnavailable},
		"no JSON":                {serve(200, "<html>"), authn.ErrUnavailable},
		"no keys":                {serve(200, `{"keys":[]}`), authn.ErrUnavailable},
		"another document":       {serve(200, `{"issuer":"x"}`), authn.ErrUnavailable},
		"too large":              {serve(200, good+strings.Repeat(" ", 1<<20)), authn.ErrUnavailable},
		"a key for encryption":   {serve(200, doc(encryption)), authn.ErrUnavailable},
		"a key without a name":   {serve(200, doc(nameless)), authn.ErrUnavailable},
		"a symmetric key":        {serve(200, `{"keys":[{"kty":"oct","kid":"k1","k":"c2VjcmV0"}]}`), authn.ErrUnavailable},
		"a private key":          {serve(200, doc(jose.JSONWebKey{Key: k.key, KeyID: "k1"})), authn.ErrUnavailable},
		"a weak RSA key":         {serve(200, doc(jose.JSONWebKey{Key: weak.Public(), KeyID: "k1"})), authn.ErrUnavailable},
		"a key for another alg":  {serve(200, doc(otherAlg)), authn.ErrTokenInvalid},
		"a good key among these": {serve(200, doc(object{"kty": "XYZ", "kid": "k1"}, encryption, nameless, k.jwk("k1"))), nil},
	} {
		v := verifierOf(t, func(cfg *authn.VerifierConfig) { cfg.Client = c.client })
		if _, err := v.Verify(t.Context(), raw); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func TestEveryListedAlgorithmVerifies(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256} {
		var key any = rsaKey
		public := jose.JSONWebKey{Key: rsaKey.Public(), KeyID: "k1"}
		if alg == jose.ES256 {
			k := newKeyPair(t)
			key, public = k.key, k.jwk("k1")
		}
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "k1"}}, (&jose.SignerOptions{}).WithType("JWT"))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := jwt.Signed(signer).Claims(goodClaims()).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		v := verifierOf(t, func(c *authn.VerifierConfig) { c.Algorithms = []string{string(alg)} }, public)
		if _, err := v.Verify(t.Context(), raw); err != nil {
			t.Errorf("%s: %v", alg, err)
		}
		byDefault := verifierOf(t, nil, public)
		if _, err := byDefault.Verify(t.Context(), raw); (err == nil) != (alg != jose.PS256) {
			t.Errorf("%s by default: %v", alg, err)
		}
	}
}

func FuzzKeySet(f *testing.F) {
	k := newKeyPair(f)
	doc, err := json.Marshal(map[string]any{"keys": []any{k.jwk("k1")}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(doc))
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k1","x":"","y":""}]}`)
	f.Add(`{"keys":[{"kty":"RSA","kid":"k1","n":"AQAB","e":"AQAB"}]}`)
	f.Add(`{"keys":null}`)
	raw := forge(goodHeader(), goodClaims(), newKeyPair(f).sign)
	f.Fuzz(func(t *testing.T, doc string) {
		v := verifierOfDoc(t, nil, doc)
		if _, err := v.Verify(t.Context(), raw); err == nil {
			t.Error("a token of another key was accepted")
		}
	})
}
