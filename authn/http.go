package authn

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// ParseBearer returns the token of an Authorization header's value: "Bearer "
// and a token (RFC 6750), the scheme without regard to case. It does not
// verify it. Errors: [ErrTokenMissing] for an empty value, [ErrTokenInvalid]
// for another scheme or an empty token.
func ParseBearer(value string) (string, error) {
	if value == "" {
		return "", ErrTokenMissing
	}
	scheme, token, _ := strings.Cut(value, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return "", fmt.Errorf("%w: the authorization scheme is not Bearer", ErrTokenInvalid)
	}
	token = strings.TrimLeft(token, " ")
	if token == "" || strings.ContainsAny(token, " \t\r\n,") {
		return "", fmt.Errorf("%w: the authorization header holds no single token", ErrTokenInvalid)
	}
	return token, nil
}

// HTTPConfig adjusts [Authenticate] and [RequireUser].
type HTTPConfig struct {
	// OnError answers a refused request. The status that fits err is
	// HTTPStatus(err), and WWW-Authenticate is already set where it applies;
	// the answer must not repeat err's text. Defaults to the status and its
	// standard text.
	OnError func(w http.ResponseWriter, r *http.Request, err error)

	// WorkloadIdentity puts the SPIFFE ID of the client's certificate into the
	// principal and refuses a connection without one. Set it only on a server
	// that runs [ServerTLS]: elsewhere nobody has verified the certificate.
	WorkloadIdentity bool
}

// Authenticate returns middleware for an HTTP server at which users call with
// tokens: a request with a valid token goes on with its principal in the
// context, one without a token goes on without, one with a bad token is
// refused. Guard what needs a user with [RequireUser].
func Authenticate(v *Verifier, cfg *HTTPConfig) func(http.Handler) http.Handler {
	refuse := cfg.refuse()
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, err := authenticate(v, r, cfg != nil && cfg.WorkloadIdentity)
			if err != nil {
				refuse(w, r, err)
				return
			}
			if p.IsUser() || !p.Workload.IsZero() {
				r = r.WithContext(WithPrincipal(r.Context(), p))
			}
			next.ServeHTTP(w, r)
		})
	}
}

func authenticate(v *Verifier, r *http.Request, workload bool) (Principal, error) {
	var p Principal
	switch values := r.Header.Values("Authorization"); len(values) {
	case 0:
	case 1:
		raw, err := ParseBearer(values[0])
		if err != nil {
			return Principal{}, err
		}
		if p, err = v.Verify(r.Context(), raw); err != nil {
			return Principal{}, err
		}
	default:
		return Principal{}, fmt.Errorf("%w: more than one Authorization header", ErrTokenInvalid)
	}
	if workload {
		if r.TLS == nil {
			return Principal{}, ErrPeerUnknown
		}
		id, err := PeerID(*r.TLS)
		if err != nil {
			return Principal{}, err
		}
		p.Workload = id
	}
	return p, nil
}

// RequireUser returns middleware, to stand inside [Authenticate], that refuses
// a request without a user who has every one of scopes.
func RequireUser(cfg *HTTPConfig, scopes ...string) func(http.Handler) http.Handler {
	refuse := cfg.refuse()
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p, _ := PrincipalFrom(r.Context())
			switch {
			case !p.IsUser():
				refuse(w, r, ErrTokenMissing)
			case !p.HasScopes(scopes...):
				refuse(w, r, fmt.Errorf("%w: asks for %s", ErrScopeMissing, strings.Join(scopes, " ")))
			default:
				next.ServeHTTP(w, r)
			}
		})
	}
}

// HTTPStatus returns the status that err is to be answered with: 401, 403, 503,
// or 500 if err is none of this package's.
func HTTPStatus(err error) int {
	switch {
	case errors.Is(err, ErrUnavailable):
		return http.StatusServiceUnavailable
	case errors.Is(err, ErrDenied):
		return http.StatusForbidden
	case errors.Is(err, ErrUnauthenticated):
		return http.StatusUnauthorized
	}
	return http.StatusInternalServerError
}

func (c *HTTPConfig) refuse() func(http.ResponseWriter, *http.Request, error) {
	answer := func(w http.ResponseWriter, _ *http.Request, err error) {
		code := HTTPStatus(err)
		http.Error(w, http.StatusText(code), code)
	}
	if c != nil && c.OnError != nil {
		answer = c.OnError
	}
	return func(w http.ResponseWriter, r *http.Request, err error) {
		if challenge := challengeFor(err); challenge != "" {
			w.Header().Set("WWW-Authenticate", challenge)
		}
		answer(w, r, err)
	}
}

// challengeFor follows RFC 6750 section 3: no error code for a request that
// brought no token.
func challengeFor(err error) string {
	switch {
	case errors.Is(err, ErrTokenMissing):
		return "Bearer"
	case errors.Is(err, ErrScopeMissing):
		return `Bearer error="insufficient_scope"`
	case errors.Is(err, ErrUnauthenticated):
		return `Bearer error="invalid_token"`
	}
	return ""
}
