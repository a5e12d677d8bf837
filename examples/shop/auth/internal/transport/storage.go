package transport

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// Store is what the provider keeps in the database.
type Store interface {
	domain.Accounts
	CreateSignIn(ctx context.Context, r domain.Request) error
	SignIn(ctx context.Context, id string, now time.Time) (domain.Request, error)
	CompleteSignIn(ctx context.Context, id, userID string, scopes []string, now time.Time) error
	SetCode(ctx context.Context, id, codeHash string, now time.Time) error
	ConsumeCode(ctx context.Context, codeHash string, now time.Time) (domain.Request, error)
	CreateRefresh(ctx context.Context, r domain.Refresh) error
	Refresh(ctx context.Context, hash string, now time.Time) (domain.Refresh, error)
	Rotate(ctx context.Context, oldHash string, next domain.Refresh, now time.Time) error
	RefreshOwner(ctx context.Context, hash string) (userID string, err error)
	EndFamily(ctx context.Context, hash, clientID string) (bool, error)
	EndSessions(ctx context.Context, userID, clientID string) error
}

// storage implements the library's op.Storage over the service's own store.
type storage struct {
	store    Store
	keys     *Keyring
	clients  map[string]*Client
	audience string
	now      func() time.Time
}

var (
	_ op.Storage                        = (*storage)(nil)
	_ op.ClientCredentialsStorage       = (*storage)(nil)
	_ op.CanSetUserinfoFromRequest      = (*storage)(nil)
	_ op.CanGetPrivateClaimsFromRequest = (*storage)(nil)
)

// hash is how secrets of high entropy (codes, tokens, cookies) are kept.
func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// CreateAuthRequest keeps a sign-in that the library has checked. Public clients
// must use PKCE with S256, and the browser must carry the cookie that ties the
// sign-in to it.
func (s *storage) CreateAuthRequest(ctx context.Context, req *oidc.AuthRequest, _ string) (op.AuthRequest, error) {
	if slices.Contains(req.Prompt, oidc.PromptNone) {
		return nil, oidc.ErrLoginRequired() // there is no session to go on silently with
	}
	if req.CodeChallenge == "" || req.CodeChallengeMethod != oidc.CodeChallengeMethodS256 {
		return nil, oidc.ErrInvalidRequest().WithDescription("PKCE is required: send code_challenge and code_challenge_method=S256")
	}
	if len(req.State) > 1024 || len(req.Nonce) > 1024 || len(req.CodeChallenge) > 128 {
		return nil, oidc.ErrInvalidRequest().WithDescription("state, nonce or code_challenge is too long")
	}
	browser, ok := browserFrom(ctx)
	if !ok {
		return nil, oidc.ErrServerError().WithDescription("the sign-in has no browser")
	}
	now := s.now()
	r := domain.Request{
		ID: domain.Random(16), ClientID: req.ClientID, RedirectURI: req.RedirectURI, State: req.State, Nonce: req.Nonce,
		Scopes: req.Scopes, ResponseType: string(req.ResponseType), ResponseMode: string(req.ResponseMode),
		Challenge: req.CodeChallenge, BrowserHash: hash(browser), CreatedAt: now, ExpiresAt: now.Add(domain.RequestLife),
	}
	if err := s.store.CreateSignIn(ctx, r); err != nil {
		return nil, noteFault(ctx, err)
	}
	return s.authRequest(r), nil
}

func (s *storage) authRequest(r domain.Request) *authRequest {
	return &authRequest{Request: r, audience: audience{api: s.audience}}
}

// AuthRequestByID is asked when the browser comes back from the sign-in page. Only
// the browser that began the sign-in may collect its code: otherwise one who had
// another person sign in by a link could.
func (s *storage) AuthRequestByID(ctx context.Context, id string) (op.AuthRequest, error) {
	r, err := s.store.SignIn(ctx, id, s.now())
	if err != nil {
		return nil, noteFault(ctx, err)
	}
	browser, _ := browserFrom(ctx)
	if r.BrowserHash != hash(browser) {
		return nil, domain.ErrNotFound
	}
	return s.authRequest(r), nil
}

// AuthRequestByCode uses a code up.
func (s *storage) AuthRequestByCode(ctx context.Context, code string) (op.AuthRequest, error) {
	r, err := s.store.ConsumeCode(ctx, hash(code), s.now())
	if err != nil {
		return nil, noteFault(ctx, err)
	}
	return s.authRequest(r), nil
}

