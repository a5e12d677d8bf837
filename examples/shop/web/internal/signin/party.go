// Package signin is the OpenID Connect side of a site: it sends browsers to the shop's sign-in, keeps
// what they come back with, renews it in time, and tells handlers who is there.
package signin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/kit/problem"
)

// authHost is how the auth service is reached: over mTLS, by a client that knows it by this name.
// Browsers go to the public address.
const authHost = "https://auth"

// Config is what a Party is made from. All of it is required.
type Config struct {
	// Issuer is the shop's public address.
	Issuer string
	// ClientID is the site's name at the issuer, and Scopes are what it asks for.
	ClientID string
	Scopes   []string
	// AfterLogout is the path of the page that says goodbye.
	AfterLogout string
	Keeper      *session.Keeper
	Verifier    *authn.Verifier
	// Auth reaches the auth service.
	Auth   *http.Client
	Logger *slog.Logger
}

// Party is a relying party: a site whose visitors sign in at the issuer by authorization code with PKCE.
// It is safe for concurrent use.
type Party struct {
	keeper   *session.Keeper
	verifier *authn.Verifier
	idTokens *oidc.IDTokenVerifier
	oauth    *oauth2.Config
	auth     *http.Client
	log      *slog.Logger
	goodbye  string
	renewals renewals
	now      func() time.Time
}

// New returns a party.
func New(cfg Config) (*Party, error) {
	switch {
	case cfg.Keeper == nil || cfg.Verifier == nil || cfg.Auth == nil || cfg.Logger == nil:
		return nil, errors.New("signin: Keeper, Verifier, Auth and Logger are required")
	case cfg.Issuer == "" || cfg.ClientID == "" || cfg.AfterLogout == "":
		return nil, errors.New("signin: Issuer, ClientID and AfterLogout are required")
	}
	issuer := strings.TrimRight(cfg.Issuer, "/")
	keys := oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), cfg.Auth), authHost+"/oauth/jwks")
	return &Party{
		keeper: cfg.Keeper, verifier: cfg.Verifier, auth: cfg.Auth, log: cfg.Logger, goodbye: cfg.AfterLogout, now: time.Now,
		idTokens: oidc.NewVerifier(issuer, keys, &oidc.Config{ClientID: cfg.ClientID, SupportedSigningAlgs: []string{oidc.ES256, oidc.RS256}}),
		oauth: &oauth2.Config{
			ClientID: cfg.ClientID, RedirectURL: cfg.Keeper.Origin() + "/auth/callback", Scopes: cfg.Scopes,
			Endpoint: oauth2.Endpoint{
				AuthURL: issuer + "/oauth/authorize", TokenURL: authHost + "/oauth/token", AuthStyle: oauth2.AuthStyleInParams,
			},
		},
	}, nil
}

// Login sends the browser to the sign-in page, and afterwards to the path that the query's "next" names.
func (p *Party) Login(w http.ResponseWriter, r *http.Request) error {
	if r.Host != p.keeper.Host() {
		// The browser comes back to the site's own address; cookies set for another, such as 127.0.0.1
		// for localhost, would not be there.
		http.Redirect(w, r, p.keeper.Origin()+r.URL.RequestURI(), http.StatusSeeOther)
		return nil
	}
	pending := session.Pending{
		State: oauth2.GenerateVerifier(), Nonce: oauth2.GenerateVerifier(), Verifier: oauth2.GenerateVerifier(),
		Next: session.LocalPath(r.URL.Query().Get("next"), "/"),
	}
	if err := p.keeper.SavePending(w, pending); err != nil {
		return err
	}
	http.Redirect(w, r, p.oauth.AuthCodeURL(pending.State, oauth2.S256ChallengeOption(pending.Verifier), oidc.Nonce(pending.Nonce)), http.StatusSeeOther)
	return nil
}

var errOver = problem.New(http.StatusBadRequest, "signin_over", "This sign-in has expired or was begun in another window. Please sign in again.")

