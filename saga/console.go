package saga

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"embed"
	"errors"
	"html/template"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed console
var consoleFiles embed.FS

var consolePages = template.Must(template.ParseFS(consoleFiles, "console/console.tmpl"))

const csrfCookie = "napkin_saga_csrf"

// consolePage is how many instances one page lists.
const consolePage = 50

// Console returns pages for an operator: the list of instances with filters and
// counts, the timeline of one, and the acts on stuck ones. It shows neither
// states nor payloads, which may hold personal data.
//
// authorize decides on each request who the operator is. Where it returns false
// it has answered the request itself. Acts are kept in the history under the
// operator's name; beside authorize they need a CSRF token and an Origin that is
// the page's own host.
//
// All links are relative: mount it under any path that ends with a slash, with
// or without http.StripPrefix.
func (c *Coordinator) Console(authorize func(w http.ResponseWriter, r *http.Request) (operator string, ok bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		operator, ok := authorize(w, r)
		if !ok {
			return
		}
		v := &console{c: c, w: w, r: r, operator: operator}
		base := path.Base(r.URL.Path)
		if r.Method == http.MethodPost {
			if base != "act" {
				v.message(http.StatusMethodNotAllowed, "Nothing to do here.", "./")
				return
			}
			v.act()
			return
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD, POST")
			v.message(http.StatusMethodNotAllowed, "The method is not allowed.", "./")
			return
		}
		switch {
		case base == "style.css":
			http.ServeFileFS(w, r, consoleFiles, "console/style.css")
		case base == "instance":
			v.instance()
		case r.URL.Path == "" || !strings.HasSuffix(r.URL.Path, "/"):
			// Relative links need the slash; the address as it was asked for is in
			// RequestURI, whatever prefix was stripped.
			asked, _, _ := strings.Cut(r.RequestURI, "?")
			h.Set("Location", path.Base(asked)+"/")
			w.WriteHeader(http.StatusSeeOther)
		default:
			v.list()
		}
	})
}

// console is one request.
type console struct {
	c        *Coordinator
	w        http.ResponseWriter
	r        *http.Request
	operator string
}

type consoleHead struct{ Title, Operator string }

func (v *console) render(status int, page string, data any) {
	var b bytes.Buffer
	if err := consolePages.ExecuteTemplate(&b, page, data); err != nil {
		v.c.cfg.Logger.ErrorContext(v.r.Context(), "saga: console", "page", page, "error", err)
		http.Error(v.w, "The page could not be made; the log has the reason.", http.StatusInternalServerError)
		return
	}
	v.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	v.w.WriteHeader(status)
	_, _ = v.w.Write(b.Bytes()) // the browser has gone
}

func (v *console) message(status int, text, back string) {
	v.render(status, "message", struct {
		consoleHead
		Message, Back string
	}{consoleHead{"Sagas", v.operator}, text, back})
}

// failed shows that the database could not be asked.
func (v *console) failed(err error) {
	v.c.cfg.Logger.ErrorContext(v.r.Context(), "saga: console", "error", err)
	v.message(http.StatusServiceUnavailable, "The database could not be asked; the log has the reason.", "./")
}

type consoleCount struct {
	Status Status
	N      int
}

type consoleList struct {
	consoleHead
	Status     Status
	Name       string
	Names      []string
	Counts     []consoleCount
	Rows       []consoleRow
	Older      bool
	OlderQuery template.URL
}

type consoleRow struct {
	ID, Name     string
	Version      int
	Status       Status
	At           string
	Age, Changed string
	Updated      string
}

// Query is the list's address for another state.
func (l consoleList) Query(status Status) template.URL {
	q := url.Values{}
	if status != "" {
		q.Set("status", string(status))
	}
	if l.Name != "" {
		q.Set("name", l.Name)
	}
	return template.URL(q.Encode()) //nolint:gosec // encoded above
}