// SaveAuthCode keeps the hash of a code.
func (s *storage) SaveAuthCode(ctx context.Context, id, code string) error {
	return noteFault(ctx, s.store.SetCode(ctx, id, hash(code), s.now()))
}

// DeleteAuthRequest does nothing: the code is used up, and the row that remembers
// it is swept when it expires.
func (s *storage) DeleteAuthRequest(context.Context, string) error { return nil }

// CreateAccessToken returns the id and end of a new access token, of which nothing
// is kept: it is a JWT, and short-lived.
func (s *storage) CreateAccessToken(context.Context, op.TokenRequest) (string, time.Time, error) {
	return domain.Random(16), s.now().Add(domain.AccessLife), nil
}

// CreateAccessAndRefreshTokens makes the first refresh token of a sign-in, or
// exchanges one for its successor.
func (s *storage) CreateAccessAndRefreshTokens(ctx context.Context, req op.TokenRequest, current string) (string, string, time.Time, error) {
	now := s.now()
	token := domain.Random(32)
	next := domain.Refresh{Hash: hash(token), UserID: req.GetSubject(), IssuedAt: now, ExpiresAt: now.Add(domain.RefreshLife)}
	var err error
	switch r := req.(type) {
	case *authRequest:
		next.Family, next.ClientID, next.Scopes, next.AuthenticatedAt = r.ID, r.ClientID, r.Scopes, r.AuthenticatedAt
		err = s.store.CreateRefresh(ctx, next)
	case *refreshRequest:
		// The successor keeps what the sign-in granted, whatever less was asked for now.
		next.Family, next.ClientID, next.Scopes, next.AuthenticatedAt = r.Family, r.ClientID, r.Refresh.Scopes, r.AuthenticatedAt
		err = s.store.Rotate(ctx, hash(current), next, now)
		if errors.Is(err, domain.ErrNotFound) {
			err = oidc.ErrInvalidGrant().WithParent(err)
		}
	default:
		err = oidc.ErrUnsupportedGrantType()
	}
	if err != nil {
		return "", "", time.Time{}, noteFault(ctx, err)
	}
	return domain.Random(16), token, now.Add(domain.AccessLife), nil
}

// TokenRequestByRefreshToken returns what a refresh token stands for, with the
// scopes that its account may have today.
func (s *storage) TokenRequestByRefreshToken(ctx context.Context, token string) (op.RefreshTokenRequest, error) {
	r, err := s.store.Refresh(ctx, hash(token), s.now())
	if err != nil {
		return nil, noteFault(ctx, err)
	}
	a, err := s.store.Account(ctx, r.UserID)
	if err != nil {
		return nil, noteFault(ctx, err)
	}
	return &refreshRequest{Refresh: r, audience: audience{api: s.audience}, scopes: domain.Grant(r.Scopes, a)}, nil
}

// TerminateSession ends a user's refresh tokens with a client.
func (s *storage) TerminateSession(ctx context.Context, userID, clientID string) error {
	return noteFault(ctx, s.store.EndSessions(ctx, userID, clientID))
}

// GetRefreshTokenInfo tells a refresh token from other strings.
func (s *storage) GetRefreshTokenInfo(ctx context.Context, _ string, token string) (userID, tokenID string, err error) {
	userID, err = s.store.RefreshOwner(ctx, hash(token))
	if errors.Is(err, domain.ErrNotFound) {
		return "", "", op.ErrInvalidRefreshToken
	}
	return userID, hash(token), noteFault(ctx, err)
}

// RevokeToken ends a refresh token and all that came of the same sign-in. Access
// tokens end by themselves within minutes; unknown tokens are ended already.
func (s *storage) RevokeToken(ctx context.Context, tokenID, _, clientID string) *oidc.Error {
	if _, err := s.store.EndFamily(ctx, tokenID, clientID); err != nil {
		return oidc.ErrServerError().WithParent(noteFault(ctx, err))
	}
	return nil
}

// SigningKey returns the key that signs now.
func (s *storage) SigningKey(ctx context.Context) (op.SigningKey, error) {
	k, err := s.keys.signing(ctx)
	return k, noteFault(ctx, err)
}

