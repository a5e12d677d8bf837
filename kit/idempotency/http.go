package idempotency

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Rule says how an HTTP operation uses keys.
type Rule struct {
	// Operation names what is done. An empty one means that keys play no part.
	Operation string
	// Required refuses a request without a key with 400.
	Required bool
}

// ServerConfig tunes [Middleware].
type ServerConfig struct {
	// Scope returns whose key it is: the end user where there is one, else the
	// calling service. Required. Its error is answered as problem.Write does.
	Scope func(r *http.Request) (string, error)
	// Rule returns a request's rule. Defaults to: POST and PATCH require a key,
	// their operation is the route's pattern (or else the path); other methods
	// have none.
	Rule func(r *http.Request) Rule
	// MaxBody bounds the request's body in bytes, beyond which it is answered
	// with 413. Defaults to 1 MiB.
	MaxBody int64
	// StoreHeaders are the response headers that are stored and answered again.
	// Content-Type always is, Set-Cookie never. Defaults to Location,
	// Content-Location, ETag, Last-Modified, Link and Content-Language.
	StoreHeaders []string

	// Leased turns on the leased mode with this store, for handlers that have no
	// transaction. Defaults to nil: the transactional mode, in which the handler
	// finishes what the middleware began.
	Leased Store
	// LeaseTTL is how long a claim outlives the process that made it. It is
	// renewed every third of it while the handler runs. Defaults to 30 s.
	LeaseTTL time.Duration
	// MaxStoredBody bounds a stored response's body in bytes, in leased mode, and
	// so what is held of an answer in memory. The first caller gets a larger one
	// whole, a replay only its status and headers with "Idempotent-Body:
	// omitted". Defaults to 64 KiB.
	MaxStoredBody int
	// Wait is how long a request in leased mode waits for one that runs with the
	// same key, before it is answered 409. Defaults to 0, not at all.
	Wait time.Duration
	// Logger is told of what the caller is not: errors that [InTx] answers with 500,
	// handlers that ignore the key, claims that cannot be kept. Defaults to
	// slog.Default().
	Logger *slog.Logger

	leases *Leases
}

var defaultStoreHeaders = []string{"Location", "Content-Location", "Etag", "Last-Modified", "Link", "Content-Language"}

func (c ServerConfig) resolve() (ServerConfig, error) {
	switch {
	case c.Scope == nil:
		return c, errors.New("idempotency: ServerConfig.Scope is required: return the end user, else the calling service")
	case c.MaxBody < 0:
		return c, fmt.Errorf("idempotency: ServerConfig.MaxBody %d: must not be negative", c.MaxBody)
	case c.LeaseTTL < 0:
		return c, fmt.Errorf("idempotency: ServerConfig.LeaseTTL %v: must not be negative", c.LeaseTTL)
	case c.MaxStoredBody < 0:
		return c, fmt.Errorf("idempotency: ServerConfig.MaxStoredBody %d: must not be negative", c.MaxStoredBody)
	case c.Wait < 0:
		return c, fmt.Errorf("idempotency: ServerConfig.Wait %v: must not be negative", c.Wait)
	}
	if c.Rule == nil {
		c.Rule = defaultRule
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = 30 * time.Second
	}
	if c.MaxStoredBody == 0 {
		c.MaxStoredBody = 64 << 10
	}
	if c.StoreHeaders == nil {
		c.StoreHeaders = defaultStoreHeaders
	}
	allowed := make([]string, 0, len(c.StoreHeaders))
	for _, name := range c.StoreHeaders {
		if name = http.CanonicalHeaderKey(name); name != "Set-Cookie" && name != "Content-Type" {
			allowed = append(allowed, name)
		}
	}
	c.StoreHeaders = allowed
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Leased == nil {
		return c, nil
	}
	var err error
	c.leases, err = NewLeases(c.Leased, &LeaseConfig{TTL: c.LeaseTTL, MaxBody: c.MaxStoredBody, Wait: c.Wait, Logger: c.Logger})
	return c, err
}

func defaultRule(r *http.Request) Rule {
	if r.Method != http.MethodPost && r.Method != http.MethodPatch {
		return Rule{}
	}
	if strings.HasPrefix(r.Pattern, r.Method+" ") {
		return Rule{Operation: r.Pattern, Required: true}
	}
	if r.Pattern != "" {
		return Rule{Operation: r.Method + " " + r.Pattern, Required: true}
	}
	return Rule{Operation: r.Method + " " + r.URL.Path, Required: true}
}

