package transport

import (
	_ "embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

//go:embed login.html.tmpl
var loginHTML string

var loginPage = template.Must(template.New("login").Parse(loginHTML))

// login is the sign-in page.
type login struct {
	store    Store
	registry *domain.Registry
	callback string                       // of the provider, without the id
	note     func(clientID string) string // shown above the form; may be nil
	log      *slog.Logger
	now      func() time.Time

	byAccount, byAddress *domain.Throttle
}

type loginView struct {
	ID, CSRF, Email, Note, Error string
	Form                         bool
}

const (
	overText    = "This sign-in has expired or was begun in another browser. Go back to the store and sign in again."
	wrongText   = "The e-mail address or the password is wrong."
	limitedText = "Too many attempts. Wait a little and try again."
)

func (l *login) show(w http.ResponseWriter, r *http.Request) {
	req, ok := l.request(w, r, r.URL.Query().Get("id"))
	if ok {
		l.form(w, r, http.StatusOK, req, "", "")
	}
}

// request returns the sign-in of this browser; where there is none it has answered.
func (l *login) request(w http.ResponseWriter, r *http.Request, id string) (domain.Request, bool) {
	req, err := l.store.SignIn(r.Context(), id, l.now())
	browser, _ := browserFrom(r.Context())
	switch {
	case err == nil && !req.Done() && req.BrowserHash == hash(browser):
		return req, true
	case err == nil || errors.Is(err, domain.ErrNotFound):
		l.render(w, r, http.StatusBadRequest, loginView{Error: overText})
	default:
		l.failed(w, r, err)
	}
	return domain.Request{}, false
}

func (l *login) submit(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		l.render(w, r, http.StatusBadRequest, loginView{Error: overText})
		return
	}
	req, ok := l.request(w, r, r.PostForm.Get("id"))
	if !ok {
		return
	}
	browser, _ := browserFrom(r.Context())
	if !csrfValid(browser, req.ID, r.PostForm.Get("csrf")) {
		l.render(w, r, http.StatusForbidden, loginView{Error: overText})
		return
	}
	email := domain.NormalizeEmail(r.PostForm.Get("email"))
	address := clientAddress(r)
	if wait, ok := l.attempt(email, address); !ok {
		w.Header().Set("Retry-After", strconv.Itoa(int(wait.Seconds())+1))
		l.form(w, r, http.StatusTooManyRequests, req, email, limitedText)
		return
	}
	account, err := l.registry.Authenticate(r.Context(), email, r.PostForm.Get("password"))
	if errors.Is(err, domain.ErrCredentials) {
		l.form(w, r, http.StatusUnauthorized, req, email, wrongText)
		return
	}
	l.forgive(email, address) // also where the fault is ours
	if err == nil {
		err = l.store.CompleteSignIn(r.Context(), req.ID, account.ID, domain.Grant(req.Scopes, account), l.now())
	}
	if err != nil {
		l.failed(w, r, err)
		return
	}
	http.Redirect(w, r, l.callback+"?id="+req.ID, http.StatusSeeOther)
}

// attempt counts a wrong password for the account and for the address, until
// forgive. It returns how long to wait where there have been too many.
func (l *login) attempt(email, address string) (time.Duration, bool) {
	now := l.now()
	wait, ok := l.byAddress.Attempt(address, now)
	if ok {
		if wait, ok = l.byAccount.Attempt(email, now); !ok {
			l.byAddress.Forgive(address, now)
		}
	}
	return wait, ok
}

func (l *login) forgive(email, address string) {
	now := l.now()
	l.byAddress.Forgive(address, now)
	l.byAccount.Forgive(email, now)
}

func (l *login) form(w http.ResponseWriter, r *http.Request, status int, req domain.Request, email, text string) {
	note := ""
	if l.note != nil {
		note = l.note(req.ClientID)
	}
	browser, _ := browserFrom(r.Context())
	l.render(w, r, status, loginView{ID: req.ID, CSRF: csrfToken(browser, req.ID), Email: email, Note: note, Error: text, Form: true})
}

func (l *login) failed(w http.ResponseWriter, r *http.Request, err error) {
	l.log.ErrorContext(r.Context(), "sign-in failed", "error", err)
	l.render(w, r, http.StatusInternalServerError, loginView{Error: "Something went wrong on our side. Please try again."})
}

func (l *login) render(w http.ResponseWriter, r *http.Request, status int, v loginView) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	// form-action stays open: browsers apply it to the redirect back to the client too.
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := loginPage.Execute(w, v); err != nil {
		l.log.DebugContext(r.Context(), "the sign-in page was not delivered", "error", err)
	}
}
