package idempotency

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
)

// finishTimeout bounds completing or releasing a claim once the handler is done,
// also for a client that has gone.
const finishTimeout = 5 * time.Second

// LeaseConfig tunes [NewLeases]. The zero value is ready to use.
type LeaseConfig struct {
	// TTL is how long a claim outlives the process that made it. It is renewed
	// before a third of it has passed, while the work runs. Defaults to 30 s.
	TTL time.Duration
	// Wait is how long to wait for another that works on the same key, before it
	// is ErrInProgress. Defaults to 0, not at all.
	Wait time.Duration
	// MaxBody bounds a stored body in bytes; a larger one is left out of what is
	// stored, which is marked with Response.BodyOmitted. Defaults to 64 KiB.
	MaxBody int
	// Logger is told of keys that could not be released. Defaults to slog.Default().
	Logger *slog.Logger
}

// Leases runs work once for each key that has no transaction to join: it is the
// leased mode, for transports that [Middleware] does not serve. It is safe for
// concurrent use.
type Leases struct {
	store  Store
	cfg    LeaseConfig
	hearts hearts
}

// NewLeases returns Leases on a store.
func NewLeases(s Store, cfg *LeaseConfig) (*Leases, error) {
	var c LeaseConfig
	if cfg != nil {
		c = *cfg
	}
	switch {
	case s == nil:
		return nil, errors.New("idempotency: NewLeases needs a Store: NewMemory or sqlidempotency.NewLeased")
	case c.TTL < 0:
		return nil, fmt.Errorf("idempotency: LeaseConfig.TTL %v: must not be negative", c.TTL)
	case c.Wait < 0:
		return nil, fmt.Errorf("idempotency: LeaseConfig.Wait %v: must not be negative", c.Wait)
	case c.MaxBody < 0:
		return nil, fmt.Errorf("idempotency: LeaseConfig.MaxBody %d: must not be negative", c.MaxBody)
	}
	if c.TTL == 0 {
		c.TTL = 30 * time.Second
	}
	if c.MaxBody == 0 {
		c.MaxBody = 64 << 10
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	l := &Leases{store: s, cfg: c}
	l.hearts.every = c.TTL / 6
	l.hearts.renew = func(ctx context.Context, claim Claim) error { return s.Renew(ctx, claim, c.TTL) }
	return l, nil
}

// Do is the function [Do] for work without a transaction: fn runs under a claim
// that is kept alive, and its response is stored once it has returned. replayed
// reports that the response is one stored earlier and fn did not run. Where fn
// returns an error or panics, the key is free again.
//
// While the process lives, one fn runs for a key at a time, and none after one
// whose response was stored. A process that dies between fn's effect and that
// moment leaves nothing: the next attempt after the lease's end runs fn again, so
// the effect happens at least once. Where it must not happen twice, hand the key
// on to whoever does it, or use a [TxStore].
//
// fn's context ends with the cause ErrLeaseLost where the claim was lost.
func (l *Leases) Do(ctx context.Context, k Key, fn func(ctx context.Context) (Response, error)) (resp Response, replayed bool, err error) {
	claim, stored, err := l.claim(ctx, k)
	if err != nil {
		return Response{}, false, err
	}
	if stored != nil {
		return *stored, true, nil
	}
	var work work
	work.start(ctx, l, claim)
	defer work.end()
	if resp, err = fn(&work.ctx); err != nil {
		return Response{}, false, err
	}
	if err := work.complete(resp); err != nil {
		return Response{}, false, err
	}
	return resp, false, nil
}

// claim takes the key, waiting for a running request where that is configured.
func (l *Leases) claim(ctx context.Context, k Key) (Claim, *Response, error) {
	claim, stored, err := l.store.Claim(ctx, k, l.cfg.TTL)
	if err == nil {
		return claim, stored, nil
	}
	if errors.Is(err, ErrInProgress) && l.cfg.Wait > 0 {
		claim, stored, err = l.wait(ctx, k)
	}
	return claim, stored, unavailable(err)
}

func (l *Leases) wait(ctx context.Context, k Key) (Claim, *Response, error) {
	const firstPause, maxPause = 5 * time.Millisecond, 100 * time.Millisecond
	deadline := time.Now().Add(l.cfg.Wait)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		if !time.Now().Add(pause).Before(deadline) {
			return Claim{}, nil, ErrInProgress
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return Claim{}, nil, ctx.Err()
		case <-t.C:
		}
		claim, stored, err := l.store.Claim(ctx, k, l.cfg.TTL)
		if !errors.Is(err, ErrInProgress) {
			return claim, stored, err
		}
	}
}

