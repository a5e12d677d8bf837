package kit

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/authn"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/problem"
)

// stall bounds each single write of an answer: a client that stands still for this long
// is cut off, one that keeps going may take its time.
const stall = 30 * time.Second

// httpChain puts the guards of the package documentation around the mux. What belongs
// to one gRPC message (validation, idempotency) belongs to a handler here.
func (s *Service) httpChain(mux *http.ServeMux) http.Handler {
	h := muxProblems(mux)
	h = s.httpLoad(h)
	h = s.httpUser(h)
	h = s.httpFront(h, mux)
	return otelhttp.NewHandler(h, s.cfg.Name,
		otelhttp.WithTracerProvider(s.tel.TracerProvider()),
		otelhttp.WithMeterProvider(s.tel.MeterProvider()),
		otelhttp.WithPropagators(s.tel.Propagator()),
		otelhttp.WithSpanNameFormatter(func(_ string, r *http.Request) string {
			return spanName(r.Method, r.Pattern) // the pattern is known once the request was served
		}),
	)
}

// admitsHTTP is the TLS authorizer of the HTTP listener: those who are named, nobody else.
func (s *Service) admitsHTTP() tlsconfig.Authorizer {
	return tlsconfig.AuthorizeOneOf(s.cfg.HTTPCallers...)
}

// httpFront: recover, correlation, in-flight ceiling, body limit, and the line in the log.
func (s *Service) httpFront(next http.Handler, mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		ctx := context.WithValue(r.Context(), drainKey{}, s.draining)
		ctx, ids := correlation.Ensure(correlation.With(ctx, correlation.IDs{
			RequestID:     r.Header.Get(correlation.RequestIDHeader),
			CorrelationID: r.Header.Get(correlation.CorrelationIDHeader),
		}))
		markSpan(ctx, ids)
		outer := r
		route := new(string)
		var cause error
		r = r.WithContext(problem.Observe(context.WithValue(ctx, routeKey{}, route), func(err error) { cause = err }))
		if _, pattern := mux.Handler(r); pattern != "" {
			SetRoute(r.Context(), pattern)
		}
		defer func() {
			outer.Pattern = *route // for the span's name and the metrics
			if span := trace.SpanFromContext(ctx); *route != "" && span.IsRecording() {
				span.SetAttributes(attribute.String("http.route", routeOf(*route)))
			}
		}()
		rec := &recorder{ResponseWriter: w, control: http.NewResponseController(w), rolling: r.ProtoMajor == 1}
		rec.Header().Set(correlation.RequestIDHeader, ids.RequestID)
		rec.Header().Set(correlation.CorrelationIDHeader, ids.CorrelationID)
		if s.isDraining() && r.ProtoMajor == 1 {
			rec.Header().Set("Connection", "close") // the client's next request goes elsewhere
		}
		s.protected(rec, r, func() { //nolint:contextcheck // the request carries its context
			leave, err := s.enter()
			if err != nil {
				WriteError(rec, r, err)
				return
			}
			defer leave()
			if err := s.limitBody(rec, r); err != nil {
				WriteError(rec, r, err)
				return
			}
			if body, ok := r.Body.(*steadyBody); ok {
				defer body.linger()
			}
			next.ServeHTTP(rec, r)
		})
		s.logRequest(r, rec, *route, time.Since(start), cause)
	})
}

// protected answers 500 where serve panics before it has answered. http.ErrAbortHandler
// keeps its meaning; after the header is out, cutting the connection is the only honest
// answer left.
func (s *Service) protected(rec *recorder, r *http.Request, serve func()) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
			panic(p)
		}
		err := panicked(p)
		s.log.LogAttrs(r.Context(), slog.LevelError, "http handler panicked", slog.String("path", r.URL.Path), slog.Any("error", err))
		if rec.status != 0 {
			panic(http.ErrAbortHandler)
		}
		WriteError(rec, r, err)
	}()
	serve()
}

// limitBody refuses a body that is declared too large, and sees to it that no other one
// gets larger or is too slow.
func (s *Service) limitBody(rec *recorder, r *http.Request) error {
	limit := s.cfg.MaxRequestBytes
	raw := innermost(rec.ResponseWriter)
	if r.ContentLength > limit {
		if r.Header.Get("Expect") == "" {
			// One byte past a limit of none makes net/http linger after the answer;
			// closing at once would reset the connection of a client still sending.
			_ = rec.control.SetReadDeadline(time.Now().Add(time.Second))
			_, _ = http.MaxBytesReader(raw, r.Body, 0).Read(make([]byte, 1))
			_ = rec.control.SetReadDeadline(time.Time{})
		}
		return problem.Of(&http.MaxBytesError{Limit: limit})
	}
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	r.Body = &steadyBody{ReadCloser: http.MaxBytesReader(raw, r.Body, limit), control: rec.control}
	return nil
}

