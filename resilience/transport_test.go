package resilience

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// site is a server on loopback, its connections counted, and a client whose
// calls go through destinations.
type site struct {
	*httptest.Server
	requests, conns atomic.Int64
	client          *http.Client
	destinations    *Destinations
}

func newSite(t *testing.T, cfg Config, handler http.HandlerFunc) *site {
	t.Helper()
	s := &site{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.requests.Add(1)
		handler(w, r)
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.conns.Add(1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	if cfg.Retry.BaseDelay == 0 {
		cfg.Retry.BaseDelay = time.Microsecond
	}
	var err error
	if s.destinations, err = NewDestinations(&DestinationsConfig{Default: cfg}); err != nil {
		t.Fatal(err)
	}
	base := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(base.CloseIdleConnections)
	s.client = &http.Client{Transport: NewTransport(base, s.destinations)}
	return s
}

func (s *site) pipeline(t *testing.T) *Pipeline {
	t.Helper()
	p, err := s.destinations.Get(strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTransportDrainsWhatItDiscards(t *testing.T) {
	var s *site
	s = newSite(t, Config{Budget: BudgetConfig{MinPerSecond: 100}, Breaker: BreakerConfig{FailureRate: 0.9}}, func(w http.ResponseWriter, r *http.Request) {
		if s.requests.Load()%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, strings.Repeat("sorry ", 10_000))
			return
		}
		if r.Header.Get(HeaderAttempt) != "2" {
			t.Errorf("attempt header %q, want 2", r.Header.Get(HeaderAttempt))
		}
		_, _ = io.WriteString(w, "ok")
	})
	for range 20 {
		resp, err := s.client.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || string(text) != "ok" {
			t.Fatalf("status %d with %d bytes, %v", resp.StatusCode, len(text), err)
		}
	}
	if r, c := s.requests.Load(), s.conns.Load(); r != 40 || c != 1 {
		t.Fatalf("%d requests over %d connections, want 40 over 1", r, c)
	}
}

func TestTransportNeverRepeatsAPostWithoutAKey(t *testing.T) {
	for name, tc := range map[string]struct {
		key     string
		body    io.Reader
		handler http.HandlerFunc
		want    int64
	}{
		"503":                      {"", strings.NewReader("x"), status(503), 1},
		"timeout":                  {"", strings.NewReader("x"), hang, 1},
		"503 with key":             {"k-1", strings.NewReader("x"), status(503), 3},
		"503 with key, one-shot":   {"k-1", io.MultiReader(strings.NewReader("x")), status(503), 1},
		"connection cut":           {"", strings.NewReader("x"), cut, 1},
		"connection cut, with key": {"k-1", strings.NewReader("x"), cut, 3},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := Config{}
			if name == "timeout" { // elsewhere a slow machine must not meet it
				cfg.Deadline.Attempt = time.Second
			}
			s := newSite(t, cfg, tc.handler)
			req, err := http.NewRequest(http.MethodPost, s.URL, tc.body)
			if err != nil {
				t.Fatal(err)
			}
			if tc.key != "" {
				req.Header.Set(HeaderIdempotencyKey, tc.key)
			}
			resp, err := s.client.Do(req)
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode != 503 {
					t.Fatalf("status %d", resp.StatusCode)
				}
			}
			if n := s.requests.Load(); n != tc.want {
				t.Fatalf("%d requests, want %d (%v)", n, tc.want, err)
			}
		})
	}
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(code)
	}
}

func hang(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // the server notices a client that leaves only once the body is read
	<-r.Context().Done()
}

func cut(_ http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

// Whether a call failed for time is asked of an http.Client's error by Timeout.
func TestTransportErrorsTellTimeouts(t *testing.T) {
	attempt := DeadlineConfig{Attempt: 30 * time.Millisecond}
	for name, tc := range map[string]struct {
		method  string
		cfg     Config
		handler http.HandlerFunc
		want    bool
	}{
		"attempts exhausted":   {http.MethodGet, Config{Deadline: attempt}, hang, true},
		"one attempt":          {http.MethodPost, Config{Deadline: attempt}, hang, true},
		"retries off":          {http.MethodGet, Config{Deadline: attempt, Retry: RetryConfig{Off: true}}, hang, true},
		"total deadline":       {http.MethodGet, Config{Deadline: DeadlineConfig{Total: 30 * time.Millisecond}}, hang, true},
		"no time for a second": {http.MethodGet, Config{Retry: RetryConfig{BaseDelay: time.Hour}}, cut, true},
		"connection cut":       {http.MethodGet, Config{}, cut, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, tc.cfg, tc.handler)
			for _, body := range []io.Reader{nil, io.MultiReader(strings.NewReader("x"))} { // replayable and not
				req, err := http.NewRequest(tc.method, s.URL, body)
				if err != nil {
					t.Fatal(err)
				}
				if body != nil && tc.want && name == "no time for a second" {
					continue // it is sent once, and cut
				}
				resp, err := s.client.Do(req)
				if err == nil {
					resp.Body.Close()
				}
				var u *url.Error
				if !errors.As(err, &u) || u.Timeout() != tc.want {
					t.Errorf("%v: timeout %t, want %t", err, u != nil && u.Timeout(), tc.want)
				}
			}
		})
	}
}

