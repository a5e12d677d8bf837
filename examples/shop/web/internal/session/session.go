// Package session keeps what a browser is signed in with in an encrypted cookie, and checks that a form
// was posted from a page of ours.
//
// The server keeps nothing: any replica serves any request. The browser never sees a token.
package session

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// life is that of auth's refresh tokens, from the last one on.
	life = 30 * 24 * time.Hour
	// maxCookie is what browsers keep of one cookie (RFC 6265 section 6.1).
	maxCookie = 4096
)

// Session is what a browser carries. The zero Session is an anonymous visitor's.
type Session struct {
	// CSRF is what forms of this session carry.
	CSRF string `json:"c,omitempty"`
	// Access and Refresh are the tokens, empty while nobody is signed in.
	Access  string `json:"a,omitempty"`
	Refresh string `json:"r,omitempty"`
	// AccessUntil is when Access expires.
	AccessUntil time.Time `json:"e,omitzero"`
	// Name and Email are for the page's head; nothing is decided by them.
	Name  string `json:"n,omitempty"`
	Email string `json:"m,omitempty"`
}

// SignedIn reports whether somebody is.
func (s Session) SignedIn() bool { return s.Refresh != "" }

// Renewed returns a session with a CSRF token of its own, as every sign-in begins one.
func (s Session) Renewed() Session {
	s.CSRF = token()
	return s
}

// Config is what a Keeper is made from. All fields but Now are required.
type Config struct {
	// Purpose names the site: "storefront". Cookies and keys of one are nothing to another.
	Purpose string
	// Key is 32 random bytes, the same for every replica.
	Key []byte
	// URL is the site's public address; cookies are Secure where it is https.
	URL string
	// Now defaults to time.Now.
	Now func() time.Time
}

// Keeper reads and writes a site's cookies. It is safe for concurrent use.
type Keeper struct {
	seal    *sealer
	origin  *url.URL
	secure  bool
	session string // the cookies' names
	pending string
}

// NewKeeper returns a keeper, or an error that names the field at fault.
func NewKeeper(cfg Config) (*Keeper, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("session: Config.URL %q: give the public address of the site, such as https://shop.example", cfg.URL)
	}
	if cfg.Purpose == "" {
		return nil, fmt.Errorf("session: Config.Purpose is required")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s, err := newSealer(cfg.Key, cfg.Purpose, cfg.Now)
	if err != nil {
		return nil, err
	}
	k := &Keeper{seal: s, origin: &url.URL{Scheme: u.Scheme, Host: u.Host}, secure: u.Scheme == "https"}
	prefix := ""
	if k.secure {
		prefix = "__Host-" // the browser takes such a cookie from this host over TLS alone
	}
	k.session, k.pending = prefix+cfg.Purpose+"_session", prefix+cfg.Purpose+"_signin"
	return k, nil
}

// Origin is the site's, as a browser sends it.
func (k *Keeper) Origin() string { return k.origin.String() }

// Host is the site's host, with its port.
func (k *Keeper) Host() string { return k.origin.Host }

// Load returns the session of a request, the zero one where there is none that holds.
func (k *Keeper) Load(r *http.Request) Session {
	var s Session
	c, err := r.Cookie(k.session)
	if err != nil || k.seal.open(k.session, c.Value, &s) != nil {
		return Session{}
	}
	return s
}

// Save sends the session to the browser.
func (k *Keeper) Save(w http.ResponseWriter, s Session) error {
	return k.set(w, k.session, s, life, http.SameSiteLaxMode)
}

// Clear ends the session in the browser.
func (k *Keeper) Clear(w http.ResponseWriter) { k.drop(w, k.session) }

// Pending is a sign-in that is under way in this browser.
type Pending struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"` // of PKCE
	Next     string `json:"x"` // the path to go on to
}

// SavePending keeps a sign-in until the browser comes back, ten minutes at most.
func (k *Keeper) SavePending(w http.ResponseWriter, p Pending) error {
	// Lax: the browser comes back from the issuer, which may be another site.
	return k.set(w, k.pending, p, 10*time.Minute, http.SameSiteLaxMode)
}

// TakePending returns the sign-in of this browser and forgets it.
func (k *Keeper) TakePending(w http.ResponseWriter, r *http.Request) (Pending, bool) {
	var p Pending
	c, err := r.Cookie(k.pending)
	if err != nil {
		return p, false
	}
	k.drop(w, k.pending)
	return p, k.seal.open(k.pending, c.Value, &p) == nil
}

func (k *Keeper) set(w http.ResponseWriter, name string, v any, life time.Duration, site http.SameSite) error {
	sealed, err := k.seal.seal(name, v, life)
	if err != nil {
		return err
	}
	c := &http.Cookie{
		Name: name, Value: sealed, Path: "/", MaxAge: int(life / time.Second),
		HttpOnly: true, Secure: k.secure, SameSite: site,
	}
	if n := len(c.String()); n > maxCookie {
		return fmt.Errorf("session: the cookie %s would have %d bytes, more than browsers keep", name, n)
	}
	http.SetCookie(w, c)
	return nil
}

func (k *Keeper) drop(w http.ResponseWriter, name string) {
	http.SetCookie(w, &http.Cookie{
		Name: name, Path: "/", MaxAge: -1, HttpOnly: true, Secure: k.secure, SameSite: http.SameSiteLaxMode,
	})
}
