package resilience

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func mustShedder(t *testing.T, cfg *ShedderConfig) *Shedder {
	t.Helper()
	s, err := NewShedder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func fixedLimit(n int) *ShedderConfig {
	return &ShedderConfig{InitialLimit: n, MinLimit: n, MaxLimit: n, MaxQueue: 4, MaxWait: time.Second}
}

func TestShedderServesTheCriticalFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustShedder(t, fixedLimit(1))
		busy, err := s.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []Criticality
		var wg sync.WaitGroup
		for _, c := range []Criticality{Sheddable, SheddablePlus, Critical, CriticalPlus} {
			wg.Go(func() {
				err := s.Execute(WithCriticality(t.Context(), c), func(context.Context) error {
					mu.Lock()
					defer mu.Unlock()
					order = append(order, c)
					return nil
				})
				if err != nil && c != Sheddable {
					t.Errorf("%v: %v", c, err)
				} else if c == Sheddable && !errors.Is(err, ErrShed) {
					t.Errorf("sheddable was not displaced: %v", err)
				}
			})
			synctest.Wait()
		}
		// The queue is full: one more critical request drives out the least critical.
		wg.Go(func() { _ = s.Execute(t.Context(), succeed) })
		synctest.Wait()
		if err := s.Execute(WithCriticality(t.Context(), Sheddable), succeed); !errors.Is(err, ErrShed) || !IsLocalRejection(err) {
			t.Fatalf("full queue: %v, want ErrShed", err)
		}
		busy.Release(ShedIgnore)
		wg.Wait()
		if len(order) != 3 || order[0] != CriticalPlus || order[1] != Critical || order[2] != SheddablePlus {
			t.Fatalf("served %v", order)
		}
		if snap := s.Snapshot(); snap.InFlight != 0 || snap.Waiting != 0 {
			t.Fatalf("%+v", snap)
		}
	})
}

func TestShedderKeepsRoomForTheCritical(t *testing.T) {
	s := mustShedder(t, &ShedderConfig{InitialLimit: 100, MinLimit: 100, MaxLimit: 100, MaxQueue: 1, MaxWait: time.Nanosecond})
	fill := func(c Criticality) (n int) {
		for {
			if _, err := s.Acquire(WithCriticality(t.Context(), c)); err != nil {
				return n
			}
			n++
		}
	}
	for _, step := range []struct {
		c    Criticality
		want int
	}{{Sheddable, 50}, {SheddablePlus, 25}, {Critical, 20}, {CriticalPlus, 5}} {
		if got := fill(step.c); got != step.want {
			t.Fatalf("%v got %d more places, want %d", step.c, got, step.want)
		}
	}
}

// What has waited until its deadline is nearer than the service time is
// dropped: serving it would be work for nobody.
func TestShedderDropsWhatCannotMakeItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustShedder(t, fixedLimit(1))
		times(20, func() { // teach it the service time
			_ = s.Execute(t.Context(), func(context.Context) error { time.Sleep(50 * time.Millisecond); return nil })
		})
		if d := s.Snapshot().ServiceTime; d != 50*time.Millisecond {
			t.Fatalf("service time %v, want 50ms", d)
		}
		busy, err := s.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		var served bool
		var wg sync.WaitGroup
		wg.Go(func() {
			err := s.Execute(ctx, func(context.Context) error { served = true; return nil })
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v, want DeadlineExceeded", err)
			}
		})
		time.Sleep(60 * time.Millisecond) // 40 ms are left
		busy.Release(ShedIgnore)
		wg.Wait()
		if served {
			t.Fatal("it was served although its deadline could not be met")
		}
	})
}

func TestShedderPlacesSurvivePanicGoexitAndCancel(t *testing.T) {
	s := mustShedder(t, nil)
	for _, fn := range []func(context.Context) error{
		func(context.Context) error { panic("boom") },
		func(context.Context) error { runtime.Goexit(); return nil },
		func(context.Context) error { return context.Canceled },
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			_ = s.Execute(t.Context(), fn)
		}()
		<-done
	}
	if snap := s.Snapshot(); snap.InFlight != 0 || snap.ServiceTime != 0 {
		t.Fatalf("%+v, want nothing in flight and nothing learnt", snap)
	}
}

