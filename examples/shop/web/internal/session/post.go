package session

import (
	"crypto/subtle"
	"net/http"
	"net/url"

	"github.com/napkin-kit/napkin/kit/problem"
)

// Field is the name of the form field that carries the CSRF token.
const Field = "csrf"

var (
	// errOrigin is for a form that another site's page sent, or a browser that does not say.
	errOrigin = problem.New(http.StatusForbidden, "foreign_form", "This form was not sent from a page of this site. Open the page here and try again.")
	// errStale is for a form of a session that is over.
	errStale = problem.New(http.StatusForbidden, "stale_form", "This page is from before you last signed in or out. Open it again and repeat what you did.")
)

// CheckPost refuses a form that was not sent from a page of this site in this session. Two checks stand
// for each other: the browser's word for where the form was (Origin, Fetch Metadata), and a token that
// only this session's pages hold. The form is parsed then.
func (k *Keeper) CheckPost(r *http.Request, s Session) error {
	if !k.sameOrigin(r) {
		return errOrigin
	}
	if err := r.ParseForm(); err != nil {
		return problem.New(http.StatusBadRequest, "bad_form", "The form could not be read.").Because(err)
	}
	sent := r.PostForm.Get(Field)
	if s.CSRF == "" || subtle.ConstantTimeCompare([]byte(s.CSRF), []byte(sent)) != 1 {
		return errStale
	}
	return nil
}

// sameOrigin goes by Origin, which browsers send with every POST; one that does not must say where the
// form was in another way.
func (k *Keeper) sameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" {
		return false
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		return origin == k.Origin()
	}
	if r.Header.Get("Sec-Fetch-Site") == "same-origin" {
		return true
	}
	from, err := url.Parse(r.Referer())
	return err == nil && from.Scheme == k.origin.Scheme && from.Host == k.origin.Host
}

// LocalPath returns next if it is a path of this site, else otherwise. A path that begins with two
// slashes, in either direction, is an address to a browser.
func LocalPath(next, otherwise string) string {
	if len(next) == 0 || len(next) > 1000 || next[0] != '/' || (len(next) > 1 && (next[1] == '/' || next[1] == '\\')) {
		return otherwise
	}
	for i := range len(next) {
		if next[i] <= ' ' || next[i] == 0x7f || next[i] == '\\' { // browsers drop tabs and newlines, and turn \ into /
			return otherwise
		}
	}
	u, err := url.Parse(next)
	if err != nil || u.Scheme != "" || u.Host != "" {
		return otherwise
	}
	return next
}

// CameFrom is the path of the page that sent a request, otherwise where it does not say. It is a path of
// this site even if that page was not.
func CameFrom(r *http.Request, otherwise string) string {
	from, err := url.Parse(r.Referer())
	if err != nil {
		return otherwise
	}
	return LocalPath(from.RequestURI(), otherwise)
}