// Middleware returns the middleware that parses the key of a request. In
// transactional mode it puts the key into the context, for [InTx] or [Request];
// in leased mode it does all there is to do. Place it inside authentication.
//
// In transactional mode the handler must be one of [InTx], or ask for the key with
// [Request] and hand it to [Do] or a [TxStore]. One that does not is protected from
// nothing: where it answers 2xx to a request with a key that nobody asked for,
// ServerConfig.Logger gets an error, once for each operation, of the first thousand.
//
// The fingerprint covers the method, the path and query, the scope and the body.
func Middleware(cfg ServerConfig) (func(http.Handler) http.Handler, error) {
	c, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	ignored := new(ignoredKeys)
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rule := c.Rule(r)
			if rule.Operation == "" {
				next.ServeHTTP(w, r.WithContext(WithoutRequest(r.Context())))
				return
			}
			value, err := headerKey(r)
			if errors.Is(err, ErrKeyMissing) && !rule.Required {
				next.ServeHTTP(w, r.WithContext(WithoutRequest(r.Context())))
				return
			}
			if err != nil {
				problem.Write(w, r, err)
				return
			}
			scope, err := c.Scope(r)
			if err != nil {
				problem.Write(w, r, err)
				return
			}
			k := Key{Value: value, Scope: scope, Operation: rule.Operation}
			if c.Leased != nil {
				var q leasedRequest
				q.in.open(w, r, k, &c)
				c.serveLeased(w, r, &q, next)
				return
			}
			var q struct { // one allocation
				in     incoming
				answer statusWriter
			}
			q.in.open(w, r, k, &c)
			q.answer.ResponseWriter = w
			next.ServeHTTP(&q.answer, q.in.serve(r, &q.in))
			if q.answer.ok() && !q.in.asked() {
				ignored.report(r.Context(), c.Logger, rule.Operation)
			}
		})
	}, nil
}

// headerKey reads the request's key. Two header lines are not one key.
func headerKey(r *http.Request) (string, error) {
	values := r.Header.Values(Header)
	switch len(values) {
	case 0:
		return "", ErrKeyMissing
	case 1:
		return ParseKey(values[0])
	}
	return "", fmt.Errorf("%w: it was sent %d times", ErrKeyInvalid, len(values))
}

// incoming is a request whose fingerprint is not known before its body is, and
// the context that says so.
type incoming struct {
	context.Context
	body  hashedBody
	allow []string // headers to store
	log   *slog.Logger

	mu   sync.Mutex
	key  Key
	err  error
	used bool // somebody asked for the key
}

type incomingHTTP struct{}

func (in *incoming) open(w http.ResponseWriter, r *http.Request, k Key, c *ServerConfig) {
	in.Context, in.key, in.allow, in.log = r.Context(), k, c.StoreHeaders, c.Logger
	in.body.open(w, r, k.Scope, c.MaxBody)
}

func (in *incoming) Value(key any) any {
	switch key.(type) {
	case incomingKey:
		return in
	case incomingHTTP:
		return in
	}
	return in.Context.Value(key)
}

// serve returns the request for the handler; the caller's keeps its own body.
func (in *incoming) serve(r *http.Request, ctx context.Context) *http.Request { //nolint:revive // the request first, as it is what is served
	r = r.WithContext(ctx)
	r.Body = &in.body
	return r
}

func (in *incoming) request() (Key, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.used = true
	if in.key.Fingerprint == nil && in.err == nil {
		in.key.Fingerprint, in.err = in.body.sum()
	}
	return in.key, in.err
}

func (in *incoming) asked() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.used
}

// errUnstored carries a response that is answered but rolls back.
type errUnstored struct{ resp Response }

func (errUnstored) Error() string { return "idempotency: a response that is not stored" }

// errOutside is what the operator reads where a handler of InTx was not wrapped.
var errOutside = errors.New("idempotency.InTx stands outside idempotency.Middleware: wrap it")