// A server that can serve 20 at once in 10 ms, and gets slower with each more.
// Real goroutines, so that places come in the moment in which callers leave.
func TestShedderConservesPlacesUnderChurn(t *testing.T) {
	s := mustShedder(t, &ShedderConfig{MinLimit: 3, InitialLimit: 3, MaxLimit: 3, MaxQueue: 8, MaxWait: time.Millisecond})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(WithCriticality(t.Context(), Criticality(1+i%4)))
				if i%3 == 0 {
					go cancel()
				}
				_ = s.Execute(ctx, func(context.Context) error {
					runtime.Gosched()
					return nil
				})
				cancel()
			}
		})
	}
	wg.Wait()
	if now := s.Snapshot(); now.InFlight != 0 || now.Waiting != 0 {
		t.Fatalf("%+v, want no place taken", now)
	}
}

func TestShedderFindsTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustShedder(t, &ShedderConfig{InitialLimit: 200, MaxLimit: 400})
		var mu sync.Mutex
		inside := 0
		serve := func(context.Context) error {
			mu.Lock()
			inside++
			n := inside
			mu.Unlock()
			time.Sleep(10 * time.Millisecond * time.Duration(max(n, 20)) / 20)
			mu.Lock()
			inside--
			mu.Unlock()
			return nil
		}
		var wg sync.WaitGroup
		// First some calm, so that it knows the latency without load.
		for range 5000 {
			wg.Go(func() { _ = s.Execute(t.Context(), serve) })
			time.Sleep(time.Second / 1500)
		}
		wg.Wait()
		calm := s.Snapshot()
		for range 20_000 {
			wg.Go(func() { _ = s.Execute(t.Context(), serve) })
			time.Sleep(time.Second / 10_000)
		}
		loaded := s.Snapshot()
		wg.Wait()
		if loaded.Limit >= calm.Limit || loaded.Limit > 100 {
			t.Fatalf("limit %d calm, %d under five times the load: it did not come down", calm.Limit, loaded.Limit)
		}
	})
}

func TestMiddlewareHooks(t *testing.T) {
	limiter, err := NewKeyedLimiter("api", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 0.001, Burst: 1}})
	if err != nil {
		t.Fatal(err)
	}
	ceiling := mustBulkhead(t, &BulkheadConfig{MaxConcurrent: 1})
	var seen []string
	guard, err := Middleware(&MiddlewareConfig{
		Ceiling: ceiling, Limiter: limiter, Key: func(*http.Request) string { return "ada" },
		Hooks: &Hooks{Rejected: func(_ context.Context, name string, r *Rejection) { seen = append(seen, name+" "+r.Policy) }},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := guard(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	get := func() int {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
		return w.Code
	}
	codes := []int{get(), get()}
	if err := ceiling.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	codes = append(codes, get())
	if !slices.Equal(codes, []int{200, 429, 503}) || !slices.Equal(seen, []string{"api limiter", "db bulkhead"}) {
		t.Fatalf("answers %v, hook saw %v", codes, seen)
	}
}

func TestMiddleware(t *testing.T) {
	limiter, err := NewKeyedLimiter("users", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 0.1, Burst: 1}})
	if err != nil {
		t.Fatal(err)
	}
	shedder := mustShedder(t, fixedLimit(1))
	guard, err := Middleware(&MiddlewareConfig{
		Shedder: shedder, Limiter: limiter, Deadline: time.Minute,
		Key: func(r *http.Request) string { return r.Header.Get("X-User") },
	})
	if err != nil {
		t.Fatal(err)
	}
	var saw Criticality
	h := guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		saw = CriticalityFrom(r.Context())
		if _, ok := r.Context().Deadline(); !ok {
			t.Error("no deadline")
		}
		if s := shedder.Snapshot(); s.InFlight != 1 {
			t.Errorf("%+v", s)
		}
	}))
	get := func() *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-User", "ada")
		r.Header.Set(HeaderCriticality, "CRITICAL_PLUS") // from outside: ignored
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	if w := get(); w.Code != 200 || saw != Critical || w.Header().Get("RateLimit-Policy") != `"default";q=1;w=10` {
		t.Fatalf("%d %v %v", w.Code, saw, w.Header())
	}
	if w := get(); w.Code != 429 || w.Header().Get("Retry-After") != "10" {
		t.Fatalf("%d %v, want 429 with Retry-After 10", w.Code, w.Header())
	}
	busy, err := shedder.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Release(ShedIgnore)
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Fatalf("%d %v, want 503 with Retry-After", w.Code, w.Header())
	}
}
