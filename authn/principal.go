package authn

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Principal is who a call is made by: the workload at the other end of the
// connection and, where the call carries a verified token, the user on whose
// behalf it calls.
//
// The raw token travels along so that a client adapter can forward it, and is
// never printed: fmt, slog and encoding/json show a Principal without it and
// without the e-mail address. (In another struct's unexported field fmt looks
// past all methods; there it shows the e-mail, and still not the token.)
type Principal struct {
	// Subject is the user: the token's "sub". Empty if the call is made by a
	// workload on its own behalf.
	Subject string

	// Issuer is the token's "iss".
	Issuer string

	// ClientID is the OAuth client the token was given to ("client_id", else
	// "azp"). Empty if the token names none.
	ClientID string

	// Scopes are what the user allowed that client to do, sorted.
	Scopes []string

	// Email is the user's address as the token states it, and EmailVerified
	// whether the issuer vouches for it.
	Email         string `json:"-"`
	EmailVerified bool   `json:"-"`

	// Workload is the SPIFFE ID of the caller's end of the connection. Zero
	// where the connection has none, as at a public HTTP edge.
	Workload spiffeid.ID

	// Expires is when the token ceases to be valid. Zero without a token.
	Expires time.Time

	// A pointer, so that printing a struct which holds a Principal in an
	// unexported field (where fmt calls no methods) shows an address.
	token *string
}

// IsUser reports whether a verified user stands behind the call.
func (p Principal) IsUser() bool { return p.Subject != "" }

// HasScopes reports whether p has every one of scopes.
func (p Principal) HasScopes(scopes ...string) bool {
	for _, s := range scopes {
		if !slices.Contains(p.Scopes, s) {
			return false
		}
	}
	return true
}

// BearerToken returns the raw token that p was verified from, to be forwarded
// to another service, or "" if there is none. It must not be logged or stored.
func (p Principal) BearerToken() string {
	if p.token == nil {
		return ""
	}
	return *p.token
}

// WithBearerToken returns p with the given raw token. It does not verify it.
func (p Principal) WithBearerToken(raw string) Principal {
	p.token = nil
	if raw != "" {
		p.token = &raw
	}
	return p
}

// String names the caller without any secret.
func (p Principal) String() string {
	switch {
	case p.IsUser() && !p.Workload.IsZero():
		return fmt.Sprintf("user %q through %s", p.Subject, p.Workload)
	case p.IsUser():
		return fmt.Sprintf("user %q", p.Subject)
	case !p.Workload.IsZero():
		return p.Workload.String()
	}
	return "nobody"
}

// Format implements fmt.Formatter: every verb prints String.
func (p Principal) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(p.String())) }

// LogValue implements slog.LogValuer: subject, client, scopes and workload.
func (p Principal) LogValue() slog.Value {
	attrs := make([]slog.Attr, 0, 4)
	if p.Subject != "" {
		attrs = append(attrs, slog.String("subject", p.Subject))
	}
	if p.ClientID != "" {
		attrs = append(attrs, slog.String("client", p.ClientID))
	}
	if len(p.Scopes) > 0 {
		attrs = append(attrs, slog.Any("scopes", p.Scopes))
	}
	if !p.Workload.IsZero() {
		attrs = append(attrs, slog.String("workload", p.Workload.String()))
	}
	return slog.GroupValue(attrs...)
}

type principalKey struct{}

// WithPrincipal returns a context that carries p. Only whoever has established
// p (an interceptor, a middleware, a test) calls it.
func WithPrincipal(ctx context.Context, p Principal) context.Context {
	// A pointer, for the reason that Principal.token is one.
	return context.WithValue(ctx, principalKey{}, &p)
}

// PrincipalFrom returns the principal of the call that ctx belongs to, and
// whether there is one.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(*Principal)
	if !ok {
		return Principal{}, false
	}
	return *p, true
}
