package page

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/web/internal/session"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Fault is the data of the page "fault".
type Fault struct {
	Status        int
	Title, Detail string
	// Retry is where to try again, empty where that is of no use.
	Retry string
	// SignIn is where to sign in, where that is what is missing.
	SignIn string
	// Request names the request in the log, for whoever asks for help.
	Request string
}

// fault answers with err as a page, or as problem+json where the client asks for no page.
func (s *Site) fault(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		return // the visitor has gone away
	}
	p := kit.Problem(err)
	level := slog.LevelDebug
	if p.Status >= http.StatusInternalServerError {
		level = slog.LevelWarn
	}
	s.log.Log(r.Context(), level, "a page could not be shown", "path", r.URL.Path, "status", p.Status, "error", err)
	if !wantsPage(r) {
		kit.WriteError(w, r, err)
		return
	}
	f := faultOf(p)
	if r.Method == http.MethodGet && f.Retry != "" {
		f.Retry = r.URL.RequestURI()
	} else {
		f.Retry = ""
	}
	if f.Status == http.StatusUnauthorized {
		f.SignIn = "/auth/login?next=" + url.QueryEscape(session.CameFrom(r, "/"))
	}
	f.Request = correlation.From(r.Context()).RequestID
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
	}
	w.Header().Set("Cache-Control", "no-store")
	if err := s.Render(w, r, f.Status, "fault", f); err != nil {
		s.log.ErrorContext(r.Context(), "the error page could not be shown", "error", err)
		kit.WriteError(w, r, err)
	}
}

func wantsPage(r *http.Request) bool {
	accept := r.Header.Get("Accept")
	return strings.Contains(accept, "text/html") || (r.Method != http.MethodGet && accept == "")
}

// faultOf says a problem in a person's words.
func faultOf(p *problem.Problem) Fault {
	f := Fault{Status: p.Status}
	switch p.Status {
	case http.StatusNotFound:
		f.Title, f.Detail = "We could not find that", "The page does not exist, or is not yours to see."
	case http.StatusUnauthorized:
		f.Title, f.Detail = "Please sign in", "Your sign-in is over, and what you sent was not taken. Sign in and send it again."
	case http.StatusForbidden:
		f.Title, f.Detail = "That is not allowed", Sentence(p.Detail)
	case http.StatusTooManyRequests:
		f.Title, f.Detail, f.Retry = "A little slower, please", "There were too many requests from you at once. Wait a few seconds.", "yes"
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusBadGateway:
		f.Title, f.Retry = "This part is taking a break", "yes"
		f.Detail = "It does not answer just now. Nothing is lost; try again in a moment."
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusPreconditionFailed, http.StatusMethodNotAllowed, http.StatusRequestEntityTooLarge:
		f.Title, f.Detail = "That did not work", Explain(p)
	default:
		f.Title, f.Detail, f.Retry = "Something went wrong on our side", "We have written it down. You can try again.", "yes"
		if f.Status < 400 || f.Status > 599 {
			f.Status = http.StatusInternalServerError
		}
	}
	return f
}

// Explain is what a problem says to a person: its own words, else those of its first field.
func Explain(p *problem.Problem) string {
	if len(p.Fields) > 0 {
		f := p.Fields[0]
		return Sentence(strings.ReplaceAll(f.Field, "_", " ") + " " + f.Message)
	}
	if p.Detail == "" {
		return "The request was refused."
	}
	return Sentence(p.Detail)
}

// FieldErrors are a problem's fields, as a form shows them.
func FieldErrors(p *problem.Problem) map[string]string {
	out := map[string]string{}
	for _, f := range p.Fields {
		out[f.Field] = Sentence(f.Message)
	}
	return out
}

// Refused reports whether err is the caller's to mend, and the form with it; others are faults.
func Refused(err error) (*problem.Problem, bool) {
	if err == nil {
		return nil, false
	}
	p := kit.Problem(err)
	switch p.Status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusPreconditionFailed:
		return p, true
	}
	return p, false
}

// Missing reports whether err says that something is not there.
func Missing(err error) (*problem.Problem, bool) {
	if err == nil {
		return nil, false
	}
	p := kit.Problem(err)
	return p, p.Status == http.StatusNotFound
}

// Sentence makes a sentence of a service's words: it begins with a capital and ends with a full stop.
func Sentence(s string) string {
	if s == "" {
		return s
	}
	s = strings.ToUpper(s[:1]) + s[1:]
	if last := s[len(s)-1]; last != '.' && last != '!' && last != '?' {
		s += "."
	}
	return s
}