func TestTransportOfNothingHasTheDefaults(t *testing.T) {
	s := httptest.NewServer(status(204))
	defer s.Close()
	resp, err := (&http.Client{Transport: NewTransport(nil, nil)}).Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 204 {
		t.Errorf("status %d", resp.StatusCode)
	}
}

func TestTransportReplaysTheBody(t *testing.T) {
	var bodies []string
	s := newSite(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(b))
		if len(bodies) == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	})
	req, _ := http.NewRequest(http.MethodPut, s.URL, strings.NewReader("stock=3"))
	resp, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if len(bodies) != 2 || bodies[0] != "stock=3" || bodies[1] != "stock=3" {
		t.Fatalf("bodies %q", bodies)
	}
}

func TestTransportReturnsTheLastResponse(t *testing.T) {
	s := newSite(t, Config{Budget: BudgetConfig{MinPerSecond: -1}}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, "maintenance")
	})
	resp, err := s.client.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || string(text) != "maintenance" || resp.StatusCode != 503 || s.requests.Load() != 1 {
		t.Fatalf("%d %q %v after %d requests", resp.StatusCode, text, err, s.requests.Load())
	}
}

// Where connections are few, a call that waits before its next attempt leaves its
// connection to the others; its response is still there should that attempt not be
// made.
func TestTransportHoldsNoConnectionInAWait(t *testing.T) {
	for name, tc := range map[string]struct {
		size, kept int
		want       error
	}{
		"empty":     {0, 0, nil},
		"small":     {11, 11, nil},
		"at bound":  {maxParked, maxParked, nil},
		"too large": {maxParked + 1, maxParked, errNotKept},
	} {
		for _, hedged := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, hedge %t", name, hedged), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var open atomic.Int64
					d, err := NewDestinations(&DestinationsConfig{Default: Config{Hedge: HedgeConfig{On: hedged}}})
					if err != nil {
						t.Fatal(err)
					}
					rt := NewTransport(roundTripFunc(func(r *http.Request) (*http.Response, error) {
						resp := answer(r, http.StatusServiceUnavailable, strings.Repeat("x", tc.size), &open)
						resp.Header.Set("Retry-After", "2")
						return resp, nil
					}), d)
					go func() {
						time.Sleep(time.Second)
						if n := open.Load(); n != 0 {
							t.Errorf("%d bodies open in the wait", n)
						}
						p, err := d.Get("shop.test")
						if err != nil {
							t.Error(err)
							return
						}
						p.Breaker().Force(BreakerForcedOpen)
					}()
					req, _ := http.NewRequest(http.MethodGet, "http://shop.test/", nil)
					resp, err := rt.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					text, err := io.ReadAll(resp.Body)
					if resp.StatusCode != http.StatusServiceUnavailable || len(text) != tc.kept || !errors.Is(err, tc.want) {
						t.Errorf("status %d, %d bytes, %v, want the first response", resp.StatusCode, len(text), err)
					}
				})
			})
		}
	}
}

