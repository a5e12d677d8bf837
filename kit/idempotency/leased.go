package idempotency

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/problem"
)

// finishTimeout bounds completing or releasing a claim once the handler is done,
// also for a client that has gone.
const finishTimeout = 5 * time.Second

// serveLeased runs next under a claim and stores what it answered.
func (c *ServerConfig) serveLeased(w http.ResponseWriter, r *http.Request, in *incoming, next http.Handler) {
	k, err := in.request() // reads the body, of which the fingerprint is made
	if err != nil {
		problem.Write(w, r, err)
		return
	}
	claim, stored, err := c.claim(r.Context(), k)
	if err != nil {
		problem.Write(w, r, err)
		return
	}
	if stored != nil {
		write(w, *stored, true)
		return
	}
	ctx, cancel := context.WithCancelCause(in.into(r.Context()))
	defer cancel(nil)
	beat := startHeart(ctx, c, claim, cancel)
	rec := &recorder{header: http.Header{}}
	finished := false
	defer func() {
		if !finished { // a panic, or http.ErrAbortHandler: the key is free again
			beat.stop()
			c.release(ctx, claim)
		}
	}()
	next.ServeHTTP(rec, r.WithContext(ctx))
	finished = true
	beat.stop()

	resp := rec.response()
	if !storable(resp.Code) {
		c.release(r.Context(), claim)
		write(w, resp, false)
		return
	}
	if err := c.complete(r.Context(), claim, resp); err != nil {
		// Nobody can be told an outcome that is not kept: a retry would run again.
		c.Logger.ErrorContext(r.Context(), "idempotent response not stored", slog.String("operation", k.Operation), slog.Any("error", err))
		problem.Write(w, r, err)
		return
	}
	write(w, resp, false)
}

// claim takes the key, waiting for a running request where that is configured.
func (c *ServerConfig) claim(ctx context.Context, k Key) (Claim, *Response, error) {
	const firstPause, maxPause = 5 * time.Millisecond, 100 * time.Millisecond
	deadline := time.Now().Add(c.Wait)
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		claim, stored, err := c.Leased.Claim(ctx, k, c.LeaseTTL)
		if !errors.Is(err, ErrInProgress) || !time.Now().Add(pause).Before(deadline) {
			return claim, stored, err
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
			return Claim{}, nil, ctx.Err()
		case <-t.C:
		}
	}
}

func (c *ServerConfig) complete(ctx context.Context, claim Claim, resp Response) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	resp.Header = allowed(resp.Header, c.StoreHeaders)
	if len(resp.Body) > c.MaxStoredBody {
		resp.Body, resp.BodyOmitted = nil, true
	}
	err := c.Leased.Complete(ctx, claim, resp)
	if errors.Is(err, ErrTooLarge) { // the store's own bound is lower
		resp.Body, resp.BodyOmitted = nil, true
		err = c.Leased.Complete(ctx, claim, resp)
	}
	return err
}

func (c *ServerConfig) release(ctx context.Context, claim Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := c.Leased.Release(ctx, claim); err != nil {
		c.Logger.WarnContext(ctx, "idempotency key not released; it frees itself when its lease ends",
			slog.String("operation", claim.Key.Operation), slog.Any("error", err))
	}
}

// heart renews a claim while the handler runs. It is a timer, so that a handler
// that is done before the first beat starts no goroutine.
type heart struct {
	mu      sync.Mutex
	timer   *time.Timer
	stopped bool
	beating sync.WaitGroup
	cancel  context.CancelFunc
}

func startHeart(ctx context.Context, c *ServerConfig, claim Claim, lost context.CancelCauseFunc) *heart {
	interval := c.LeaseTTL / 3
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h := &heart{cancel: cancel}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.timer = time.AfterFunc(interval, func() {
		h.mu.Lock()
		if h.stopped {
			h.mu.Unlock()
			return
		}
		h.beating.Add(1)
		h.mu.Unlock()
		defer h.beating.Done()
		bctx, done := context.WithTimeout(ctx, interval)
		err := c.Leased.Renew(bctx, claim, c.LeaseTTL)
		done()
		if errors.Is(err, ErrLeaseLost) {
			lost(ErrLeaseLost)
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.stopped {
			h.timer.Reset(interval) // a failed renewal is tried again; the claim ends by itself otherwise
		}
	})
	return h
}

// stop returns once no renewal is under way.
func (h *heart) stop() {
	h.mu.Lock()
	h.stopped = true
	h.timer.Stop()
	h.mu.Unlock()
	h.cancel()
	h.beating.Wait()
}

// recorder keeps a handler's response back until it is stored.
type recorder struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(code int) {
	if r.code == 0 && code >= 200 { // 1xx is no answer
		r.code = code
	}
}

func (r *recorder) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(p)
}

func (r *recorder) response() Response {
	r.WriteHeader(http.StatusOK)
	ct := r.header.Get("Content-Type")
	if ct == "" && r.body.Len() > 0 {
		ct = http.DetectContentType(r.body.Bytes())
	}
	h := r.header
	h.Del("Content-Length") // written anew with the body
	return Response{Code: r.code, Header: h, ContentType: ct, Body: r.body.Bytes()}
}
