package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"
)

// Problem is one RFC 9457 problem. Its exported fields are meant for the caller
// who sent the request: put nothing in them that this caller must not read.
// A Problem is not changed once returned, and then safe for concurrent use.
type Problem struct {
	// Type is a URI naming the kind of problem. Defaults to "about:blank".
	Type string
	// Title is a short summary that is the same for every problem of the Type.
	// Defaults to the text of Status.
	Title string
	// Status is the HTTP status, 400 to 599. Anything else is rendered as 500.
	Status int
	// Detail explains this occurrence to a person.
	Detail string
	// Instance is a URI reference naming this occurrence. Write fills in the
	// request's path where it is empty.
	Instance string
	// Code is a stable lower_snake_case name for programs to switch on.
	Code string
	// Fields are the parts of the request that do not hold, rendered as "errors".
	Fields []Field
	// RetryAfter says when to try again; rendered as the Retry-After header in
	// whole seconds, rounded up. Zero leaves it out.
	RetryAfter time.Duration
	// Extensions are further members of the JSON object. Names of the standard
	// members are ignored.
	Extensions map[string]string

	cause error
}

// Field is one violation.
type Field struct {
	// Field is the path as the caller spells it, such as "items[0].quantity".
	Field string `json:"field"`
	// Message says what is wrong, for a person.
	Message string `json:"message"`
	// Rule is the stable name of the broken rule, such as "string.email"; may be empty.
	Rule string `json:"rule,omitempty"`
}

// New returns a problem with the given HTTP status, code and detail.
func New(status int, code, detail string) *Problem {
	return &Problem{Status: status, Code: code, Detail: detail}
}

// Invalid returns a 400 problem with code "invalid_argument" that lists fields.
func Invalid(fields ...Field) *Problem {
	p := New(http.StatusBadRequest, "invalid_argument", "the request is not valid")
	if len(fields) == 1 {
		p.Detail = fields[0].Field + ": " + fields[0].Message
	}
	p.Fields = fields
	return p
}

// Because returns a copy of p with cause attached, for logs and errors.Is. The
// cause is never rendered.
func (p *Problem) Because(cause error) *Problem {
	q := *p
	q.cause = cause
	return &q
}

// Error describes p for an operator, the cause included.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.title()
	}
	if p.Code != "" {
		text = p.Code + ": " + text
	}
	if p.cause != nil {
		text = fmt.Sprintf("%s: %v", text, p.cause)
	}
	return text
}

// Unwrap returns the cause given to [Problem.Because], or nil.
func (p *Problem) Unwrap() error { return p.cause }

func (p *Problem) status() int {
	if p.Status < 400 || p.Status > 599 {
		return http.StatusInternalServerError
	}
	return p.Status
}

func (p *Problem) title() string {
	if p.Title != "" {
		return p.Title
	}
	if t := http.StatusText(p.status()); t != "" {
		return t
	}
	return "Error"
}

// StatusClientClosedRequest is the status recorded when the caller went away
// before the answer was ready (nginx's 499); nobody is there to read it.
const StatusClientClosedRequest = 499

// Of returns the Problem that err stands for, never nil:
//
//   - a *Problem in err's chain, as it is;
//   - *http.MaxBytesError: 413 "body_too_large";
//   - context.DeadlineExceeded: 504 "deadline_exceeded";
//   - context.Canceled: 499 "canceled";
//   - anything else: 500 "internal", with err as its cause and nothing of err in its text.
func Of(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok && p != nil {
		return p
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return New(http.StatusRequestEntityTooLarge, "body_too_large",
			fmt.Sprintf("the request body is larger than %d bytes", tooLarge.Limit)).Because(err)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return New(http.StatusGatewayTimeout, "deadline_exceeded", "the request could not be answered in time").Because(err)
	case errors.Is(err, context.Canceled):
		return New(StatusClientClosedRequest, "canceled", "the request was cancelled").Because(err)
	}
	return New(http.StatusInternalServerError, "internal", "something went wrong on our side").Because(err)
}

// ContentType is the media type of a rendered problem.
const ContentType = "application/problem+json"

// MarshalJSON renders p as an RFC 9457 object.
func (p *Problem) MarshalJSON() ([]byte, error) {
	m := make(map[string]any, 7+len(p.Extensions))
	for name, v := range p.Extensions {
		m[name] = v
	}
	m["type"] = "about:blank"
	if p.Type != "" {
		m["type"] = p.Type
	}
	m["title"], m["status"] = p.title(), p.status()
	set := func(name, v string) {
		delete(m, name)
		if v != "" {
			m[name] = v
		}
	}
	set("detail", p.Detail)
	set("instance", p.Instance)
	set("code", p.Code)
	delete(m, "errors")
	if len(p.Fields) > 0 {
		m["errors"] = p.Fields
	}
	return json.Marshal(m)
}

// UnmarshalJSON reads an RFC 9457 object, as a client does. Members of unexpected
// types are ignored, as the RFC asks; only malformed JSON is an error.
func (p *Problem) UnmarshalJSON(data []byte) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("problem: malformed problem document: %w", err)
	}
	*p = Problem{}
	take := func(name string, into any) {
		_ = json.Unmarshal(m[name], into) // a member of an unexpected type counts as absent (RFC 9457, 3.1)
		delete(m, name)
	}
	take("type", &p.Type)
	take("title", &p.Title)
	take("status", &p.Status)
	take("detail", &p.Detail)
	take("instance", &p.Instance)
	take("code", &p.Code)
	take("errors", &p.Fields)
	for name, raw := range m {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			if p.Extensions == nil {
				p.Extensions = make(map[string]string)
			}
			p.Extensions[name] = s
		}
	}
	return nil
}

type observerKey struct{}

// Observe returns a context whose request's error is told to observe when [Write] answers it, with the
// cause that the answer keeps to itself: for a server's log. observe is called on the handler's goroutine.
func Observe(ctx context.Context, observe func(err error)) context.Context {
	return context.WithValue(ctx, observerKey{}, observe)
}

// Write renders err, as [Of] reads it, to w. It sets Content-Type, Retry-After
// where known, and Cache-Control: no-store, since an error must not be cached for
// the next caller; it drops a Content-Length, ETag or Content-Encoding set for the
// body that was meant to be sent. r may be nil.
func Write(w http.ResponseWriter, r *http.Request, err error) {
	if r != nil {
		if observe, ok := r.Context().Value(observerKey{}).(func(error)); ok {
			observe(err)
		}
	}
	p := *Of(err)
	if p.Instance == "" && r != nil && r.URL != nil {
		p.Instance = r.URL.EscapedPath()
	}
	body, mErr := json.Marshal(&p)
	if mErr != nil { // strings, numbers and slices of them always marshal
		body = []byte(`{"type":"about:blank","title":"Internal Server Error","status":500}`)
	}
	h := w.Header()
	for _, name := range []string{"Content-Length", "Content-Encoding", "Etag", "Last-Modified"} {
		h.Del(name)
	}
	h.Set("Content-Type", ContentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if p.RetryAfter > 0 {
		h.Set("Retry-After", fmt.Sprint(int64(math.Ceil(p.RetryAfter.Seconds()))))
	}
	w.WriteHeader(p.status())
	if r == nil || r.Method != http.MethodHead {
		w.Write(append(body, '\n')) //nolint:errcheck // the caller is gone; nobody is left to tell
	}
}
