package resilience

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/internal/lazyctx"
)

// NewTransport returns an http.RoundTripper that makes each request through the
// pipeline of its host (URL.Host). A nil base means http.DefaultTransport, nil
// destinations mean some of its own, with the defaults.
//
// It retries, on errors of the connection and on 429, 502, 503 and 504, what
// may be repeated: safe and idempotent methods, requests with an
// Idempotency-Key header or a context marked by [Idempotent], and anything that
// was provably not sent. A request whose body cannot be read again (Body
// without GetBody) is sent once. Discarded responses are drained and closed, and
// no connection is held while another attempt is waited for.
// If the last attempt brought a response, that response is returned, also when
// the budget is spent; local rejections are errors.
//
// An http.Transport sends by itself what may be repeated once more if a connection
// that it had kept idle is closed before the answer begins. That looks like one
// attempt from here: the budget does not pay for it.
//
// Where Config.Hedge is on, a slow attempt of what may be repeated gets another
// one beside it. The first success is returned, the others are cancelled and
// what they bring is discarded.
//
// Status 500 and above, except 501 and 505, and an attempt without an answer
// count as failures for the breaker; 429 counts as an answer. 503 with
// Retry-After is how a server sheds load, and does not count (see [Class]).
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

// CloseIdleConnections is for http.Client.CloseIdleConnections, which asks for it.
func (t *transport) CloseIdleConnections() {
	if base, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		base.CloseIdleConnections()
	}
}

func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	p, err := t.destinations.Get(req.URL.Host)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	r := &roundTrip{t: t, p: p, req: req, overlap: p.hedge != nil, replayable: replayable(req)}
	call := Call{
		Idempotent: r.replayable && idempotentRequest(req),
		OwnTimeout: true,
		Endpoint:   t.destinations.httpEndpoint(req),
		Overlap:    r.replayable,
	}
	if p.hedge == nil {
		if p.deadline.Total > 0 {
			r.begun = time.Now()
			call.begun = r.begun
		}
		err = p.call(req.Context(), call, r.attempt)
	} else {
		err = r.hedged(req.Context(), call)
	}
	a, sent := r.settle()
	if !sent {
		closeBody(req) // RoundTrip must close the body, also when it never read it
	}
	if a == nil {
		return nil, err
	}
	if err != nil && (!isStatus(err) || req.Context().Err() != nil) {
		a.discard()
		return nil, err
	}
	return a.resp, nil
}

// hedged makes the call where attempts may overlap. Should one panic, those
// beside it are nobody's.
func (r *roundTrip) hedged(ctx context.Context, call Call) error {
	returned := false
	defer func() {
		if returned {
			return
		}
		if a, _ := r.settle(); a != nil {
			a.discard()
		}
	}()
	err := r.p.Call(ctx, call, r.attempt)
	returned = true
	return err
}

// roundTrip is one request with all its attempts, which overlap if hedged.
type roundTrip struct {
	t     *transport
	p     *Pipeline
	req   *http.Request
	begun time.Time // zero: hedged, or without deadlines

	mu         sync.Mutex
	sent       int32 // attempts begun
	over       bool  // the call has returned: what comes now is nobody's
	overlap    bool  // attempts may overlap; set at the start, as is the next
	replayable bool
	kept       *httpAttempt // the one whose response is the call's, as things stand
	first      httpAttempt  // usually the only one
	more       []*httpAttempt
}

// lock is for what attempts that overlap share. Others need none.
func (r *roundTrip) lock() {
	if r.overlap {
		r.mu.Lock()
	}
}

func (r *roundTrip) unlock() {
	if r.overlap {
		r.mu.Unlock()
	}
}

// httpAttempt is one attempt: its context, which lives until the body of its
// response is closed, and that response.
type httpAttempt struct {
	lazyctx.Context
	req    http.Request
	resp   *http.Response
	failed bool // resp is to be retried, if anything
}

