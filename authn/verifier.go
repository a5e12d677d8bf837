package authn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
	"github.com/go-jose/go-jose/v4/jwt"
)

// VerifierConfig says which tokens a [Verifier] accepts.
type VerifierConfig struct {
	// Issuer is the exact "iss" of accepted tokens. Required.
	Issuer string

	// Audience must be among the "aud" of accepted tokens: it names the
	// service or API that verifies. Required.
	Audience string

	// JWKSURL is where the issuer publishes its keys (RFC 7517). Required.
	// It must be https, save for loopback hosts and under AllowPlainHTTP.
	JWKSURL string

	// Client fetches the keys; its Transport can carry mTLS. Defaults to a
	// client of the Verifier's own with Go's default settings. In either case
	// redirects are not followed and a fetch ends after FetchTimeout.
	Client *http.Client

	// Algorithms are the accepted "alg" values: asymmetric ones only.
	// Defaults to ES256 and RS256.
	Algorithms []string

	// Types are the accepted "typ" values, compared without case and without
	// the prefix "application/". An empty string accepts a token that has
	// none. Defaults to at+jwt (RFC 9068) and JWT.
	Types []string

	// Leeway is how far the issuer's clock may be off when exp, nbf and iat
	// are judged. At most 5 minutes. Defaults to 30 seconds; negative means
	// none.
	Leeway time.Duration

	// MaxTokenBytes bounds a token before anything of it is parsed. Defaults
	// to 8192.
	MaxTokenBytes int

	// RefreshInterval is the age at which the keys are fetched again, while
	// the old ones stay in use. Defaults to 5 minutes.
	RefreshInterval time.Duration

	// MinRefetchInterval is the least time between two fetches, however many
	// tokens name unknown keys. Defaults to 10 seconds.
	MinRefetchInterval time.Duration

	// MaxStale is the age past which keys that could not be refreshed are no
	// longer trusted. Defaults to 1 hour.
	MaxStale time.Duration

	// FetchTimeout bounds one fetch. Defaults to 5 seconds.
	FetchTimeout time.Duration

	// CacheSize is how many verified tokens are remembered, so that the
	// signature of each is checked once. A cached token is still refused when
	// it expires or when the issuer's keys change. Defaults to 4096; negative
	// turns the cache off.
	CacheSize int

	// AllowPlainHTTP permits a JWKSURL that is plain http on another host, for
	// use behind a mesh sidecar that encrypts.
	AllowPlainHTTP bool

	// KeysFetched, if set, is called after each fetch of the keys with the
	// number of usable ones, or the error. It must be quick.
	KeysFetched func(keys int, err error)
}

// Verifier checks JSON Web Tokens (RFC 7519, with the advice of RFC 8725): it
// accepts a compact JWS, signed with an algorithm of the allow-list by a key
// that the issuer publishes, of an accepted type, for this audience, within
// its time. Keys named in or carried by the token itself (jwk, jku, x5u, x5c)
// make it invalid, as do "none", symmetric algorithms and "crit" extensions.
//
// Keys are fetched on first use and cached; see VerifierConfig for rotation.
// A Verifier is safe for concurrent use. It runs no goroutine of its own but
// the fetch in progress, which Close waits for.
type Verifier struct {
	cfg    VerifierConfig
	algs   []jose.SignatureAlgorithm
	keys   *keyCache
	tokens *tokenCache
}

// asymmetric are the algorithms a Verifier can be told to accept.
var asymmetric = []string{"ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "EdDSA"}

// NewVerifier returns a Verifier for cfg, or an error that names the field at
// fault. It makes no request.
func NewVerifier(cfg VerifierConfig) (*Verifier, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("authn: %w", err)
	}
	v := &Verifier{cfg: cfg, keys: newKeyCache(cfg), tokens: newTokenCache(cfg.CacheSize)}
	for _, a := range cfg.Algorithms {
		v.algs = append(v.algs, jose.SignatureAlgorithm(a))
	}
	return v, nil
}