// Callback takes the code that the browser brings from the sign-in page.
func (p *Party) Callback(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	pending, ok := p.keeper.TakePending(w, r)
	if !ok || pending.State == "" || q.Get("state") != pending.State {
		return errOver
	}
	if code := q.Get("error"); code != "" {
		p.log.InfoContext(r.Context(), "sign-in was refused", "error", code, "description", q.Get("error_description"))
		if code == "access_denied" {
			http.Redirect(w, r, p.goodbye, http.StatusSeeOther)
			return nil
		}
		return errOver
	}
	t, err := p.oauth.Exchange(p.reach(r.Context()), q.Get("code"), oauth2.VerifierOption(pending.Verifier))
	if err != nil {
		return p.grantError(r.Context(), "exchange the code", err)
	}
	s, err := p.sessionOf(r.Context(), t, pending.Nonce)
	if err != nil {
		return err
	}
	if err := p.keeper.Save(w, s); err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, pending.Next, http.StatusSeeOther)
	return nil
}

// sessionOf checks what the token endpoint gave, and makes a session of it.
func (p *Party) sessionOf(ctx context.Context, t *oauth2.Token, nonce string) (session.Session, error) {
	raw, _ := t.Extra("id_token").(string)
	id, err := p.idTokens.Verify(ctx, raw)
	if err != nil {
		return session.Session{}, fmt.Errorf("signin: the ID token: %w", err)
	}
	if id.Nonce != nonce {
		return session.Session{}, errors.New("signin: the ID token belongs to another sign-in")
	}
	var claims struct{ Name, Email string }
	if err := id.Claims(&claims); err != nil {
		return session.Session{}, fmt.Errorf("signin: the ID token: %w", err)
	}
	if t.RefreshToken == "" {
		return session.Session{}, errors.New("signin: there is no refresh token; is offline_access among the scopes?")
	}
	// The access token must be this user's, for us: services would refuse another.
	who, err := p.verifier.Verify(ctx, t.AccessToken)
	if err != nil {
		return session.Session{}, fmt.Errorf("signin: the access token: %w", err)
	}
	if who.Subject != id.Subject {
		return session.Session{}, errors.New("signin: the access token and the ID token name different users")
	}
	return session.Session{
		Access: t.AccessToken, Refresh: t.RefreshToken, AccessUntil: who.Expires, Name: claims.Name, Email: claims.Email,
	}.Renewed(), nil
}

// Logout ends the sign-in, here and at the issuer. The caller has checked the form.
func (p *Party) Logout(w http.ResponseWriter, r *http.Request) error {
	if s := VisitorFrom(r.Context()).Session; s.SignedIn() {
		if err := p.revoke(r.Context(), s.Refresh); err != nil {
			// The browser forgets it whatever happens; nobody else has it.
			p.log.WarnContext(r.Context(), "the refresh token could not be revoked", "error", err)
		}
	}
	p.keeper.Clear(w)
	http.Redirect(w, r, p.goodbye, http.StatusSeeOther)
	return nil
}

func (p *Party) revoke(ctx context.Context, refresh string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	form := url.Values{"client_id": {p.oauth.ClientID}, "token": {refresh}, "token_type_hint": {"refresh_token"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, authHost+"/oauth/revoke", strings.NewReader(form.Encode()))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := p.auth.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("auth answered %s", resp.Status)
	}
	return nil
}

// reach has the oauth2 package use the client that knows the auth service.
func (p *Party) reach(ctx context.Context) context.Context {
	return context.WithValue(ctx, oauth2.HTTPClient, p.auth)
}

var errSignedOut = errors.New("signin: the sign-in is over")

// grantError tells a grant that is over from an auth service that does not answer.
func (p *Party) grantError(ctx context.Context, doing string, err error) error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if ok && refused.Response != nil && refused.Response.StatusCode < http.StatusInternalServerError && refused.Response.StatusCode != http.StatusTooManyRequests {
		p.log.InfoContext(ctx, "the issuer refused a grant", "doing", doing, "code", refused.ErrorCode)
		return fmt.Errorf("%w: %w", errOver, errSignedOut)
	}
	p.log.WarnContext(ctx, "auth does not answer", "doing", doing, "error", err)
	return problem.New(http.StatusServiceUnavailable, "unavailable", "Signing in does not work just now. Please try again in a moment.").Because(err)
}