func (r *roundTrip) attempt(ctx context.Context) error {
	a, n := r.begin()
	if a == nil {
		return context.Canceled // hedged, and another has won
	}
	a.InitTimeout(ctx, r.bound(ctx, n))
	out, err := r.request(a, ctx, n)
	if err != nil {
		a.Cancel()
		return err
	}
	resp, err := a.send(r.t.base, out)
	inTime, watched := a.Stop()
	if err != nil {
		a.Cancel()
		if a.TimedOut() {
			err = errAttemptTimeout
		}
		return r.connectionError(err)
	}
	if !inTime { // it fired just now: the body would fail at once
		resp.Body.Close()
		a.Cancel()
		return r.connectionError(errAttemptTimeout)
	}
	if watched {
		resp.Body = ownBody(resp.Body, a)
	}
	class, failed := classifyStatus(resp)
	a.resp, a.failed = resp, failed
	r.keep(a)
	if failed {
		return &statusError{code: resp.StatusCode, class: class, of: r}
	}
	return nil
}

// maxParked is how much of a response is kept in memory during a wait.
const maxParked = 64 << 10

var errNotKept = errors.New("resilience: the rest of the response was not kept while another attempt was waited for")

// park frees the connection of a failed response, which others may need, before
// the wait for another attempt. The response stays the call's should that attempt
// not be made.
func (r *roundTrip) park() {
	r.lock()
	a := r.kept
	r.unlock()
	if a == nil {
		return
	}
	dribble := time.AfterFunc(drainTime, a.Cancel)
	text, err := io.ReadAll(io.LimitReader(a.resp.Body, maxParked))
	if len(text) == maxParked {
		if rest, _ := io.CopyN(io.Discard, a.resp.Body, maxDrain); rest > 0 {
			err = errNotKept
		}
	}
	dribble.Stop()
	a.resp.Body.Close()
	if err == nil {
		err = io.EOF
	}
	a.resp.Body = &parkedBody{text: text, err: err}
}

// parkedBody is a body read before, and how reading it ended.
type parkedBody struct {
	text []byte
	err  error
}

func (b *parkedBody) Read(p []byte) (n int, err error) {
	n = copy(p, b.text)
	b.text = b.text[n:]
	if len(b.text) == 0 {
		err = b.err
	}
	return n, err
}

func (b *parkedBody) Close() error { return nil }

// send is base.RoundTrip; should that panic, the context does not stay behind.
func (a *httpAttempt) send(base http.RoundTripper, req *http.Request) (*http.Response, error) {
	returned := false
	defer func() {
		if !returned {
			a.Cancel()
		}
	}()
	resp, err := base.RoundTrip(req)
	returned = true
	return resp, err
}

// begin returns the next attempt, nil if it is too late for one, and its number.
// The response of one that failed is discarded first, so that its connection
// serves this one; not where attempts overlap, since it may yet be the call's.
func (r *roundTrip) begin() (a *httpAttempt, n int) {
	r.lock()
	if r.over {
		r.unlock()
		return nil, 0
	}
	r.sent++
	n, a = int(r.sent), &r.first
	if n > 1 {
		a = new(httpAttempt)
		r.more = append(r.more, a)
	}
	var failed *httpAttempt
	if !r.overlap && r.kept != nil && r.kept.failed {
		failed, r.kept = r.kept, nil
	}
	r.unlock()
	if failed != nil {
		failed.discard()
	}
	return a, n
}

// keep decides between the attempt's response and the one that came before: the
// first success stays, else the latest response.
func (r *roundTrip) keep(a *httpAttempt) {
	r.lock()
	loser := r.kept
	if r.over || loser != nil && !loser.failed {
		loser = a
	} else {
		r.kept = a
	}
	r.unlock()
	if loser != nil {
		loser.discard()
	}
}