func (c VerifierConfig) withDefaults() (VerifierConfig, error) {
	switch {
	case c.Issuer == "":
		return c, errors.New("VerifierConfig.Issuer is empty: set the iss of the tokens to accept")
	case c.Audience == "":
		return c, errors.New("VerifierConfig.Audience is empty: set the name this service is known by to the issuer")
	}
	if err := checkJWKSURL(c.JWKSURL, c.AllowPlainHTTP); err != nil {
		return c, err
	}
	if len(c.Algorithms) == 0 {
		c.Algorithms = []string{"ES256", "RS256"}
	}
	for _, a := range c.Algorithms {
		if !slices.Contains(asymmetric, a) {
			return c, fmt.Errorf("VerifierConfig.Algorithms holds %q: accepted are %s", a, strings.Join(asymmetric, ", "))
		}
	}
	if len(c.Types) == 0 {
		c.Types = []string{"at+jwt", "JWT"}
	}
	c.Types = slices.Clone(c.Types)
	for i, t := range c.Types {
		c.Types[i] = canonicalType(t)
	}
	switch {
	case c.Leeway == 0:
		c.Leeway = 30 * time.Second
	case c.Leeway < 0:
		c.Leeway = 0
	case c.Leeway > 5*time.Minute:
		return c, fmt.Errorf("VerifierConfig.Leeway is %v: at most 5m", c.Leeway)
	}
	if c.MaxTokenBytes == 0 {
		c.MaxTokenBytes = 8192
	}
	if c.CacheSize == 0 {
		c.CacheSize = 4096
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		def   time.Duration
	}{
		{"RefreshInterval", &c.RefreshInterval, 5 * time.Minute},
		{"MinRefetchInterval", &c.MinRefetchInterval, 10 * time.Second},
		{"MaxStale", &c.MaxStale, time.Hour},
		{"FetchTimeout", &c.FetchTimeout, 5 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 {
			return c, fmt.Errorf("VerifierConfig.%s is %v: it must be positive", d.name, *d.value)
		}
	}
	switch {
	case c.MaxTokenBytes < 0:
		return c, fmt.Errorf("VerifierConfig.MaxTokenBytes is %d: it must be positive", c.MaxTokenBytes)
	case c.MaxStale < c.RefreshInterval:
		return c, fmt.Errorf("VerifierConfig.MaxStale is %v: it must be at least RefreshInterval (%v)", c.MaxStale, c.RefreshInterval)
	}
	return c, nil
}

func checkJWKSURL(raw string, allowPlain bool) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Errorf("VerifierConfig.JWKSURL is %q: set the absolute https URL of the issuer's key set", raw)
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && (allowPlain || isLoopback(u.Hostname())):
		return nil
	}
	return fmt.Errorf("VerifierConfig.JWKSURL is %q: keys are fetched over https, or http from a loopback host only", raw)
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Close ends a fetch in progress and waits for it. Tokens that need keys which
// are not at hand then fail with [ErrUnavailable].
func (v *Verifier) Close() error {
	v.keys.close()
	return nil
}

// Warm fetches the keys if there are none yet, so that the first token does
// not wait for them. A readiness check may call it: once keys are at hand it
// costs nothing. It returns [ErrUnavailable] if there are none.
func (v *Verifier) Warm(ctx context.Context) error {
	_, err := v.keys.find(ctx, "", "")
	return err
}

// Verify checks raw, a compact JWS without the "Bearer " scheme, and returns
// the principal it names. It may wait for the issuer's keys, at most until ctx
// ends.
//
// Errors: [ErrTokenMissing] (raw is empty), [ErrTokenInvalid],
// [ErrTokenExpired], [ErrUnavailable] (no keys to judge by), or the error of
// ctx.
func (v *Verifier) Verify(ctx context.Context, raw string) (Principal, error) {
	switch {
	case raw == "":
		return Principal{}, ErrTokenMissing
	case len(raw) > v.cfg.MaxTokenBytes:
		return Principal{}, fmt.Errorf("%w: longer than %d bytes", ErrTokenInvalid, v.cfg.MaxTokenBytes)
	}
	digest := digestOf(raw)
	if p, ok := v.tokens.get(digest, v.keys.generation()); ok { //nolint:contextcheck // a fetch outlives the caller who started it
		if time.Now().After(p.Expires.Add(v.cfg.Leeway)) {
			return Principal{}, ErrTokenExpired
		}
		return p, nil
	}

	h, err := v.parseHeader(raw)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrTokenInvalid, err)
	}
	found, err := v.keys.find(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return Principal{}, err
	}
	payload, err := v.checkSignature(raw, found.keys)
	if err != nil {
		return Principal{}, fmt.Errorf("%w: %w", ErrTokenInvalid, err)
	}
	p, err := v.checkClaims(payload)
	if err != nil {
		return Principal{}, err
	}
	p = p.WithBearerToken(raw)
	v.tokens.put(digest, found.generation, p)
	return p, nil
}

// header is what of a JOSE header is read; the rest only has to be absent.
type header struct {
	Algorithm string
	KeyID     string
}

