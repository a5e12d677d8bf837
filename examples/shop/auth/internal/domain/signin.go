package domain

import (
	"slices"
	"time"
)

// Scopes that the shop knows beside OpenID Connect's own.
const (
	ScopeShop  = "shop"       // a customer's calls
	ScopeAdmin = "shop:admin" // an operator's calls
)

// How long things last.
const (
	RequestLife = 15 * time.Minute // from authorize to the password
	CodeLife    = time.Minute      // RFC 6749 advises ten minutes at most
	AccessLife  = 15 * time.Minute
	RefreshLife = 30 * 24 * time.Hour
	// RefreshLeeway is how long after its use a refresh token may be used again: a
	// client whose answer was lost, or two of its requests at once. Later, a second
	// use is theft, and ends every token that came of the same sign-in.
	RefreshLeeway = 10 * time.Second
)

// Request is one sign-in, from the authorization endpoint to the tokens.
type Request struct {
	ID              string
	ClientID        string
	RedirectURI     string
	State           string
	Nonce           string
	Scopes          []string
	ResponseType    string
	ResponseMode    string
	Challenge       string // PKCE, S256
	BrowserHash     string // of the cookie of the browser that began it
	UserID          string // empty until the password was right
	AuthenticatedAt time.Time
	CreatedAt       time.Time
	ExpiresAt       time.Time
}

// Done reports whether the user has signed in.
func (r Request) Done() bool { return r.UserID != "" }

// Grant returns what of the wanted scopes an account may have.
func Grant(wanted []string, a Account) []string {
	return slices.DeleteFunc(slices.Clone(wanted), func(s string) bool { return s == ScopeAdmin && !a.Operator })
}

// Refresh is a refresh token. Only a hash of the token itself is kept.
type Refresh struct {
	Hash string
	// Family is the sign-in it descends from.
	Family          string
	UserID          string
	ClientID        string
	Scopes          []string
	AuthenticatedAt time.Time
	IssuedAt        time.Time
	ExpiresAt       time.Time
	UsedAt          time.Time // zero until it was exchanged
}

// Usable reports whether the token may be exchanged now, and whether presenting it
// shows that somebody has stolen it.
func (r Refresh) Usable(now time.Time) (ok, stolen bool) {
	switch {
	case !now.Before(r.ExpiresAt):
		return false, false
	case r.UsedAt.IsZero():
		return true, false
	}
	if now.Sub(r.UsedAt) <= RefreshLeeway {
		return true, false
	}
	return false, true
}
