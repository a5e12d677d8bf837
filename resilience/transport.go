package resilience

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// NewTransport returns an http.RoundTripper that makes each request through the
// pipeline of its host (URL.Host). A nil base means http.DefaultTransport, nil
// destinations mean some of its own, with the defaults.
//
// It retries, on errors of the connection and on 429, 502, 503 and 504, what
// may be repeated: safe and idempotent methods, requests with an
// Idempotency-Key header or a context marked by [Idempotent], and anything that
// was provably not sent. A request whose body cannot be read again (Body
// without GetBody) is sent once. Discarded responses are drained and closed.
// If the last attempt brought a response, that response is returned, also when
// the budget is spent; local rejections are errors.
//
// Status 500 and above, except 501 and 505, and an attempt without an answer
// count as failures for the breaker; 429 counts as an answer.
//
// Criticality and attempt number travel in [HeaderCriticality] and
// [HeaderAttempt]. An attempt's time bound and its permit end with the
// response's header; the body is bounded by the request's context alone.
func NewTransport(base http.RoundTripper, d *Destinations) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	if d == nil {
		var err error
		if d, err = NewDestinations(nil); err != nil {
			panic(err) // the defaults are valid
		}
	}
	return &transport{base: base, destinations: d}
}

type transport struct {
	base         http.RoundTripper
	destinations *Destinations
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	p, err := t.destinations.Get(req.URL.Host)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	rt := roundTrip{base: t.base, p: p, req: req, replayable: replayable(req)}
	err = p.Call(req.Context(), Call{
		Idempotent: rt.replayable && idempotentRequest(req),
		OwnTimeout: true,
		Endpoint:   t.destinations.httpEndpoint(req),
	}, rt.attempt)
	if rt.sent == 0 {
		closeBody(req) // RoundTrip must close the body, also when it never read it
	}
	if err != nil {
		if rt.resp != nil && isStatus(err) && req.Context().Err() == nil {
			return rt.resp, nil
		}
		rt.discard()
		return nil, err
	}
	return rt.resp, nil
}

// roundTrip is one request with all its attempts.
type roundTrip struct {
	base       http.RoundTripper
	p          *Pipeline
	req        *http.Request
	replayable bool
	sent       int            // attempts handed to base
	resp       *http.Response // of the last attempt
	cancel     func()         // of that attempt
}

func (r *roundTrip) attempt(ctx context.Context) error {
	r.discard()
	out, err := r.request(ctx)
	if err != nil {
		return Permanent(err)
	}
	r.sent++
	timer := startAttempt(out, r.p.AttemptTimeout())
	resp, err := r.base.RoundTrip(timer.req)
	if err != nil {
		return r.connectionError(timer.error(err))
	}
	if !timer.stop() { // it fired just now: the body would fail at once
		resp.Body.Close()
		return timer.error(context.DeadlineExceeded)
	}
	resp.Body = ownBody(resp.Body, timer.cancel)
	r.resp, r.cancel = resp, timer.cancel
	if class, failed := classifyStatus(resp); failed {
		return &statusError{code: resp.StatusCode, class: class}
	}
	return nil
}

// request is the request to send: the original, or a copy where something must
// differ.
func (r *roundTrip) request(ctx context.Context) (*http.Request, error) {
	req := r.req
	attempt := AttemptFrom(ctx)
	if r.sent == 0 && attempt == 1 && !HasCriticality(ctx) && ctx == req.Context() {
		return req, nil
	}
	req = req.WithContext(ctx)
	if attempt > 1 || HasCriticality(ctx) {
		req.Header = r.req.Header.Clone()
		if attempt > 1 {
			req.Header.Set(HeaderAttempt, strconv.Itoa(attempt))
		}
		if HasCriticality(ctx) {
			req.Header.Set(HeaderCriticality, CriticalityFrom(ctx).String())
		}
	}
	if r.sent > 0 && r.req.GetBody != nil {
		b, err := r.req.GetBody()
		if err != nil {
			return nil, err
		}
		req.Body = b
	}
	return req, nil
}

