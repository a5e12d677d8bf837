package transport

import (
	"time"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// audience switches from the access token's to the ID token's. The library takes
// both from the same method, the access token's first; an ID token that carried
// the API's audience could be mistaken for an access token.
type audience struct {
	api      string
	idTokens bool
}

func (a *audience) accessTokenMade() { a.idTokens = true }

func (a *audience) of(clientID string) []string {
	if a.idTokens {
		return []string{clientID}
	}
	return []string{a.api}
}

// authRequest is a sign-in as the library sees it: an op.AuthRequest.
type authRequest struct {
	domain.Request
	audience
}

var _ op.AuthRequest = (*authRequest)(nil)

func (r *authRequest) GetID() string                      { return r.ID }
func (r *authRequest) GetACR() string                     { return "" }
func (r *authRequest) GetAMR() []string                   { return []string{"pwd"} }
func (r *authRequest) GetAudience() []string              { return r.of(r.ClientID) }
func (r *authRequest) GetAuthTime() time.Time             { return r.AuthenticatedAt }
func (r *authRequest) GetClientID() string                { return r.ClientID }
func (r *authRequest) GetNonce() string                   { return r.Nonce }
func (r *authRequest) GetRedirectURI() string             { return r.RedirectURI }
func (r *authRequest) GetResponseType() oidc.ResponseType { return oidc.ResponseType(r.ResponseType) }
func (r *authRequest) GetResponseMode() oidc.ResponseMode { return oidc.ResponseMode(r.ResponseMode) }
func (r *authRequest) GetScopes() []string                { return r.Scopes }
func (r *authRequest) GetState() string                   { return r.State }
func (r *authRequest) GetSubject() string                 { return r.UserID }

func (r *authRequest) GetCodeChallenge() *oidc.CodeChallenge {
	return &oidc.CodeChallenge{Challenge: r.Challenge, Method: oidc.CodeChallengeMethodS256}
}

// refreshRequest is a refresh token as the library sees it: an op.RefreshTokenRequest.
type refreshRequest struct {
	domain.Refresh
	audience
	scopes []string // those asked for now
}

var _ op.RefreshTokenRequest = (*refreshRequest)(nil)

func (r *refreshRequest) GetAMR() []string            { return []string{"pwd"} }
func (r *refreshRequest) GetAudience() []string       { return r.of(r.ClientID) }
func (r *refreshRequest) GetAuthTime() time.Time      { return r.AuthenticatedAt }
func (r *refreshRequest) GetClientID() string         { return r.ClientID }
func (r *refreshRequest) GetScopes() []string         { return r.scopes }
func (r *refreshRequest) GetSubject() string          { return r.UserID }
func (r *refreshRequest) SetCurrentScopes(s []string) { r.scopes = s }

// serviceRequest is a service's own sign-in, with client credentials.
type serviceRequest struct {
	clientID string
	scopes   []string
	audience
}

var _ op.TokenRequest = (*serviceRequest)(nil)

func (r *serviceRequest) GetSubject() string    { return r.clientID }
func (r *serviceRequest) GetAudience() []string { return r.of(r.clientID) }
func (r *serviceRequest) GetScopes() []string   { return r.scopes }