func (v *console) list() {
	q := v.r.URL.Query()
	if id := strings.TrimSpace(q.Get("id")); id != "" {
		v.w.Header().Set("Location", "instance?id="+url.QueryEscape(id))
		v.w.WriteHeader(http.StatusSeeOther)
		return
	}
	page := consoleList{consoleHead: consoleHead{"Sagas", v.operator}, Name: q.Get("name")}
	if s := Status(q.Get("status")); slices.Contains(Statuses(), s) {
		page.Status = s
	}
	f := Filter{Status: page.Status, Name: page.Name, Limit: consolePage + 1}
	if us, err := strconv.ParseInt(q.Get("before"), 10, 64); err == nil {
		f.Before = time.UnixMicro(us)
	}
	counts, err := v.c.Counts(v.r.Context())
	if err != nil {
		v.failed(err)
		return
	}
	for _, s := range Statuses() {
		page.Counts = append(page.Counts, consoleCount{s, counts[s]})
	}
	found, err := v.c.List(v.r.Context(), f)
	if err != nil {
		v.failed(err)
		return
	}
	if page.Older = len(found) > consolePage; page.Older {
		found = found[:consolePage]
		page.OlderQuery = page.Query(page.Status) + "&before=" + template.URL(strconv.FormatInt(found[consolePage-1].CreatedAt.UnixMicro(), 10)) //nolint:gosec // digits
	}
	now := v.c.now()
	for _, in := range found {
		page.Rows = append(page.Rows, consoleRow{
			ID: in.ID, Name: in.Name, Version: in.Version, Status: in.Status, At: v.c.position(in),
			Age: rough(now.Sub(in.CreatedAt)), Changed: rough(now.Sub(in.UpdatedAt)), Updated: stamp(in.UpdatedAt),
		})
	}
	for _, r := range v.c.refs() {
		page.Names = append(page.Names, r.Name)
	}
	slices.Sort(page.Names)
	page.Names = slices.Compact(page.Names)
	v.render(http.StatusOK, "list", page)
}

// position names the steps that an instance is at.
func (c *Coordinator) position(in *Instance) string {
	if in.Status == StatusStuck {
		return in.StuckStep
	}
	var at []string
	for name, r := range in.Steps {
		if r.Running || r.Status == StepUndoing || (r.Status == StepAttempted && in.Status == StatusRunning) {
			at = append(at, name)
		}
	}
	slices.Sort(at)
	return strings.Join(at, ", ")
}

// act does what an operator asked for.
func (v *console) act() {
	v.r.Body = http.MaxBytesReader(v.w, v.r.Body, 16<<10)
	if err := v.r.ParseForm(); err != nil {
		v.message(http.StatusBadRequest, "The form could not be read.", "./")
		return
	}
	id := v.r.PostFormValue("id")
	back := "instance?id=" + url.QueryEscape(id)
	if !v.sameOrigin() || !v.csrfValid() {
		v.message(http.StatusForbidden, "The request did not come from this console. Load the page again.", back)
		return
	}
	reason := strings.TrimSpace(v.r.PostFormValue("reason"))
	if reason == "" || len(reason) > 500 {
		v.message(http.StatusBadRequest, "Give a reason of up to 500 characters.", back)
		return
	}
	var err error
	switch v.r.PostFormValue("act") {
	case "retry":
		err = v.c.Retry(v.r.Context(), id, v.operator, reason)
	case "skip":
		err = v.c.Skip(v.r.Context(), id, v.operator, reason)
	case "compensate":
		err = v.c.Compensate(v.r.Context(), id, v.operator, reason)
	default:
		v.message(http.StatusBadRequest, "There is no such act.", back)
		return
	}
	switch {
	case errors.Is(err, ErrNotFound):
		v.message(http.StatusNotFound, "There is no saga of this id.", "./")
	case errors.Is(err, ErrNotStuck), errors.Is(err, ErrPastPivot), errors.Is(err, ErrNotServed), errors.Is(err, ErrConflict):
		v.message(http.StatusConflict, "Not done: "+err.Error(), back)
	case err != nil:
		v.failed(err)
	default:
		v.w.Header().Set("Location", back+"&acted="+url.QueryEscape(v.r.PostFormValue("act")))
		v.w.WriteHeader(http.StatusSeeOther)
	}
}

// sameOrigin wants an Origin of the page's own host; browsers send one with
// every POST.
func (v *console) sameOrigin() bool {
	if err := http.NewCrossOriginProtection().Check(v.r); err != nil {
		return false
	}
	origin, err := url.Parse(v.r.Header.Get("Origin"))
	return err == nil && origin.Host != "" && strings.EqualFold(origin.Host, v.r.Host)
}

// csrfValid compares the form's token with the cookie's (double submit), which
// holds across replicas without a shared secret.
func (v *console) csrfValid() bool {
	cookie, err := v.r.Cookie(csrfCookie)
	return err == nil && len(cookie.Value) >= 26 &&
		subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(v.r.PostFormValue("csrf"))) == 1
}

// csrf returns the token for a form, setting the cookie where there is none.
func (v *console) csrf() string {
	if cookie, err := v.r.Cookie(csrfCookie); err == nil && len(cookie.Value) >= 26 {
		return cookie.Value
	}
	token := rand.Text()
	http.SetCookie(v.w, &http.Cookie{
		Name: csrfCookie, Value: token, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: v.r.TLS != nil,
	})
	return token
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// rough shows a duration to two digits, for people.
func rough(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return d.Round(time.Second).String()
	default:
		return strconv.Itoa(int(d/(24*time.Hour))) + " days"
	}
}