func TestTransportClosesIdleConnections(t *testing.T) {
	s := newSite(t, Config{}, status(http.StatusNoContent))
	for range 2 {
		resp, err := s.client.Get(s.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		s.client.CloseIdleConnections()
	}
	if n := s.conns.Load(); n != 2 {
		t.Errorf("%d connections, want another one after the first was idle and closed", n)
	}
}

// That the body cannot be had again is no word on the destination.
func TestTransportBodyThatIsGone(t *testing.T) {
	s := newSite(t, Config{}, status(http.StatusServiceUnavailable))
	req, err := http.NewRequest(http.MethodPut, s.URL, strings.NewReader("stock=3"))
	if err != nil {
		t.Fatal(err)
	}
	gone := errors.New("gone")
	req.GetBody = func() (io.ReadCloser, error) { return nil, gone }
	resp, err := s.client.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	if !errors.Is(err, gone) || s.requests.Load() != 1 {
		t.Errorf("%v after %d requests", err, s.requests.Load())
	}
	if c := s.pipeline(t).Snapshot().Counts; c != (BreakerCounts{Failures: 1}) {
		t.Errorf("%+v, want the one failure of the response", c)
	}
}

func TestTransportOpensTheBreakerOfOneHost(t *testing.T) {
	bad := newSite(t, Config{Retry: RetryConfig{Off: true}, Breaker: BreakerConfig{MinCalls: 5}}, status(500))
	good := httptest.NewServer(status(200))
	defer good.Close()
	for range 5 {
		resp, err := bad.client.Get(bad.URL)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	if _, err := bad.client.Get(bad.URL); !errors.Is(err, ErrOpen) || bad.requests.Load() != 5 {
		t.Fatalf("%v after %d requests, want ErrOpen after 5", err, bad.requests.Load())
	}
	resp, err := bad.client.Get(good.URL)
	if err != nil {
		t.Fatalf("the other host: %v", err)
	}
	resp.Body.Close()
}

func TestTransportCallerCancelIsNeutral(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := newSite(t, Config{Breaker: BreakerConfig{MinCalls: 1}}, func(w http.ResponseWriter, r *http.Request) {
		cancel() // once it is there
		hang(w, r)
	})
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL, nil)
	if _, err := s.client.Do(req); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	if snap := s.pipeline(t).Snapshot(); snap.Counts != (BreakerCounts{}) || snap.InFlight != 0 || s.requests.Load() != 1 {
		t.Fatalf("%+v after %d requests", snap, s.requests.Load())
	}
}

// The attempt's time bound ends with the header: a slow body is read to its end.
func TestTransportDoesNotCutBodies(t *testing.T) {
	release := make(chan struct{})
	s := newSite(t, Config{Deadline: DeadlineConfig{Attempt: time.Second}}, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "a")
		w.(http.Flusher).Flush()
		<-release
		_, _ = io.WriteString(w, "b")
	})
	resp, err := s.client.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	timer := time.AfterFunc(1200*time.Millisecond, func() { close(release) }) // past the attempt's bound
	defer timer.Stop()
	if text, err := io.ReadAll(resp.Body); err != nil || string(text) != "ab" {
		t.Fatalf("%q, %v", text, err)
	}
}

func TestTransportRefusedDialIsRetriedForAnyMethod(t *testing.T) {
	var n atomic.Int64
	base := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		n.Add(1)
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("refused")}
	}}
	d, err := NewDestinations(&DestinationsConfig{Default: Config{Retry: RetryConfig{BaseDelay: time.Microsecond}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = (&http.Client{Transport: NewTransport(base, d)}).Post("http://shop.test/", "text/plain", strings.NewReader("x"))
	if n.Load() != 3 || !errors.Is(err, ErrAttemptsExhausted) {
		t.Fatalf("%d dials, %v, want 3", n.Load(), err)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"0": 0, "120": 2 * time.Minute, " 7 ": 7 * time.Second,
		"99999999999999999999":          24 * time.Hour,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2020 03:04:35 GMT": 0,
		"Fri, 02 Jan 2099 03:04:35 GMT": 24 * time.Hour,
		"-1":                            -1, "soon": -1, "": -1, "1.5": -1,
	} {
		got, ok := ParseRetryAfter(value, now)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %v, %t, want %v", value, got, ok, want)
		}
	}
}

func FuzzParseHeaders(f *testing.F) {
	for _, s := range []string{"", "120", "-1", "99999999999999999999", "Fri, 02 Jan 2026 03:04:35 GMT", "CRITICAL_PLUS", "2", "0x2"} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := ParseRetryAfter(s, now); d < 0 || d > maxParsedRetryAfter || !ok && d != 0 {
			t.Fatalf("Retry-After %q: %v, %t", s, d, ok)
		}
		if n, ok := ParseAttempt(s); n < 1 || n > maxAttemptOnWire || !ok && n != 1 {
			t.Fatalf("attempt %q: %d, %t", s, n, ok)
		}
		if c, ok := ParseCriticality(s); ok && c.String() != s || !ok && c != Critical {
			t.Fatalf("criticality %q: %v, %t", s, c, ok)
		}
	})
}
