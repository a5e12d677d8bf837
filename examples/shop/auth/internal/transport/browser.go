package transport

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// A cookie ties a sign-in to the browser that began it. It is a secret of that
// browser's, for two uses: only this browser sees the sign-in's form and collects
// its code, and the form's CSRF token is made of it.

const cookieLength = 52 // of domain.Random(32)

type browserKey struct{}

func browserFrom(ctx context.Context) (string, bool) {
	b, ok := ctx.Value(browserKey{}).(string)
	return b, ok && b != ""
}

// browsers puts the browser's secret into the context, and gives it one where the
// request may begin a sign-in.
func browsers(secure, begin bool, next http.Handler) http.Handler {
	name := "signin"
	if secure {
		name = "__Host-signin" // only from this host, over TLS
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		secret := ""
		if c, err := r.Cookie(name); err == nil && len(c.Value) == cookieLength {
			secret = c.Value
		}
		if secret == "" && begin {
			secret = domain.Random(32)
			http.SetCookie(w, &http.Cookie{
				Name: name, Value: secret, Path: "/", HttpOnly: true, Secure: secure, SameSite: http.SameSiteLaxMode,
			})
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), browserKey{}, secret)))
	})
}

// csrfToken is for the form of one sign-in in one browser.
func csrfToken(browser, id string) string {
	mac := hmac.New(sha256.New, []byte(browser))
	mac.Write([]byte("csrf:" + id))
	return hex.EncodeToString(mac.Sum(nil))
}

func csrfValid(browser, id, token string) bool {
	return browser != "" && hmac.Equal([]byte(csrfToken(browser, id)), []byte(token))
}

// clientAddress is who sent the request, as the gateway saw it: the last address
// of X-Forwarded-For, since all before it came from outside.
func clientAddress(r *http.Request) string {
	all := strings.Join(r.Header.Values("X-Forwarded-For"), ",")
	last := strings.TrimSpace(all[strings.LastIndexByte(all, ',')+1:])
	if last == "" {
		return r.RemoteAddr
	}
	return last
}
