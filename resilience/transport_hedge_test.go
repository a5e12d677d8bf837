package resilience

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// roundTripFunc is a base transport in memory.
type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// trackedBody counts the bodies that are open.
type trackedBody struct {
	io.Reader
	open *atomic.Int64
	once sync.Once
}

func (b *trackedBody) Close() error { b.once.Do(func() { b.open.Add(-1) }); return nil }

func answer(req *http.Request, code int, text string, open *atomic.Int64) *http.Response {
	open.Add(1)
	return &http.Response{
		StatusCode: code, Header: http.Header{}, Request: req,
		Body: &trackedBody{Reader: strings.NewReader(text), open: open},
	}
}

// hedging is a client whose second attempt starts after 10 ms.
func hedging(t *testing.T, cfg Config, base roundTripFunc) (http.RoundTripper, *Pipeline) {
	t.Helper()
	cfg.Hedge.On, cfg.Hedge.Delay = true, 10*time.Millisecond
	d, err := NewDestinations(&DestinationsConfig{Default: cfg})
	if err != nil {
		t.Fatal(err)
	}
	p, err := d.Get("shop.test")
	if err != nil {
		t.Fatal(err)
	}
	return NewTransport(base, d), p
}

func TestTransportHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n, open atomic.Int64
		var bodies [2]string
		var loser error
		rt, p := hedging(t, Config{}, func(r *http.Request) (*http.Response, error) {
			i := n.Add(1)
			text, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil {
				return nil, err
			}
			bodies[i-1] = string(text)
			if i == 1 { // slow: it loses, and is told
				<-r.Context().Done()
				loser = r.Context().Err()
				return nil, loser
			}
			if r.Header.Get(HeaderAttempt) != "2" {
				t.Errorf("attempt header %q", r.Header.Get(HeaderAttempt))
			}
			return answer(r, 200, "second", &open), nil
		})
		req, _ := http.NewRequest(http.MethodPut, "http://shop.test/", strings.NewReader("stock=3"))
		start := time.Now()
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		took := time.Since(start)
		synctest.Wait()
		if !errors.Is(loser, context.Canceled) {
			t.Errorf("the loser ended with %v, want context.Canceled", loser)
		}
		time.Sleep(time.Minute) // the winner's body outlives every bound
		text, err := io.ReadAll(resp.Body)
		if err != nil || string(text) != "second" || took != 10*time.Millisecond || n.Load() != 2 {
			t.Errorf("%q, %v after %v and %d attempts", text, err, took, n.Load())
		}
		if resp.Request.Context().Err() != nil {
			t.Error("the winner's context has ended before its body was closed")
		}
		resp.Body.Close()
		if open.Load() != 0 || bodies != [2]string{"stock=3", "stock=3"} {
			t.Errorf("%d bodies open, requests %q", open.Load(), bodies)
		}
		if s := p.Snapshot(); s.InFlight != 0 || s.Counts.Failures != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// A loser that heeds no cancellation brings its response too late: it is closed.
func TestTransportClosesLateLosers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n, open atomic.Int64
		rt, p := hedging(t, Config{}, func(r *http.Request) (*http.Response, error) {
			if n.Add(1) == 1 {
				time.Sleep(time.Second)
				return answer(r, 200, "first", &open), nil
			}
			time.Sleep(time.Millisecond)
			return answer(r, 200, "second", &open), nil
		})
		req, _ := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(text) != "second" {
			t.Errorf("%q, %v", text, err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if open.Load() != 0 || p.Snapshot().InFlight != 0 {
			t.Errorf("%d bodies open, %d permits out", open.Load(), p.Snapshot().InFlight)
		}
	})
}