// InTx returns the handler that runs fn once for each key, in a transaction of
// runner together with its response, and writes the response only after the
// commit. Wrap it with [Middleware]: outside of it every request is answered with
// 500, since nothing would keep a write that is sent twice from happening twice.
// Where the rule lets a request come without a key, fn runs in a plain transaction.
//
// A response with the status 429 or above 499 is written, but its transaction
// rolls back and the key stays free. An error of fn rolls back too and is
// answered as problem.Write does.
func InTx[T any](s TxStore, runner sqldb.Runner[T], fn func(ctx context.Context, tx T, r *http.Request) (Response, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		k, err := Request(ctx) // before the transaction: the client may be slow to send its body
		keyed := !errors.Is(err, ErrKeyMissing)
		if !Parsed(ctx) {
			problem.Write(w, r, errOutside)
			return
		}
		if keyed && err != nil {
			problem.Write(w, r, err)
			return
		}
		allow, log := defaultStoreHeaders, slog.Default()
		if in, ok := ctx.Value(incomingHTTP{}).(*incoming); ok {
			allow, log = in.allow, in.log
		}
		run := func(ctx context.Context, tx T) (Response, error) {
			resp, err := fn(ctx, tx, r)
			if err == nil {
				err = resp.check()
			}
			if err == nil && !storable(resp.Code) {
				err = errUnstored{resp}
			}
			return resp, err
		}
		var fresh, resp Response
		var replayed bool
		if keyed {
			resp, replayed, err = Do(ctx, s, runner, k, func(ctx context.Context, tx T) (Response, error) {
				var err error
				fresh, err = run(ctx, tx)
				kept := fresh
				kept.Header = allowed(fresh.Header, allow)
				return kept, err
			})
			if !replayed {
				resp = fresh // with the headers that are not stored
			}
		} else {
			err = runner.InTx(ctx, func(ctx context.Context, tx T) (err error) {
				resp, err = run(ctx, tx)
				return err
			})
		}
		if u, ok := errors.AsType[errUnstored](err); ok {
			resp, err = u.resp, nil
		}
		if err != nil {
			err = unavailable(err)
			if problem.Of(err).Status == http.StatusInternalServerError {
				log.LogAttrs(ctx, slog.LevelError, "idempotent handler failed", slog.String("operation", k.Operation), slog.Any("error", err))
			}
			problem.Write(w, r, err)
			return
		}
		write(w, r, resp, replayed)
	})
}

// storable reports whether an HTTP status is final: 429 and 5xx say that the
// request may yet succeed.
func storable(code int) bool { return code != http.StatusTooManyRequests && code < 500 }

// allowed returns the headers that may be stored.
func allowed(h map[string][]string, names []string) map[string][]string {
	if len(h) == 0 {
		return nil
	}
	kept := map[string][]string{}
	allow(kept, h, names)
	return kept
}

func allow(kept, h map[string][]string, names []string) {
	for name, values := range h {
		if name = http.CanonicalHeaderKey(name); slices.Contains(names, name) {
			kept[name] = values
		}
	}
}

// check says whether an HTTP answer can be made of r. One that cannot must not be
// stored, where every replay would meet it.
func (r Response) check() error {
	if r.Code != 0 && (r.Code < 200 || r.Code > 999) {
		return fmt.Errorf("idempotency: Response.Code %d is not the HTTP status of an answer: use 200 to 599, or 0 for 200", r.Code)
	}
	return nil
}

// write answers a response. r may be nil.
func write(w http.ResponseWriter, r *http.Request, resp Response, replayed bool) {
	if err := resp.check(); err != nil { // stored by another hand
		problem.Write(w, r, err)
		return
	}
	h := w.Header()
	for name, values := range resp.Header {
		h[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	if resp.ContentType != "" {
		h.Set("Content-Type", resp.ContentType)
	}
	if replayed {
		h.Set(ReplayedHeader, "true")
	}
	if resp.BodyOmitted {
		h.Set("Idempotent-Body", "omitted")
	}
	code := resp.Code
	if code == 0 {
		code = http.StatusOK
	}
	contentLength(h, code, len(resp.Body))
	w.WriteHeader(code)
	if len(resp.Body) > 0 {
		w.Write(resp.Body) //nolint:errcheck // the caller is gone; its retry gets the stored answer
	}
}

func contentLength(h http.Header, code, n int) {
	if code == http.StatusNoContent || code == http.StatusNotModified {
		h.Del("Content-Length")
		return
	}
	h.Set("Content-Length", strconv.Itoa(n))
}

// Write answers a response over HTTP, for handlers that use a [TxStore] by hand.
// One whose code is no HTTP status is answered with 500.
func Write(w http.ResponseWriter, resp Response, replayed bool) { write(w, nil, resp, replayed) }
