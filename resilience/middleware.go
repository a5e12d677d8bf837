package resilience

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/internal/httpstream"
	"github.com/napkin-kit/napkin/internal/lazyctx"
)

// MiddlewareConfig sets up [Middleware].
type MiddlewareConfig struct {
	// Shedder drops requests under overload. nil: none.
	Shedder *Shedder
	// Ceiling bounds the requests in flight, whatever their class. nil: none.
	Ceiling *Bulkhead
	// Limiter bounds the rate per key. nil: none.
	Limiter *KeyedLimiter
	// Key is whom a request counts for, for the Limiter; required with it. The
	// remote address alone is rarely right behind a proxy. An empty key is not
	// limited.
	Key func(*http.Request) string
	// Deadline is how long a request may take where the caller's context has no
	// deadline. Defaults to 0: no bound.
	Deadline time.Duration
	// TrustCriticality believes [HeaderCriticality] and [HeaderAttempt]. Leave it
	// false where the outside world calls.
	TrustCriticality bool
	// Reject writes the response of a refused request, whose status and
	// Retry-After header are given. Defaults to a line of plain text.
	Reject func(w http.ResponseWriter, r *http.Request, status int, err error)
	// Exempt says which requests are never shed, such as health checks. nil: none.
	Exempt func(*http.Request) bool
	// Hooks observe the refusals of Ceiling and Limiter, by Rejected under the name
	// that each was given. The Shedder has hooks of its own.
	Hooks *Hooks
}

// Middleware protects a handler: ceiling, rate limit, deadline, then shedding.
// Refusals are 503, or 429 for the rate limit, with Retry-After; limited
// requests carry the RateLimit and RateLimit-Policy headers.
//
// A request holds its place with the shedder until it is answered, and its latency
// is measured. An answer that is streamed (http.Flusher, http.ResponseController,
// http.Hijacker) gives the place back with the first flush and is not measured: how
// long a stream lives says nothing about load. A handler of server-sent events
// should therefore flush its header before it waits for the first event. Ceiling
// and Deadline hold for streams to their end.
func Middleware(cfg *MiddlewareConfig) (func(http.Handler) http.Handler, error) {
	var c MiddlewareConfig
	if cfg != nil {
		c = *cfg
	}
	if err := checkDuration("Middleware.Deadline", c.Deadline); err != nil {
		return nil, err
	}
	if c.Limiter != nil && c.Key == nil {
		return nil, errors.New("resilience: Middleware.Key is missing: a Limiter needs to know whom a request counts for")
	}
	if c.Reject == nil {
		c.Reject = func(w http.ResponseWriter, _ *http.Request, status int, err error) {
			http.Error(w, err.Error(), status)
		}
	}
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, next) })
	}, nil
}

func (c *MiddlewareConfig) serve(w http.ResponseWriter, r *http.Request, next http.Handler) {
	ctx := r.Context()
	if c.TrustCriticality {
		ctx = fromWire(ctx, r.Header.Get(HeaderCriticality), r.Header.Get(HeaderAttempt))
	}
	if c.Ceiling != nil {
		if err := c.Ceiling.Acquire(ctx); err != nil {
			c.reject(w, r, err)
			return
		}
		defer c.Ceiling.Release()
	}
	if c.Limiter != nil {
		if key := c.Key(r); key != "" {
			quota, err := c.Limiter.Allow(key)
			setQuota(w.Header(), quota)
			if err != nil {
				c.reject(w, r, err)
				return
			}
		}
	}
	if _, ok := ctx.Deadline(); !ok && c.Deadline > 0 {
		bound := new(lazyctx.Context)
		bound.Init(ctx, time.Now().Add(c.Deadline))
		defer bound.Cancel()
		ctx = bound
	}
	if c.Shedder != nil && (c.Exempt == nil || !c.Exempt(r)) {
		ticket, err := c.Shedder.Acquire(ctx)
		if err != nil {
			c.reject(w, r, err)
			return
		}
		outcome := ShedIgnore // what a panic leaves
		var once sync.Once
		release := func(o ShedOutcome) { once.Do(func() { ticket.Release(o) }) }
		defer func() { release(outcome) }()
		streams := func() { release(ShedIgnore) }
		next.ServeHTTP(&httpstream.Writer{ResponseWriter: w, Began: streams}, withContext(r, ctx))
		outcome = OutcomeOf(ctx, nil)
		return
	}
	next.ServeHTTP(w, withContext(r, ctx))
}

func withContext(r *http.Request, ctx context.Context) *http.Request {
	if ctx == r.Context() {
		return r
	}
	return r.WithContext(ctx)
}

func (c *MiddlewareConfig) reject(w http.ResponseWriter, r *http.Request, err error) {
	status := HTTPStatus(err)
	var rej *Rejection
	if errors.As(err, &rej) {
		if rej.Policy != "shedder" {
			c.Hooks.rejected(r.Context(), rej.Name, rej)
		}
		w.Header().Set("Retry-After", retryAfterSeconds(rej.After))
	}
	c.Reject(w, r, status, err)
}

// HTTPStatus is the status for an error of this package: 429 for a rate limit,
// 504 for a deadline, 503 for any other rejection; 0 for other errors.
func HTTPStatus(err error) int {
	var rej *Rejection
	switch {
	case errors.Is(err, ErrLimited):
		return http.StatusTooManyRequests
	case errors.As(err, &rej):
		return http.StatusServiceUnavailable
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable // nobody reads it
	}
	return 0
}

// fromWire puts what the caller's headers say into the context; nonsense is
// ignored.
func fromWire(ctx context.Context, criticality, attempt string) context.Context {
	if c, ok := ParseCriticality(criticality); ok {
		ctx = WithCriticality(ctx, c)
	}
	if n, ok := ParseAttempt(attempt); ok {
		ctx = WithAttempt(ctx, n)
	}
	return ctx
}
