package signin

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Handler serves a page to an identified visitor. An error that it returns is shown as a page too.
type Handler func(http.ResponseWriter, *http.Request) error

// Visitor is who a request comes from.
type Visitor struct {
	Session session.Session
}

type visitorKey struct{}

// VisitorFrom returns the visitor of an identified request, else an anonymous one.
func VisitorFrom(ctx context.Context) Visitor {
	v, _ := ctx.Value(visitorKey{}).(Visitor)
	return v
}

func with(r *http.Request, v Visitor) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), visitorKey{}, v))
}

// Identify reads the session of a request. It asks nobody: pages that anyone may see are served however
// auth is.
func (p *Party) Identify(r *http.Request) *http.Request { return with(r, Visitor{p.keeper.Load(r)}) }

// Form gives a visitor who has no session one, so that a form can be shown to them.
func (p *Party) Form(next Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if s := VisitorFrom(r.Context()).Session; s.CSRF == "" {
			s = s.Renewed()
			if err := p.keeper.Save(w, s); err != nil {
				return err
			}
			r = with(r, Visitor{s})
		}
		return next(w, r)
	}
}

// Post checks that the form was sent from a page of this site, in this session.
func (p *Party) Post(next Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := p.keeper.CheckPost(r, VisitorFrom(r.Context()).Session); err != nil {
			return err
		}
		return next(w, r)
	}
}

// PostByUser is Post for signed-in visitors.
func (p *Party) PostByUser(next Handler) Handler { return p.User(p.Post(next)) }

// User serves signed-in visitors, with their principal in the context: calls to services are made in
// their name. Others are sent to sign in. Tokens are renewed here.
func (p *Party) User(next Handler) Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Cache-Control", "no-store") // it is somebody's
		s := VisitorFrom(r.Context()).Session
		if !s.SignedIn() {
			return p.askToSignIn(w, r)
		}
		who, s, err := p.principal(w, r, s)
		switch {
		case errors.Is(err, errSignedOut), errors.Is(err, authn.ErrUnauthenticated):
			p.keeper.Clear(w)
			return p.askToSignIn(w, r)
		case err != nil:
			return err
		}
		r = with(r, Visitor{s})
		return next(w, r.WithContext(authn.WithPrincipal(r.Context(), who)))
	}
}

// principal returns whom the session's access token names, renewed where it is due.
func (p *Party) principal(w http.ResponseWriter, r *http.Request, s session.Session) (authn.Principal, session.Session, error) {
	if p.now().Add(renewBefore).After(s.AccessUntil) {
		next, err := p.renew(r.Context(), s)
		if err != nil {
			return authn.Principal{}, s, err
		}
		if err := p.keeper.Save(w, next); err != nil {
			return authn.Principal{}, s, err
		}
		s = next
	}
	who, err := p.verifier.Verify(r.Context(), s.Access)
	return who, s, err
}

var errSignIn = problem.New(http.StatusUnauthorized, "signed_out", "Please sign in to see this.")

// askToSignIn sends a browser that wants a page to the sign-in. A form gets a page that says so instead:
// browsers do not let a form be redirected to another site, which the issuer may be.
func (p *Party) askToSignIn(w http.ResponseWriter, r *http.Request) error {
	if (r.Method != http.MethodGet && r.Method != http.MethodHead) || r.Header.Get("Accept") == "text/event-stream" {
		return errSignIn
	}
	http.Redirect(w, r, "/auth/login?next="+url.QueryEscape(session.LocalPath(r.URL.RequestURI(), "/")), http.StatusSeeOther)
	return nil
}
