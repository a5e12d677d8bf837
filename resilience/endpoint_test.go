package resilience

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndpointsHaveBreakersAndShareTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		p := mustPipeline(t, Config{
			Breaker:  BreakerConfig{MinCalls: 5, MaxEndpoints: 2},
			Bulkhead: BulkheadConfig{MaxConcurrent: 1},
			Budget:   BudgetConfig{MinPerSecond: -1},
			Hooks: &Hooks{BreakerState: func(name string, from, to BreakerState) {
				changes = append(changes, fmt.Sprintf("%s: %s>%s", name, from, to))
			}},
		})
		call := func(endpoint string, fn func(context.Context) error) error {
			return p.Call(t.Context(), Call{Endpoint: endpoint}, fn)
		}
		times(5, func() { _ = call("/Charge", fail) })
		if err := call("/Charge", succeed); !errors.Is(err, ErrOpen) {
			t.Fatalf("the endpoint that fails: %v, want ErrOpen", err)
		}
		if _, err := p.Begin(t.Context(), Call{Endpoint: "/Charge"}); !errors.Is(err, ErrOpen) {
			t.Fatalf("its streams: %v, want ErrOpen", err)
		}
		for _, other := range []string{"/Refund", "", "/Third", strings.Repeat("x", 10_000)} {
			if err := call(other, succeed); err != nil {
				t.Fatalf("endpoint %.10q: %v", other, err)
			}
		}
		if want := []string{"payments /Charge: closed>open"}; !slices.Equal(changes, want) {
			t.Fatalf("hook saw %q, want %q", changes, want)
		}

		s := p.Snapshot()
		if len(s.Endpoints) != 2 || s.Endpoints[0].Endpoint != "/Charge" || s.Endpoints[0].Breaker != BreakerOpen || s.Endpoints[1].Endpoint != "/Refund" {
			t.Fatalf("endpoints %+v", s.Endpoints)
		}
		// "", the third, and the long one have the destination's.
		if s.Counts.Successes != 3 || s.Breaker != BreakerClosed {
			t.Fatalf("the destination's breaker: %+v", s)
		}
		p.EndpointBreaker("/Charge").Force(BreakerForcedClosed)
		if err := call("/Charge", succeed); err != nil {
			t.Fatalf("forced closed: %v", err)
		}
		if p.EndpointBreaker("/Third") != p.Breaker() {
			t.Fatal("an endpoint beyond MaxEndpoints has a breaker of its own")
		}

		// One bulkhead and one budget for all of them.
		err := call("/Refund", func(context.Context) error { return call("", succeed) })
		if !errors.Is(err, ErrBulkheadFull) {
			t.Fatalf("got %v, want ErrBulkheadFull", err)
		}
		if got := p.Budget().Balance(); got != 0 {
			t.Fatalf("balance %d", got)
		}
	})
}

func TestTransportNamesEndpoints(t *testing.T) {
	d, err := NewDestinations(&DestinationsConfig{
		Default:      Config{Breaker: BreakerConfig{MaxEndpoints: 8, MinCalls: 2}},
		HTTPEndpoint: func(r *http.Request) string { return r.Method + " " + r.URL.Path },
	})
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: NewTransport(roundTripper(func(r *http.Request) (*http.Response, error) {
		code := 200
		if r.URL.Path == "/broken" {
			code = 500
		}
		return &http.Response{StatusCode: code, Body: http.NoBody, Request: r}, nil
	}), d)}
	get := func(path string) error {
		resp, err := client.Get("http://shop.test" + path)
		if err == nil {
			resp.Body.Close()
		}
		return err
	}
	times(2, func() { _ = get("/broken") })
	if err := get("/broken"); !errors.Is(err, ErrOpen) {
		t.Fatalf("the broken route: %v, want ErrOpen", err)
	}
	if err := get("/fine"); err != nil {
		t.Fatalf("the other route: %v", err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestPipelineHedges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hedged atomic.Int64
		p := mustPipeline(t, Config{
			Hedge:    HedgeConfig{On: true, Delay: 10 * time.Millisecond},
			Bulkhead: BulkheadConfig{MaxConcurrent: 2},
			Hooks:    &Hooks{Hedged: func(context.Context, string, int) { hedged.Add(1) }},
		})
		slowFirst := func(ctx context.Context) (int, error) {
			n := AttemptFrom(ctx)
			if n == 1 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return n, nil
		}
		start := time.Now()
		got, err := Do(Idempotent(t.Context()), p, slowFirst)
		if err != nil || got != 2 || time.Since(start) != 10*time.Millisecond {
			t.Fatalf("got %d, %v after %v, want the second attempt's reply after 10ms", got, err, time.Since(start))
		}
		synctest.Wait()
		if s := p.Snapshot(); s.InFlight != 0 || s.Counts.Failures != 0 || s.Counts.Successes != 1 {
			t.Fatalf("%+v: the loser was cancelled by us, which is neutral", s)
		}

		// Neither what is unsafe, nor what cannot overlap, nor a retry of the caller's.
		for name, err := range map[string]error{
			"not idempotent": p.Execute(t.Context(), func(ctx context.Context) error { time.Sleep(time.Second); return nil }),
			"no overlap":     p.Call(Idempotent(t.Context()), Call{}, func(ctx context.Context) error { time.Sleep(time.Second); return nil }),
			"a retry": p.Execute(WithAttempt(Idempotent(t.Context()), 2), func(ctx context.Context) error {
				time.Sleep(time.Second)
				return nil
			}),
		} {
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if n := hedged.Load(); n != 1 {
			t.Fatalf("%d hedges, want 1", n)
		}
	})
}

// The extra attempt finds no permit after the first one has failed: what the
// caller hears is that something was sent.
func TestHedgeRejectionDoesNotHideAnAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := NewHedge("quotes", nil, &HedgeConfig{Delay: time.Millisecond, AssumeIdempotent: true})
		if err != nil {
			t.Fatal(err)
		}
		err = h.Execute(t.Context(), func(ctx context.Context) error {
			if AttemptFrom(ctx) == 1 {
				time.Sleep(5 * time.Millisecond)
				return errRemote
			}
			time.Sleep(10 * time.Millisecond)
			return &Rejection{Policy: "bulkhead", Err: ErrBulkheadFull}
		})
		if !errors.Is(err, errRemote) || IsLocalRejection(err) {
			t.Fatalf("got %v, want the error of the attempt that was made", err)
		}
	})
}
