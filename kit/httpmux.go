package kit

import (
	"net/http"

	"github.com/napkin-kit/napkin/kit/problem"
)

// muxProblems serves by mux, whose own 404 and 405 become problems. Answers of
// handlers are left alone: httpFront has noted the pattern of a request that has one.
func muxProblems(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if route, ok := r.Context().Value(routeKey{}).(*string); ok && *route == "" {
			w = &muxAnswer{ResponseWriter: w, r: r}
		}
		mux.ServeHTTP(w, r)
	})
}

// muxAnswer is the writer of a request without a handler.
type muxAnswer struct {
	http.ResponseWriter
	r        *http.Request
	replaced bool
}

func (a *muxAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *muxAnswer) WriteHeader(code int) {
	switch code {
	case http.StatusNotFound:
		a.replace(problem.New(code, "not_found", "there is nothing at this path"))
	case http.StatusMethodNotAllowed: // the mux has set Allow
		a.replace(problem.New(code, "method_not_allowed", "this path does not take the method "+a.r.Method))
	default:
		a.ResponseWriter.WriteHeader(code)
	}
}

func (a *muxAnswer) replace(p *problem.Problem) {
	a.replaced = true
	problem.Write(a.ResponseWriter, a.r, p)
}

func (a *muxAnswer) Write(b []byte) (int, error) {
	if a.replaced {
		return len(b), nil
	}
	return a.ResponseWriter.Write(b)
}