func TestTransportHedgesOnlyWhatMayBeRepeated(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg    Config
		ctx    func(context.Context) context.Context
		method string
		body   io.Reader
		want   int64
	}{
		"get":                {Config{}, nil, http.MethodGet, nil, 2},
		"post":               {Config{}, nil, http.MethodPost, strings.NewReader("x"), 1},
		"put, one-shot body": {Config{}, nil, http.MethodPut, io.MultiReader(strings.NewReader("x")), 1},
		"a retry already":    {Config{}, func(ctx context.Context) context.Context { return WithAttempt(ctx, 2) }, http.MethodGet, nil, 1},
		"retries off":        {Config{}, NoRetry, http.MethodGet, nil, 1},
		"no budget":          {Config{Budget: BudgetConfig{MinPerSecond: -1, Ratio: 1e-6}}, nil, http.MethodGet, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var n, open atomic.Int64
				rt, _ := hedging(t, tc.cfg, func(r *http.Request) (*http.Response, error) {
					n.Add(1)
					time.Sleep(50 * time.Millisecond)
					return answer(r, 200, "", &open), nil
				})
				ctx := t.Context()
				if tc.ctx != nil {
					ctx = tc.ctx(ctx)
				}
				req, _ := http.NewRequestWithContext(ctx, tc.method, "http://shop.test/", tc.body)
				resp, err := rt.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				time.Sleep(time.Second)
				synctest.Wait()
				if n.Load() != tc.want || open.Load() != 0 {
					t.Errorf("%d attempts, want %d; %d bodies open", n.Load(), tc.want, open.Load())
				}
			})
		})
	}
}

// Hedged or not, all that fails is closed but the one that is returned.
func TestTransportHedgedFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n, open atomic.Int64
		rt, _ := hedging(t, Config{Retry: RetryConfig{BaseDelay: time.Millisecond}}, func(r *http.Request) (*http.Response, error) {
			i := n.Add(1)
			time.Sleep(30 * time.Millisecond)
			return answer(r, 503, strings.Repeat("x", int(i)), &open), nil
		})
		req, _ := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if open.Load() != 1 || resp.StatusCode != 503 || n.Load() != 4 { // a hedged pair, two retries
			t.Errorf("%d bodies open, status %d after %d attempts", open.Load(), resp.StatusCode, n.Load())
		}
		resp.Body.Close()
	})
}

// The call's total time bounds a further attempt too.
func TestTransportTotalBoundsLaterAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := NewDestinations(&DestinationsConfig{Default: Config{
			Deadline: DeadlineConfig{Total: 1500 * time.Millisecond, Attempt: time.Second},
			Retry:    RetryConfig{BaseDelay: time.Microsecond},
		}})
		if err != nil {
			t.Fatal(err)
		}
		rt := NewTransport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}), d)
		req, _ := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
		start := time.Now()
		_, err = rt.RoundTrip(req)
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > 1500*time.Millisecond {
			t.Errorf("%v after %v, want a deadline at 1.5s", err, took)
		}
	})
}

// A panic of the transport below reaches the caller, and leaves nothing behind.
func TestTransportPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var seen context.Context
		d, err := NewDestinations(nil)
		if err != nil {
			t.Fatal(err)
		}
		rt := NewTransport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
			seen = r.Context()
			_ = seen.Done()
			panic("boom")
		}), d)
		req, _ := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
		func() {
			defer func() {
				if p := recover(); p != "boom" {
					t.Errorf("recovered %v", p)
				}
			}()
			_, _ = rt.RoundTrip(req)
		}()
		p, err := d.Get("shop.test")
		if err != nil {
			t.Fatal(err)
		}
		if seen.Err() == nil || p.Snapshot().InFlight != 0 || p.Snapshot().Counts.Failures != 1 {
			t.Errorf("context %v, %+v", seen.Err(), p.Snapshot())
		}
	})
}

// So does that of one attempt while another is under way.
func TestTransportHedgedPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n, open atomic.Int64
		rt, p := hedging(t, Config{}, func(r *http.Request) (*http.Response, error) {
			if n.Add(1) == 2 {
				panic("boom")
			}
			time.Sleep(time.Second)
			return answer(r, 200, "first", &open), nil
		})
		req, _ := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
		func() {
			defer func() {
				if p := recover(); p != "boom" {
					t.Errorf("recovered %v", p)
				}
			}()
			_, _ = rt.RoundTrip(req)
		}()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n.Load() != 2 || open.Load() != 0 || p.Snapshot().InFlight != 0 {
			t.Errorf("%d attempts, %d bodies open, %d permits out", n.Load(), open.Load(), p.Snapshot().InFlight)
		}
	})
}
