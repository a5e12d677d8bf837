package gateway

import (
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/napkin-kit/napkin/examples/shop/api/openapi"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
)

// plain refuses requests that no method of ours can mean, and takes off what is not a client's to say.
func plain(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p := unsupported(r); p != nil {
			kit.WriteError(w, r, p)
			return
		}
		if p := unspeakable(r); p != nil {
			kit.WriteError(w, r, p)
			return
		}
		// grpc-gateway takes a call's deadline from it. Calls cut short count as failures of the service
		// that was called, and enough of them open its breaker for everyone.
		r.Header.Del("Grpc-Timeout")
		next.ServeHTTP(w, r)
	})
}

// unsupported finds a body that is not JSON in UTF-8 as it stands.
func unsupported(r *http.Request) *problem.Problem {
	if r.ContentLength == 0 {
		return nil
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset, given := params["charset"]
	if err != nil || kind != "application/json" || (given && !strings.EqualFold(charset, "utf-8")) {
		return problem.New(http.StatusUnsupportedMediaType, "unsupported_media_type", "send the body as application/json")
	}
	for _, coding := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(coding, "identity") {
			return problem.New(http.StatusUnsupportedMediaType, "unsupported_content_encoding", "send the body as it is, without Content-Encoding")
		}
	}
	return nil
}

// unspeakable finds what gRPC could not carry on: it takes text in UTF-8 and header values in visible ASCII.
func unspeakable(r *http.Request) *problem.Problem {
	if !utf8.ValidString(r.URL.Path) {
		return problem.New(http.StatusBadRequest, "bad_request", "the path is not UTF-8")
	}
	for key, values := range r.URL.Query() {
		for _, v := range append(values, key) {
			if !utf8.ValidString(v) {
				return problem.Invalid(problem.Field{Field: strings.ToValidUTF8(key, "?"), Message: "is not UTF-8"})
			}
		}
	}
	for _, c := range []byte(r.Header.Get("Idempotency-Key")) {
		if c < ' ' || c > '~' {
			return problem.Invalid(problem.Field{Field: "Idempotency-Key", Message: "takes visible ASCII characters only"})
		}
	}
	return nil
}

// headAsGet lets HEAD ask for whatever GET answers (RFC 9110 section 9.3.2): the contracts have no HEAD, and
// net/http sends no body to it.
func headAsGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead {
			r = r.Clone(r.Context())
			r.Method = http.MethodGet
		}
		next.ServeHTTP(w, r)
	})
}

// allowed says which methods a path of the API takes, by its OpenAPI document: an answer 405 has to tell.
type allowed struct {
	paths   *http.ServeMux
	methods map[string]string // of a pattern
}

func newAllowed() (*allowed, error) {
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(openapi.Document, &doc); err != nil {
		return nil, err
	}
	a := &allowed{paths: http.NewServeMux(), methods: map[string]string{}}
	for path, operations := range doc.Paths {
		var methods []string
		for method := range operations {
			methods = append(methods, strings.ToUpper(method))
		}
		if slices.Contains(methods, http.MethodGet) {
			methods = append(methods, http.MethodHead)
		}
		slices.Sort(methods)
		a.paths.Handle(path, http.NotFoundHandler())
		a.methods[path] = strings.Join(methods, ", ")
	}
	return a, nil
}

func (a *allowed) of(r *http.Request) string {
	_, pattern := a.paths.Handler(r)
	return a.methods[pattern]
}
