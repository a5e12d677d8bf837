package authn_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/napkin-kit/napkin/authn"
)

// exampleIssuer is an authorization server reduced to a key set and a pen.
func exampleIssuer() (jwksURL string, sign func(claims any) string, closeServer func()) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "2026-10"}}})
	}))
	sign = func(claims any) string {
		signer, err := jose.NewSigner(
			jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "2026-10"}},
			(&jose.SignerOptions{}).WithType("at+jwt"),
		)
		if err != nil {
			panic(err)
		}
		raw, err := jwt.Signed(signer).Claims(claims).Serialize()
		if err != nil {
			panic(err)
		}
		return raw
	}
	return srv.URL, sign, srv.Close
}

func ExampleVerifier_Verify() {
	jwksURL, sign, closeServer := exampleIssuer()
	defer closeServer()

	v, err := authn.NewVerifier(authn.VerifierConfig{Issuer: "https://auth.shop.test", Audience: "shop", JWKSURL: jwksURL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()

	claims := map[string]any{
		"iss": "https://auth.shop.test", "aud": "shop", "sub": "u1",
		"scope": "orders:write", "exp": time.Now().Add(time.Minute).Unix(),
	}
	p, err := v.Verify(context.Background(), sign(claims))
	fmt.Println(p, p.HasScopes("orders:write"), err)

	claims["aud"] = "bank"
	_, err = v.Verify(context.Background(), sign(claims))
	fmt.Println(errors.Is(err, authn.ErrTokenInvalid))
	// Output:
	// user "u1" true <nil>
	// true
}

// However a principal is printed, its token stays inside.
func ExamplePrincipal_LogValue() {
	p := authn.Principal{Subject: "u1", Scopes: []string{"orders:write"}}.WithBearerToken("eyJhbGciOi…")
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	log.Info("order placed", "by", p)
	fmt.Printf("%+v\n", p)
	// Output:
	// level=INFO msg="order placed" by.subject=u1 by.scopes=[orders:write]
	// user "u1"
}

func ExampleRequireUser() {
	jwksURL, sign, closeServer := exampleIssuer()
	defer closeServer()
	v, err := authn.NewVerifier(authn.VerifierConfig{Issuer: "https://auth.shop.test", Audience: "shop", JWKSURL: jwksURL})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer v.Close()

	mux := http.NewServeMux()
	mux.Handle("POST /v1/orders", authn.RequireUser(nil, "orders:write")(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, _ := authn.PrincipalFrom(r.Context())
		fmt.Fprintf(w, "an order for %s", p.Subject)
	})))
	handler := authn.Authenticate(v, nil)(mux)

	post := func(auth string) {
		r := httptest.NewRequest(http.MethodPost, "/v1/orders", nil)
		if auth != "" {
			r.Header.Set("Authorization", auth)
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		fmt.Printf("%d %q %q\n", w.Code, w.Header().Get("WWW-Authenticate"), w.Body)
	}
	post("")
	post("Bearer " + sign(map[string]any{
		"iss": "https://auth.shop.test", "aud": "shop", "sub": "u1",
		"scope": "orders:write", "exp": time.Now().Add(time.Minute).Unix(),
	}))
	// Output:
	// 401 "Bearer" "Unauthorized\n"
	// 200 "" "an order for u1"
}