// forbidden are header parameters that would let a token bring or name its own
// key, or change how it is to be read.
var forbidden = []string{"jwk", "jku", "x5u", "x5c", "crit", "b64", "zip", "enc"}

const maxKeyIDBytes = 256

func (v *Verifier) parseHeader(raw string) (header, error) {
	// base64 decoders skip line breaks, so the alphabet is checked here: two
	// spellings of one token would otherwise be two tokens.
	dots := 0
	for i := range len(raw) {
		c := raw[i]
		switch {
		case c == '.':
			dots++
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return header{}, errors.New("not a compact JWS")
		}
	}
	if dots != 2 {
		return header{}, errors.New("not a compact JWS")
	}
	first, _, _ := strings.Cut(raw, ".")
	decoded, err := strictBase64.DecodeString(first)
	if err != nil {
		return header{}, errors.New("header is not base64url")
	}
	var params map[string]json.RawMessage // go-jose's json: names match by case, and once
	if err := json.Unmarshal(decoded, &params); err != nil {
		return header{}, errors.New("header is not a JSON object")
	}
	for _, name := range forbidden {
		if _, ok := params[name]; ok {
			return header{}, fmt.Errorf("header parameter %q is refused", name)
		}
	}
	var h header
	var typ string
	for name, dst := range map[string]*string{"alg": &h.Algorithm, "kid": &h.KeyID, "typ": &typ} {
		if rawParam, ok := params[name]; ok {
			if err := json.Unmarshal(rawParam, dst); err != nil {
				return header{}, fmt.Errorf("header parameter %q is not a string", name)
			}
		}
	}
	switch {
	case !slices.Contains(v.cfg.Algorithms, h.Algorithm):
		return header{}, fmt.Errorf("algorithm %.20q is not accepted", h.Algorithm)
	case !slices.Contains(v.cfg.Types, canonicalType(typ)):
		return header{}, fmt.Errorf("type %.20q is not accepted", typ)
	case h.KeyID == "":
		return header{}, errors.New("header names no key (kid)")
	case len(h.KeyID) > maxKeyIDBytes:
		return header{}, errors.New("key id is too long")
	}
	return h, nil
}

func canonicalType(typ string) string {
	return strings.TrimPrefix(strings.ToLower(typ), "application/")
}

func (v *Verifier) checkSignature(raw string, keys []jose.JSONWebKey) ([]byte, error) {
	jws, err := jose.ParseSignedCompact(raw, v.algs)
	if err != nil {
		return nil, errors.New("not a compact JWS")
	}
	for _, k := range keys {
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, nil
		}
	}
	return nil, errors.New("signature does not verify")
}

// claims are those of RFC 7519 and RFC 9068, and OpenID Connect's e-mail.
type claims struct {
	jwt.Claims
	Scope         string   `json:"scope"`
	ScopeList     []string `json:"scp"`
	ClientID      string   `json:"client_id"`
	Party         string   `json:"azp"`
	Email         string   `json:"email"`
	EmailVerified bool     `json:"email_verified"`
}

const maxSubjectBytes = 255 // OpenID Connect Core, section 2

func (v *Verifier) checkClaims(payload []byte) (Principal, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Principal{}, fmt.Errorf("%w: claims are not those of an access token", ErrTokenInvalid)
	}
	switch {
	case c.Expiry == nil:
		return Principal{}, fmt.Errorf("%w: no exp", ErrTokenInvalid)
	case c.Subject == "" || len(c.Subject) > maxSubjectBytes:
		return Principal{}, fmt.Errorf("%w: sub is empty or too long", ErrTokenInvalid)
	}
	err := c.ValidateWithLeeway(jwt.Expected{
		Issuer:      v.cfg.Issuer,
		AnyAudience: jwt.Audience{v.cfg.Audience},
		Time:        time.Now(),
	}, v.cfg.Leeway)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return Principal{}, ErrTokenExpired
	case err != nil:
		return Principal{}, fmt.Errorf("%w: %w", ErrTokenInvalid, err)
	}
	p := Principal{
		Subject:       c.Subject,
		Issuer:        c.Issuer,
		ClientID:      c.ClientID,
		Scopes:        append(strings.Fields(c.Scope), c.ScopeList...),
		Email:         c.Email,
		EmailVerified: c.EmailVerified,
		Expires:       c.Expiry.Time(),
	}
	if p.ClientID == "" {
		p.ClientID = c.Party
	}
	slices.Sort(p.Scopes)
	p.Scopes = slices.Compact(p.Scopes)
	return p, nil
}