// work is what is done under one claim.
type work struct {
	leases   *Leases
	ctx      lateContext // of the work; ends when the claim is lost
	after    lateContext // of what follows it; outlives the caller's and ends after a few seconds
	heart    heart
	finished bool
}

func (w *work) start(ctx context.Context, l *Leases, claim Claim) {
	w.leases = l
	w.ctx.parent, w.ctx.make = ctx, context.WithCancelCause
	w.after.parent, w.after.make, w.after.detached = ctx, finishing, true
	w.heart.claim, w.heart.ctx, w.heart.work = claim, ctx, &w.ctx
	l.hearts.start(&w.heart)
}

// stop ends the work's context and the renewals of its claim.
func (w *work) stop() {
	w.leases.hearts.stop(&w.heart)
	w.ctx.end(nil)
}

func finishing(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(parent), finishTimeout)
	return ctx, func(error) { cancel() }
}

// complete stores the response and ends the work.
func (w *work) complete(resp Response) error {
	w.finished = true
	w.stop()
	ctx := &w.after
	defer ctx.end(nil)
	l := w.leases
	if len(resp.Body) > l.cfg.MaxBody {
		resp.Body, resp.BodyOmitted = nil, true
	}
	err := l.store.Complete(ctx, w.heart.claim, resp)
	if errors.Is(err, ErrTooLarge) && !resp.BodyOmitted { // the store's own bound is lower
		resp.Body, resp.BodyOmitted = nil, true
		err = l.store.Complete(ctx, w.heart.claim, resp)
	}
	return unavailable(err)
}

// end frees the key again, unless the work was completed: there was an error, a
// panic, or the goroutine ends.
func (w *work) end() {
	if w.finished {
		return
	}
	w.finished = true
	w.stop()
	ctx := &w.after
	defer ctx.end(nil)
	if err := w.leases.store.Release(ctx, w.heart.claim); err != nil {
		w.leases.cfg.Logger.WarnContext(ctx, "idempotency key not released; it frees itself when its lease ends",
			slog.String("operation", w.heart.claim.Key.Operation), slog.Any("error", err))
	}
}

// leasedRequest is an HTTP request in leased mode, all that it takes in one piece.
type leasedRequest struct {
	in   incoming
	work work
	rec  recorder
}

// serveLeased runs next under a claim and stores what it answered.
func (c *ServerConfig) serveLeased(w http.ResponseWriter, r *http.Request, q *leasedRequest, next http.Handler) {
	k, err := q.in.request() // reads the body, of which the fingerprint is made
	if err != nil {
		problem.Write(w, r, err)
		return
	}
	claim, stored, err := c.leases.claim(r.Context(), k)
	if err != nil {
		problem.Write(w, r, err)
		return
	}
	if stored != nil {
		write(w, r, *stored, true)
		return
	}
	q.work.start(&q.in, c.leases, claim)
	q.rec.start(w, c.MaxStoredBody)
	defer func() {
		if !q.work.finished { // a panic, or http.ErrAbortHandler
			q.work.end()
			q.rec.undo()
		}
	}()
	next.ServeHTTP(&q.rec, q.in.serve(r, &q.work.ctx))

	if !storable(q.rec.status()) {
		q.work.end()
		q.rec.send()
		return
	}
	if err := c.store(q); err != nil {
		// Nobody can be told an outcome that is not kept: a retry would run again.
		c.Logger.ErrorContext(r.Context(), "idempotent response not stored", slog.String("operation", k.Operation), slog.Any("error", err))
		if q.rec.sent {
			panic(http.ErrAbortHandler) // the client must not take what it has for an answer
		}
		q.rec.undo()
		problem.Write(w, r, err)
		return
	}
	q.rec.send()
}

// keptHeaders are maps for what of a header is stored. A store copies them.
var keptHeaders = sync.Pool{New: func() any { return make(map[string][]string, 4) }}

func (c *ServerConfig) store(q *leasedRequest) error {
	kept := keptHeaders.Get().(map[string][]string)
	defer func() {
		clear(kept)
		keptHeaders.Put(kept)
	}()
	allow(kept, q.rec.Header(), c.StoreHeaders)
	resp := q.rec.response()
	if len(kept) > 0 {
		resp.Header = kept
	}
	return q.work.complete(resp)
}
