package transport

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// LoginPath is where people enter their password.
const LoginPath = "/oauth/login"

// Client is a registered OAuth client: an op.Client.
//
// The clients that people sign in with are public, with PKCE: a code is of use
// only to who began the sign-in, so there is no secret to keep in three places.
type Client struct {
	ID           string
	Redirects    []string
	LogoutURIs   []string
	Scopes       []string // beyond OpenID Connect's own
	Loopback     bool     // a program on the user's machine (RFC 8252): any port of 127.0.0.1
	SecretSHA256 [sha256.Size]byte
	Service      bool // signs in as itself, with its secret (client credentials)
}

var _ op.Client = (*Client)(nil)

// The methods below implement op.Client.

// GetID returns the client's name.
func (c *Client) GetID() string { return c.ID }

// RedirectURIs returns where codes may be sent.
func (c *Client) RedirectURIs() []string { return c.Redirects }

// PostLogoutRedirectURIs returns where a browser may be sent after signing out.
func (c *Client) PostLogoutRedirectURIs() []string { return c.LogoutURIs }

// ApplicationType is native for programs on the user's machine, else web.
func (c *Client) ApplicationType() op.ApplicationType {
	if c.Loopback {
		return op.ApplicationTypeNative
	}
	return op.ApplicationTypeWeb
}

// AuthMethod is none (PKCE) for public clients.
func (c *Client) AuthMethod() oidc.AuthMethod {
	if c.Service {
		return oidc.AuthMethodBasic
	}
	return oidc.AuthMethodNone
}

// ResponseTypes is code alone: no token ever stands in a URL.
func (c *Client) ResponseTypes() []oidc.ResponseType {
	if c.Service {
		return nil
	}
	return []oidc.ResponseType{oidc.ResponseTypeCode}
}

// GrantTypes returns what the token endpoint takes from the client.
func (c *Client) GrantTypes() []oidc.GrantType {
	if c.Service {
		return []oidc.GrantType{oidc.GrantTypeClientCredentials}
	}
	return []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken}
}

// LoginURL is where the browser goes to sign in.
func (c *Client) LoginURL(id string) string { return LoginPath + "?id=" + id }

// AccessTokenType is JWT: each service verifies by itself.
func (c *Client) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }

// IDTokenLifetime is that of access tokens.
func (c *Client) IDTokenLifetime() time.Duration { return domain.AccessLife }

// DevMode is off: it would relax the redirect rules.
func (c *Client) DevMode() bool { return false }

// RestrictAdditionalIdTokenScopes restricts nothing.
func (c *Client) RestrictAdditionalIdTokenScopes() func([]string) []string { return slices.Clone }

// RestrictAdditionalAccessTokenScopes restricts nothing.
func (c *Client) RestrictAdditionalAccessTokenScopes() func([]string) []string { return slices.Clone }

// IsScopeAllowed reports whether the client may ask for a scope of the shop's.
func (c *Client) IsScopeAllowed(scope string) bool { return slices.Contains(c.Scopes, scope) }

// IDTokenUserinfoClaimsAssertion puts name and e-mail address into the ID token.
func (c *Client) IDTokenUserinfoClaimsAssertion() bool { return true }

// ClockSkew is none: verifiers have their own leeway.
func (c *Client) ClockSkew() time.Duration { return 0 }

func (c *Client) secretIs(secret string) bool {
	sum := sha256.Sum256([]byte(secret))
	return c.Service && subtle.ConstantTimeCompare(sum[:], c.SecretSHA256[:]) == 1
}