// connectionError lets an error through for classification, unless the body
// would be needed again and is gone.
func (r *roundTrip) connectionError(err error) error {
	if !r.replayable {
		c := Classify(err)
		return &marked{err: err, class: Class{Health: c.Health}}
	}
	return err
}

// maxDrain and drainTime bound what is read from a response that nobody wants,
// to get its connection back; beyond them closing the connection is cheaper.
const (
	maxDrain  = 256 << 10
	drainTime = 250 * time.Millisecond
)

func (r *roundTrip) discard() {
	if r.resp == nil {
		return
	}
	dribble := time.AfterFunc(drainTime, r.cancel)
	_, _ = io.CopyN(io.Discard, r.resp.Body, maxDrain)
	dribble.Stop()
	r.resp.Body.Close()
	r.resp = nil
}

func replayable(req *http.Request) bool {
	return req.Body == nil || req.Body == http.NoBody || req.GetBody != nil
}

// idempotentRequest follows RFC 9110, section 9.2.2.
func idempotentRequest(req *http.Request) bool {
	switch req.Method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return req.Header.Get(HeaderIdempotencyKey) != ""
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

// classifyStatus says what a response's status means; failed is false for those
// that are simply returned.
func classifyStatus(resp *http.Response) (c Class, failed bool) {
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		c = Class{Health: Healthy, Retry: true}
	case code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		c = Class{Health: Unhealthy, Retry: true}
	case code == http.StatusNotImplemented, code == http.StatusHTTPVersionNotSupported, code < 500:
		return Class{Health: Healthy}, false
	default:
		return Class{Health: Unhealthy}, true
	}
	if d, ok := ParseRetryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		c.After = d
	}
	return c, true
}

// statusError carries a bad status through the policies. It never reaches the
// caller, who gets the response.
type statusError struct {
	code  int
	class Class
}

func (e *statusError) Error() string {
	return "HTTP status " + strconv.Itoa(e.code) + " " + http.StatusText(e.code)
}
func (e *statusError) Class() Class { return e.class }

func isStatus(err error) bool {
	var s *statusError
	return errors.As(err, &s)
}

// attemptTimer bounds an attempt until its response's header has come. Its
// context lives on until the body is closed.
type attemptTimer struct {
	req    *http.Request
	cancel context.CancelFunc
	timer  *time.Timer // nil: no bound
	fired  atomic.Bool
}

func startAttempt(req *http.Request, d time.Duration) *attemptTimer {
	ctx, cancel := context.WithCancel(req.Context())
	t := &attemptTimer{req: req.WithContext(ctx), cancel: cancel}
	if d > 0 {
		t.timer = time.AfterFunc(d, func() {
			t.fired.Store(true)
			cancel()
		})
	}
	return t
}

// stop ends the bound; false means that it was too late.
func (t *attemptTimer) stop() bool { return t.timer == nil || t.timer.Stop() }

// error turns the cancellation that the timer caused into what it is.
func (t *attemptTimer) error(err error) error {
	t.stop()
	t.cancel()
	if t.fired.Load() {
		return errAttemptTimeout
	}
	return err
}

var errAttemptTimeout error = &marked{
	err:   fmt.Errorf("attempt: no response in time: %w", context.DeadlineExceeded),
	class: Class{Health: Unhealthy, Retry: true},
}

// ownBody frees the attempt's context once the body is closed. The body of a
// 101 response can also be written to, and must stay so.
func ownBody(b io.ReadCloser, cancel func()) io.ReadCloser {
	if rw, ok := b.(io.ReadWriteCloser); ok {
		return &duplexBody{ReadWriteCloser: rw, cancel: cancel}
	}
	return &body{ReadCloser: b, cancel: cancel}
}

type body struct {
	io.ReadCloser
	cancel func()
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel()
	return err
}

type duplexBody struct {
	io.ReadWriteCloser
	cancel func()
}

func (b *duplexBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.cancel()
	return err
}
