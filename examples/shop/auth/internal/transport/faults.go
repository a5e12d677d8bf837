package transport

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/zitadel/oidc/v3/pkg/oidc"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

// The library answers invalid_grant whenever it gets no grant out of the storage,
// and puts the error's text into the answer. With the database down, clients would
// throw their refresh tokens away, and strangers read about our tables. So a fault
// of ours is noted in the request's context, and answered as what it is.

type faultKey struct{}

type fault struct{ err error }

// noteFault notes err where it is ours and not the caller's, and returns it.
func noteFault(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, domain.ErrNotFound) || errors.Is(err, domain.ErrCredentials) {
		return err
	}
	if _, ok := errors.AsType[*oidc.Error](err); ok {
		return err
	}
	if f, ok := ctx.Value(faultKey{}).(*fault); ok {
		f.err = err
	}
	return err
}

func withFaults(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f := &fault{}
		ctx := context.WithValue(r.Context(), faultKey{}, f)
		next.ServeHTTP(&faultWriter{ResponseWriter: w, fault: f}, r.WithContext(ctx))
		if f.err != nil {
			log.ErrorContext(ctx, "the identity provider could not answer", "path", r.URL.Path, "error", f.err)
		}
	})
}

// faultWriter replaces the answer to a request that met a fault.
type faultWriter struct {
	http.ResponseWriter
	fault    *fault
	answered bool
	replaced bool
}

func (w *faultWriter) WriteHeader(code int) {
	if w.answered {
		return
	}
	w.answered = true
	if w.fault.err == nil {
		w.ResponseWriter.WriteHeader(code)
		return
	}
	w.replaced = true
	h := w.Header()
	h.Del("Location")
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Retry-After", "1")
	w.ResponseWriter.WriteHeader(http.StatusServiceUnavailable)
	_, _ = w.ResponseWriter.Write([]byte(`{"error":"temporarily_unavailable"}`)) // the reader may be gone
}

func (w *faultWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.replaced {
		return len(b), nil
	}
	return w.ResponseWriter.Write(b)
}
