package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// Audience is what access tokens are for: the shop's services.
const Audience = "shop"

// ProviderConfig is what the OpenID provider is made of.
type ProviderConfig struct {
	// Issuer is the public address, such as https://shop.example.
	Issuer   string
	Store    Store
	Keys     *Keyring
	Registry *domain.Registry
	Clients  []*Client
	// CryptoKey seals authorization codes.
	CryptoKey [32]byte
	// Note returns what the sign-in page shows to people whom a client sends; nil
	// for nothing.
	Note   func(clientID string) string
	Logger *slog.Logger
	Now    func() time.Time
}

// Provider is the OpenID Connect provider: discovery, authorize, token, keys,
// userinfo, revocation, end of session, and the sign-in page.
type Provider struct {
	op      *op.Provider
	storage *storage
	login   *login
	issuer  string
	secure  bool
}

// NewProvider returns a provider. The issuer must be https, or http on loopback.
func NewProvider(cfg ProviderConfig) (*Provider, error) {
	issuer := strings.TrimRight(cfg.Issuer, "/")
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.Path != "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fmt.Errorf("auth: issuer %q: give the public address of the shop, such as https://shop.example", cfg.Issuer)
	}
	if _, loopback := op.HTTPLoopbackOrLocalhost(issuer); u.Scheme == "http" && !loopback {
		return nil, fmt.Errorf("auth: issuer %q: plain http is for loopback only; use https", cfg.Issuer)
	}
	st := &storage{store: cfg.Store, keys: cfg.Keys, clients: map[string]*Client{}, audience: Audience, now: cfg.Now}
	for _, c := range cfg.Clients {
		if _, taken := st.clients[c.ID]; taken {
			return nil, fmt.Errorf("auth: two clients are called %q", c.ID)
		}
		st.clients[c.ID] = c
	}
	opts := []op.Option{
		op.WithCustomEndpoints(op.NewEndpoint("oauth/authorize"), op.NewEndpoint("oauth/token"), op.NewEndpoint("oauth/userinfo"),
			op.NewEndpoint("oauth/revoke"), op.NewEndpoint("oauth/end_session"), op.NewEndpoint("oauth/jwks")),
		op.WithCORSOptions(nil), // browsers talk to the storefront, not to the provider's API
		op.WithAccessTokenVerifierOpts(op.WithSupportedAccessTokenSigningAlgorithms("ES256")),
		op.WithIDTokenHintVerifierOpts(op.WithSupportedIDTokenHintSigningAlgorithms("ES256")),
	}
	if u.Scheme == "http" {
		opts = append(opts, op.WithAllowInsecure())
	}
	provider, err := op.NewProvider(&op.Config{
		CryptoKey: cfg.CryptoKey, CryptoKeyId: "1", DefaultLogoutRedirectURI: issuer + "/",
		CodeMethodS256: true, AuthMethodPost: true, GrantTypeRefreshToken: true,
		SupportedScopes: []string{oidc.ScopeOpenID, oidc.ScopeProfile, oidc.ScopeEmail, oidc.ScopeOfflineAccess, domain.ScopeShop, domain.ScopeAdmin},
		SupportedClaims: []string{"iss", "sub", "aud", "exp", "iat", "auth_time", "nonce", "amr", "azp", "at_hash", "c_hash", "name", "email"},
	}, st, op.StaticIssuer(issuer), opts...)
	if err != nil {
		return nil, fmt.Errorf("auth: %w", err)
	}
	return &Provider{
		op: provider, storage: st, issuer: issuer, secure: u.Scheme == "https",
		login: &login{
			store: cfg.Store, registry: cfg.Registry, callback: "/oauth/authorize/callback", note: cfg.Note,
			log: cfg.Logger, now: cfg.Now,
			// An address may be a whole office.
			byAccount: domain.NewThrottle(10, 30*time.Second, 1<<16), byAddress: domain.NewThrottle(100, time.Second, 1<<16),
		},
	}, nil
}

