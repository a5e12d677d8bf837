package console

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
)

const (
	maxForm = 64 << 10
	// deadline bounds the making of a page, with all calls that it takes.
	deadline = 10 * time.Second
	// drain bounds finishing what is being served at the end.
	drain = 10 * time.Second
)

// guarded stands in front of every page, as the chassis stands in front of the storefront's: a trace, the
// identifiers that correlate what a request causes, a deadline, a bound on what is sent, and an answer even
// to a panic.
func guarded(svc *kit.Service, next http.Handler) http.Handler {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), deadline)
		defer cancel()
		ctx, ids := correlation.Ensure(ctx)
		w.Header().Set(correlation.RequestIDHeader, ids.RequestID)
		r = r.WithContext(ctx)
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		defer func() {
			p := recover()
			switch p {
			case nil:
			case http.ErrAbortHandler: // net/http's own way to end a request
				panic(p)
			default:
				svc.Logger().ErrorContext(ctx, "console handler panicked", "path", r.URL.Path, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				kit.WriteError(w, r, errors.New("a handler panicked"))
			}
		}()
		next.ServeHTTP(w, r)
	})
	tel := svc.Telemetry()
	return otelhttp.NewHandler(h, "console",
		otelhttp.WithTracerProvider(tel.TracerProvider()), otelhttp.WithMeterProvider(tel.MeterProvider()), otelhttp.WithPropagators(tel.Propagator()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string { return "console " + r.Method }))
}

// Serve serves h on l, which it closes, until ctx ends; then it finishes what is in flight, for ten seconds
// at most. It returns nil after an orderly stop. It suits kit.Service.Go.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      deadline + 15*time.Second, // the console streams nothing
		IdleTimeout:       90 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // what clients do wrong
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("console: %w", err)
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	err := srv.Shutdown(end)
	if err != nil {
		err = fmt.Errorf("console: requests were cut off: %w", errors.Join(err, srv.Close()))
	}
	if serveErr := <-ended; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("console: %w", serveErr))
	}
	return err
}