// SignatureAlgorithms is ES256 alone.
func (s *storage) SignatureAlgorithms(context.Context) ([]jose.SignatureAlgorithm, error) {
	return []jose.SignatureAlgorithm{jose.ES256}, nil
}

// KeySet returns the keys to verify with.
func (s *storage) KeySet(ctx context.Context) ([]op.Key, error) {
	keys, err := s.keys.published(ctx)
	return keys, noteFault(ctx, err)
}

// GetClientByClientID returns a registered client. For any other the error is OAuth's own: where the
// library does not translate errors of the storage, it would call ours a fault of the server.
func (s *storage) GetClientByClientID(_ context.Context, id string) (op.Client, error) {
	if c, ok := s.clients[id]; ok {
		return c, nil
	}
	return nil, oidc.ErrInvalidClient().WithParent(domain.ErrNotFound)
}

// AuthorizeClientIDSecret checks a client's secret.
func (s *storage) AuthorizeClientIDSecret(_ context.Context, id, secret string) error {
	if c, ok := s.clients[id]; ok && c.secretIs(secret) {
		return nil
	}
	return oidc.ErrInvalidClient()
}

// ClientCredentials checks a service's secret.
func (s *storage) ClientCredentials(_ context.Context, id, secret string) (op.Client, error) {
	if c, ok := s.clients[id]; ok && c.secretIs(secret) {
		return c, nil
	}
	return nil, domain.ErrCredentials
}

// ClientCredentialsTokenRequest grants a service those scopes that it is registered
// for, all of them where it asks for none.
func (s *storage) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	c, ok := s.clients[id]
	if !ok {
		return nil, oidc.ErrInvalidClient()
	}
	granted := slices.Clone(c.Scopes)
	if len(scopes) > 0 {
		granted = slices.DeleteFunc(granted, func(have string) bool { return !slices.Contains(scopes, have) })
	}
	return &serviceRequest{clientID: id, scopes: granted, audience: audience{api: s.audience}}, nil
}

// GetPrivateClaimsFromRequest adds the scopes to the access token (RFC 9068).
func (s *storage) GetPrivateClaimsFromRequest(_ context.Context, req op.TokenRequest, _ []string) (map[string]any, error) {
	if r, ok := req.(interface{ accessTokenMade() }); ok {
		r.accessTokenMade()
	}
	return map[string]any{"scope": strings.Join(req.GetScopes(), " ")}, nil
}

// SetUserinfoFromRequest fills the ID token in.
func (s *storage) SetUserinfoFromRequest(ctx context.Context, info *oidc.UserInfo, req op.IDTokenRequest, scopes []string) error {
	return s.userinfo(ctx, info, req.GetSubject(), scopes)
}

func (s *storage) userinfo(ctx context.Context, info *oidc.UserInfo, subject string, scopes []string) error {
	a, err := s.store.Account(ctx, subject)
	if err != nil {
		return noteFault(ctx, err)
	}
	info.Subject = a.ID
	for _, scope := range scopes {
		switch scope {
		case oidc.ScopeProfile:
			info.Name = a.Name
		case oidc.ScopeEmail:
			info.Email = a.Email
		}
	}
	return nil
}

// Health is part of op.Storage; the chassis watches the database itself.
func (s *storage) Health(context.Context) error { return nil }

// The rest of op.Storage is for grants and endpoints that are not served.

func (s *storage) SetUserinfoFromScopes(context.Context, *oidc.UserInfo, string, string, []string) error {
	return nil // SetUserinfoFromRequest does it
}

func (s *storage) SetUserinfoFromToken(context.Context, *oidc.UserInfo, string, string, string) error {
	return oidc.ErrAccessDenied() // the service's own endpoint answers, which knows the token's scopes
}

func (s *storage) SetIntrospectionFromToken(context.Context, *oidc.IntrospectionResponse, string, string, string) error {
	return oidc.ErrAccessDenied()
}

func (s *storage) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return nil, nil // GetPrivateClaimsFromRequest does it
}

func (s *storage) GetKeyByIDAndClientID(context.Context, string, string) (*jose.JSONWebKey, error) {
	return nil, domain.ErrNotFound // no client authenticates with a key
}

func (s *storage) ValidateJWTProfileScopes(context.Context, string, []string) ([]string, error) {
	return nil, oidc.ErrUnsupportedGrantType()
}