// Routes registers the provider's paths. What the library can do beyond them is
// not served.
func (p *Provider) Routes(mux *http.ServeMux) {
	provider := withFaults(p.login.log, p.op)
	begin := browsers(p.secure, true, provider)
	known := browsers(p.secure, false, provider)
	handle := func(pattern string, h http.Handler) { mux.Handle(pattern, inText(h)) }
	handle("GET /oauth/authorize", begin)
	handle("POST /oauth/authorize", begin)
	handle("GET /oauth/authorize/callback", known)
	handle("GET "+LoginPath, browsers(p.secure, false, http.HandlerFunc(p.login.show)))
	handle("POST "+LoginPath, browsers(p.secure, false, http.HandlerFunc(p.login.submit)))
	handle("POST /oauth/token", noStore(provider))
	handle("POST /oauth/revoke", noStore(provider))
	handle("GET /oauth/end_session", provider)
	handle("POST /oauth/end_session", provider)
	handle("GET /oauth/jwks", cached(provider))
	handle("GET /oauth/userinfo", noStore(http.HandlerFunc(p.userinfo)))
	handle("POST /oauth/userinfo", noStore(http.HandlerFunc(p.userinfo)))
	handle("GET "+oidc.DiscoveryEndpoint, cached(http.HandlerFunc(p.discovery)))
}

// inText refuses parameters that are not text, UTF-8 without U+0000: PostgreSQL takes no other, and what a
// stranger sends must not look like an outage.
func inText(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fault := ""
		if err := r.ParseForm(); err != nil {
			fault = "the parameters cannot be read"
		}
		for name, values := range r.Form {
			for _, v := range append(values, name) {
				if !utf8.ValidString(v) || strings.ContainsRune(v, 0) {
					fault = "a parameter is not text in UTF-8"
				}
			}
		}
		if fault == "" {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, `{"error":"invalid_request","error_description":%q}`, fault) // the reader may be gone
	})
}

// discovery is the library's document without what is not served.
func (p *Provider) discovery(w http.ResponseWriter, r *http.Request) {
	d := op.CreateDiscoveryConfig(op.ContextWithIssuer(r.Context(), p.issuer), p.op, p.storage)
	d.ResponseTypesSupported = []string{string(oidc.ResponseTypeCode)}
	d.GrantTypesSupported = []oidc.GrantType{oidc.GrantTypeCode, oidc.GrantTypeRefreshToken, oidc.GrantTypeClientCredentials}
	d.IntrospectionEndpoint, d.DeviceAuthorizationEndpoint, d.CheckSessionIframe = "", "", ""
	d.IntrospectionEndpointAuthMethodsSupported, d.IntrospectionEndpointAuthSigningAlgValuesSupported = nil, nil
	d.RevocationEndpointAuthSigningAlgValuesSupported = nil
	op.Discover(w, d)
}

// userinfo answers by the access token's own scopes. An ID token is none.
func (p *Provider) userinfo(w http.ResponseWriter, r *http.Request) {
	ctx := op.ContextWithIssuer(r.Context(), p.issuer)
	info, err := p.userinfoOf(ctx, r)
	if err != nil {
		if errors.Is(err, domain.ErrNotFound) {
			w.Header().Set("WWW-Authenticate", `Bearer error="invalid_token"`)
			http.Error(w, "the access token is missing or not valid", http.StatusUnauthorized)
			return
		}
		p.login.log.ErrorContext(ctx, "userinfo failed", "error", err)
		http.Error(w, "something went wrong on our side", http.StatusInternalServerError)
		return
	}
	writeJSON(w, info)
}

func (p *Provider) userinfoOf(ctx context.Context, r *http.Request) (*oidc.UserInfo, error) {
	token, err := op.ParseUserinfoRequest(r, p.op.Decoder())
	if err != nil || token == "" {
		return nil, domain.ErrNotFound
	}
	claims, err := op.VerifyAccessToken[*oidc.AccessTokenClaims](ctx, token, p.op.AccessTokenVerifier(ctx))
	if err != nil {
		return nil, domain.ErrNotFound
	}
	granted := false
	for _, s := range claims.Scopes {
		granted = granted || s == oidc.ScopeOpenID
	}
	if !granted {
		return nil, domain.ErrNotFound
	}
	info := new(oidc.UserInfo)
	return info, p.storage.userinfo(ctx, info, claims.Subject, claims.Scopes)
}

func noStore(next http.Handler) http.Handler { return withCacheControl("no-store", next) }

// cached lets verifiers keep keys and discovery for a while, well below KeyLead.
func cached(next http.Handler) http.Handler { return withCacheControl("public, max-age=300", next) }

func withCacheControl(value string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", value)
		next.ServeHTTP(w, r)
	})
}
