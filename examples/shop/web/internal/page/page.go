// Package page renders a site's pages: templates, assets, the headers that keep a page to itself, and
// errors as pages that a person can read.
package page

import (
	"bytes"
	"fmt"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"path"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/signin"
)

// View is what a template is given.
type View struct {
	// Path is the page's own, for the navigation's current entry and for going back after signing in.
	Path string
	// Visitor is who looks at it.
	Visitor session.Session
	// Data is the page's.
	Data any
}

// Config is what a Site is made from.
type Config struct {
	// Templates holds base.html, which defines "base", and a file per page that fills its blocks in.
	Templates fs.FS
	// Identify says who a request comes from, for signin.VisitorFrom.
	Identify func(*http.Request) *http.Request
	Logger   *slog.Logger
}

// Site renders the pages of one site. It is safe for concurrent use.
type Site struct {
	pages    map[string]*template.Template
	identify func(*http.Request) *http.Request
	log      *slog.Logger
}

// New parses the templates.
func New(cfg Config) (*Site, error) {
	base, err := template.New("base").Funcs(functions).ParseFS(cfg.Templates, "base.html")
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	files, err := fs.Glob(cfg.Templates, "*.html")
	if err != nil {
		return nil, fmt.Errorf("page: %w", err)
	}
	s := &Site{pages: map[string]*template.Template{}, identify: cfg.Identify, log: cfg.Logger}
	for _, f := range files {
		if f == "base.html" {
			continue
		}
		t, err := template.Must(base.Clone()).ParseFS(cfg.Templates, f)
		if err != nil {
			return nil, fmt.Errorf("page: %w", err)
		}
		s.pages[strings.TrimSuffix(path.Base(f), ".html")] = t
	}
	if s.pages["fault"] == nil {
		return nil, fmt.Errorf("page: there is no template fault.html")
	}
	return s, nil
}

// Render answers with a page.
func (s *Site) Render(w http.ResponseWriter, r *http.Request, status int, name string, data any) error {
	t := s.pages[name]
	if t == nil {
		return fmt.Errorf("page: there is no page %q", name)
	}
	var out bytes.Buffer // a template that fails half-way must not have begun an answer
	v := View{Path: r.URL.RequestURI(), Visitor: signin.VisitorFrom(r.Context()).Session, Data: data}
	if err := t.ExecuteTemplate(&out, "base", v); err != nil {
		return fmt.Errorf("page: %s: %w", name, err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "private, no-cache")
	}
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes()) // a reader that has gone away needs no page
	return nil
}

// Fragment renders one template of a page, for pages that change in place.
func (s *Site) Fragment(name, block string, data any) (string, error) {
	t := s.pages[name]
	if t == nil {
		return "", fmt.Errorf("page: there is no page %q", name)
	}
	var out strings.Builder
	if err := t.ExecuteTemplate(&out, block, data); err != nil {
		return "", fmt.Errorf("page: %s: %w", name, err)
	}
	return out.String(), nil
}

// Handler makes an http.Handler of h: with the headers, and with what h returns shown as a page.
func (s *Site) Handler(h signin.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		guard(w.Header())
		r = s.identify(r)
		if err := h(w, r); err != nil {
			s.fault(w, r, err)
		}
	})
}

const csp = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"base-uri 'none'; frame-ancestors 'none'"

// guard sets the headers that keep a page to itself: nothing inline, nothing from elsewhere, in nobody's
// frame. Referrer-Policy is not "no-referrer": under that, browsers send forms with the origin "null".
func guard(h http.Header) {
	h.Set("Content-Security-Policy", csp)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
}