// settle ends the call: attempts that are still under way have lost. It returns
// the one with the call's response, if any.
func (r *roundTrip) settle() (kept *httpAttempt, sent bool) {
	r.lock()
	defer r.unlock()
	r.over = true
	if r.kept != &r.first {
		r.first.Cancel()
	}
	for _, a := range r.more {
		if a != r.kept {
			a.Cancel()
		}
	}
	return r.kept, r.sent > 0
}

// bound is when the n-th attempt must have brought a header: after its own time,
// and within the call's.
func (r *roundTrip) bound(ctx context.Context, n int) time.Time {
	d := r.p.AttemptTimeout()
	if d <= 0 {
		return time.Time{}
	}
	if n == 1 {
		return r.p.attemptStart(r.begun).Add(d)
	}
	end := time.Now().Add(d)
	if total, ok := ctx.Value(totalKey{}).(time.Time); ok && total.Before(end) {
		end = total
	}
	return end
}

// totalKey is the key of the call's deadline in the context of a further attempt
// that keeps its time itself. The first attempt needs none: its bound is at most
// the call's.
type totalKey struct{}

func withTotal(ctx context.Context, call Call, deadline time.Time) context.Context {
	if !call.OwnTimeout || deadline.IsZero() {
		return ctx
	}
	return context.WithValue(ctx, totalKey{}, deadline)
}

// request is the request to send: a copy with the attempt's context, and what
// else must differ.
func (r *roundTrip) request(a *httpAttempt, ctx context.Context, n int) (*http.Request, error) {
	a.req = *r.req.WithContext(a) // the copy of the copy stays on the stack
	req := &a.req
	attempt := AttemptFrom(ctx)
	if attempt > 1 || HasCriticality(ctx) {
		req.Header = r.req.Header.Clone()
		if req.Header == nil {
			req.Header = make(http.Header, 2)
		}
		if attempt > 1 {
			req.Header.Set(HeaderAttempt, strconv.Itoa(attempt))
		}
		if HasCriticality(ctx) {
			req.Header.Set(HeaderCriticality, CriticalityFrom(ctx).String())
		}
	}
	if n > 1 && r.req.GetBody != nil {
		b, err := r.req.GetBody()
		if err != nil {
			// Of the destination this says nothing.
			return nil, &marked{err: fmt.Errorf("read the request's body again: %w", err), class: Class{Health: Neutral}}
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

func (a *httpAttempt) discard() {
	dribble := time.AfterFunc(drainTime, a.Cancel)
	_, _ = io.CopyN(io.Discard, a.resp.Body, maxDrain)
	dribble.Stop()
	a.resp.Body.Close()
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
		c.Refused = resp.StatusCode == http.StatusServiceUnavailable
	}
	return c, true
}

// statusError carries a bad status through the policies. It never reaches the
// caller, who gets the response.
type statusError struct {
	code  int
	class Class
	of    *roundTrip
}

func (e *statusError) beforeWait() { e.of.park() }

func (e *statusError) Error() string {
	return "HTTP status " + strconv.Itoa(e.code) + " " + http.StatusText(e.code)
}
func (e *statusError) Class() Class { return e.class }

func isStatus(err error) bool {
	var s *statusError
	return errors.As(err, &s)
}

var errAttemptTimeout error = &marked{
	err:   fmt.Errorf("attempt: no response in time: %w", context.DeadlineExceeded),
	class: Class{Health: Unhealthy, Retry: true},
}

// ownBody frees the attempt's context once the body is closed. The body of a
// 101 response can also be written to, and must stay so.
func ownBody(b io.ReadCloser, a *httpAttempt) io.ReadCloser {
	if rw, ok := b.(io.ReadWriteCloser); ok {
		return &duplexBody{ReadWriteCloser: rw, a: a}
	}
	return &body{ReadCloser: b, a: a}
}

type body struct {
	io.ReadCloser
	a *httpAttempt
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.a.Cancel()
	return err
}

type duplexBody struct {
	io.ReadWriteCloser
	a *httpAttempt
}

func (b *duplexBody) Close() error {
	err := b.ReadWriteCloser.Close()
	b.a.Cancel()
	return err
}