// innermost is net/http's own writer, whom MaxBytesReader has to tell.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = u.Unwrap()
	}
}

// recorder notes what was answered. On HTTP/1 each write gets a deadline of its own;
// HTTP/2 has the server's WriteByteTimeout for that.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	rolling bool
	status  int
	bytes   int64
}

// Unwrap lets http.ResponseController through to the connection.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(code int) {
	if w.status == 0 && code >= 200 {
		w.status = code
	}
	w.ResponseWriter.WriteHeader(code)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.beforeWrite()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// Flush implements http.Flusher, for server-sent events.
func (w *recorder) Flush() {
	w.beforeWrite()
	_ = w.control.Flush() // the next write reports what went wrong
}

func (w *recorder) beforeWrite() {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	if w.rolling {
		_ = w.control.SetWriteDeadline(time.Now().Add(stall))
	}
}

// httpUser verifies a bearer token where one is sent, and puts the caller into the
// context. Who needs a user or a scope asks with authn.RequireUser.
func (s *Service) httpUser(next http.Handler) http.Handler {
	known := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(withUser(r.Context())))
	})
	var verified http.Handler = known
	if s.cfg.Verifier != nil {
		verified = authn.Authenticate(s.cfg.Verifier, &authn.HTTPConfig{OnError: WriteError})(known)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if bearerSent(r) {
			verified.ServeHTTP(w, r)
			return
		}
		// Other schemes belong to the handler: OAuth's token endpoint takes Basic.
		if p, ok := workloadOf(r.TLS); ok {
			r = r.WithContext(authn.WithPrincipal(r.Context(), p))
		}
		known.ServeHTTP(w, r)
	})
}

func bearerSent(r *http.Request) bool {
	for _, v := range r.Header.Values("Authorization") {
		if scheme, _, _ := strings.Cut(v, " "); strings.EqualFold(scheme, "bearer") {
			return true
		}
	}
	return false
}

func workloadOf(state *tls.ConnectionState) (authn.Principal, bool) {
	if state == nil {
		return authn.Principal{}, false
	}
	id, err := authn.PeerID(*state)
	return authn.Principal{Workload: id}, err == nil
}

type routeKey struct{}

// SetRoute names the route of the request that ctx belongs to, in traces, metrics and
// the log, in place of the pattern that Service.HTTP matched: for a handler that routes
// by itself, as a gRPC gateway under "/" does. It takes a pattern ("GET /v1/orders/{id}"
// or "/v1/orders/{id}"), never a path: each one becomes a label. Call it before the
// handler returns, from the request's goroutine; elsewhere it does nothing.
func SetRoute(ctx context.Context, pattern string) {
	if route, ok := ctx.Value(routeKey{}).(*string); ok {
		*route = pattern
	}
}

// spanName is the method and the route, whether or not the pattern has a method.
func spanName(method, pattern string) string {
	if pattern == "" {
		return method
	}
	return method + " " + routeOf(pattern) // HEAD may be served by a GET pattern
}

// routeOf is a pattern without its method.
func routeOf(pattern string) string {
	if _, route, found := strings.Cut(pattern, " "); found {
		return route
	}
	return pattern
}

// logRequest writes the path without its query, which may hold codes and tokens, and of a request that
// failed on our side the cause, which the caller was not told.
func (s *Service) logRequest(r *http.Request, rec *recorder, pattern string, took time.Duration, cause error) {
	status := rec.status
	if status == 0 {
		status = http.StatusOK // net/http's answer to a handler that wrote nothing
	}
	level := slog.LevelInfo
	switch {
	case status == http.StatusInternalServerError:
		level = slog.LevelError
	case status > 500:
		level = slog.LevelWarn
	case s.cfg.NoAccessLog:
		return
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method), slog.String("path", r.URL.Path), slog.String("route", pattern),
		slog.String("status", strconv.Itoa(status)), slog.Int64("bytes", rec.bytes), slog.Duration("took", took),
	}
	if cause != nil && status >= http.StatusInternalServerError {
		attrs = append(attrs, slog.String("error", cause.Error()))
	}
	s.log.LogAttrs(r.Context(), level, "http request", attrs...)
}
