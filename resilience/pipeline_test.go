package resilience

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPipelineSuccessDoesNotAllocate(t *testing.T) {
	p := mustPipeline(t, Config{Deadline: DeadlineConfig{Off: true}})
	ctx := context.Background()
	if n := testing.AllocsPerRun(1000, func() { _ = p.Execute(ctx, succeed) }); n != 0 {
		t.Fatalf("%v allocations per call, want 0", n)
	}
	p.Breaker().Force(BreakerForcedOpen)
	if n := testing.AllocsPerRun(1000, func() { _ = p.Execute(ctx, succeed) }); n != 0 {
		t.Fatalf("%v allocations per rejection, want 0", n)
	}
}

func TestPipelineGivesPermitsBack(t *testing.T) {
	p := mustPipeline(t, Config{Bulkhead: BulkheadConfig{MaxConcurrent: 2}})
	for name, fn := range map[string]func(context.Context) error{
		"panic":  func(context.Context) error { panic("boom") },
		"goexit": func(context.Context) error { runtime.Goexit(); return nil },
		"error":  fail,
	} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			_ = p.Execute(t.Context(), fn)
		}()
		<-done
		if s := p.Snapshot(); s.InFlight != 0 {
			t.Fatalf("after %s: %d in flight, want 0", name, s.InFlight)
		}
	}
}

func TestPipelineLocalRejectionsDoNotMoveTheBreaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustPipeline(t, Config{
			Bulkhead: BulkheadConfig{MaxConcurrent: 1},
			Breaker:  BreakerConfig{MinCalls: 5},
		})
		release := make(chan struct{})
		go func() {
			_ = p.Execute(t.Context(), func(context.Context) error { <-release; return nil })
		}()
		synctest.Wait()
		times(100, func() {
			if err := p.Execute(Idempotent(t.Context()), succeed); !errors.Is(err, ErrBulkheadFull) || !IsLocalRejection(err) {
				t.Fatalf("got %v, want ErrBulkheadFull", err)
			}
		})
		close(release)
		synctest.Wait()
		if s := p.Snapshot(); s.Breaker != BreakerClosed || s.Counts.Failures != 0 {
			t.Fatalf("%+v: rejections moved the breaker", s)
		}
	})
}

func TestPipelinePartsCanBeOff(t *testing.T) {
	p := mustPipeline(t, Config{
		Deadline: DeadlineConfig{Off: true}, Retry: RetryConfig{Off: true}, Budget: BudgetConfig{Off: true},
		Breaker: BreakerConfig{Off: true}, Bulkhead: BulkheadConfig{Off: true},
	})
	fn, n := counting(errRemote)
	if err := p.Execute(Idempotent(t.Context()), fn); err != errRemote || *n != 1 {
		t.Fatalf("%d attempts, %v", *n, err)
	}
	if s := p.Snapshot(); s.Budget != math.MaxInt || s.Breaker != BreakerClosed {
		t.Fatalf("%+v", s)
	}
}

func TestPipelineHooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		add := func(format string, args ...any) { log = append(log, fmt.Sprintf(format, args...)) }
		p := mustPipeline(t, Config{
			Breaker: BreakerConfig{MinCalls: 2, OpenFor: time.Minute},
			Hooks: &Hooks{
				Done: func(_ context.Context, name string, attempts int, err error) {
					add("done %s %d %t", name, attempts, err == nil)
				},
				Retry:        func(_ context.Context, _ string, attempt int, _ time.Duration, _ error) { add("retry %d", attempt) },
				GaveUp:       func(_ context.Context, _ string, _ int, reason, _ error) { add("gave up") },
				Rejected:     func(_ context.Context, _ string, r *Rejection) { add("rejected by %s", r.Policy) },
				BreakerState: func(name string, from, to BreakerState) { add("%s>%s", from, to) },
			},
		})
		fn, _ := counting(errRemote)
		_ = p.Execute(Idempotent(t.Context()), fn)
		_ = p.Execute(t.Context(), fail)
		_ = p.Execute(t.Context(), fail)
		_ = p.Execute(t.Context(), fail)
		want := "retry 1; done payments 2 true; closed>open; done payments 1 false; rejected by breaker; done payments 1 false; " +
			"rejected by breaker; done payments 1 false"
		if got := strings.Join(log, "; "); got != want {
			t.Fatalf("hooks:\n got %s\nwant %s", got, want)
		}
	})
}

func TestPassHoldsAPermitUntilItsEnd(t *testing.T) {
	p := mustPipeline(t, Config{Bulkhead: BulkheadConfig{MaxConcurrent: 1}})
	pass, err := p.Begin(t.Context(), Call{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Begin(t.Context(), Call{}); !errors.Is(err, ErrBulkheadFull) {
		t.Fatalf("got %v, want ErrBulkheadFull", err)
	}
	pass.End(t.Context(), errRemote)
	pass.End(t.Context(), errRemote)
	if s := p.Snapshot(); s.InFlight != 0 || s.Counts.Failures != 1 {
		t.Fatalf("%+v, want no permit out and one failure", s)
	}
}

// Streams live for as long as they like: their first message is what closes a
// half-open breaker and what must not be slow.
func TestPassThatWasAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustPipeline(t, Config{Breaker: BreakerConfig{MinCalls: 3, Probes: 2, SlowCall: time.Second}})
		begin := func() *Pass {
			t.Helper()
			pass, err := p.Begin(t.Context(), Call{})
			if err != nil {
				t.Fatal(err)
			}
			return pass
		}
		times(3, func() { begin().End(t.Context(), errRemote) })
		if s := p.Breaker().State(); s != BreakerOpen {
			t.Fatalf("state %v, want open", s)
		}
		time.Sleep(1001 * time.Millisecond)
		streams := []*Pass{begin(), begin()}
		if _, err := p.Begin(t.Context(), Call{}); !errors.Is(err, ErrOpen) {
			t.Fatalf("got %v with both probes out, want ErrOpen", err)
		}
		for _, s := range streams {
			s.Answered(t.Context())
			s.Answered(t.Context())
		}
		if s := p.Breaker().State(); s != BreakerClosed {
			t.Fatalf("state %v after both probes were answered, want closed", s)
		}
		streams = append(streams, begin(), begin(), begin())
		for _, s := range streams {
			s.Answered(t.Context())
		}
		time.Sleep(time.Hour)
		expired, cancel := context.WithTimeout(t.Context(), 0)
		defer cancel()
		streams[2].End(t.Context(), nil)
		streams[3].End(t.Context(), errRemote)
		streams[4].End(expired, context.DeadlineExceeded)
		if s := p.Snapshot(); s.Breaker != BreakerClosed || s.Counts != (BreakerCounts{Successes: 1, Failures: 1}) || s.InFlight != 2 {
			t.Fatalf("%+v, want closed, with a success, a failure and the probes under way", s)
		}
		begin().End(expired, context.DeadlineExceeded) // never answered
		if s := p.Breaker().State(); s != BreakerOpen {
			t.Fatalf("state %v after another failure, want open", s)
		}
		streams[0].End(t.Context(), errRemote)
		streams[1].End(t.Context(), errRemote)
		if n := p.Snapshot().InFlight; n != 0 {
			t.Fatalf("%d permits out", n)
		}
	})
}

func TestDoHasOneReplyPerAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := NewHedge("quotes", nil, &HedgeConfig{Delay: 10 * time.Millisecond, AssumeIdempotent: true})
		if err != nil {
			t.Fatal(err)
		}
		var n atomic.Int64
		got, err := Do(t.Context(), h, func(ctx context.Context) (*int64, error) {
			mine := n.Add(1)
			if mine == 1 { // slow, and it does not heed its context
				time.Sleep(time.Second)
			}
			return &mine, nil
		})
		if err != nil || *got != 2 {
			t.Fatalf("got %v, %v, want the second attempt's reply", got, err)
		}
		time.Sleep(2 * time.Second)
		if *got != 2 {
			t.Fatal("the loser overwrote the reply")
		}
	})
}

func TestHedgePaysFromTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := mustBudget(t, &BudgetConfig{MinPerSecond: 0.33, TTL: 10 * time.Second})
		h, err := NewHedge("quotes", budget, &HedgeConfig{Delay: time.Millisecond, AssumeIdempotent: true})
		if err != nil {
			t.Fatal(err)
		}
		calls := make(chan struct{}, 100)
		times(10, func() {
			_ = h.Execute(t.Context(), func(ctx context.Context) error {
				calls <- struct{}{}
				time.Sleep(10 * time.Millisecond)
				return nil
			})
		})
		synctest.Wait()
		time.Sleep(time.Second)
		if n := len(calls); n != 13 {
			t.Fatalf("%d attempts, want 10 and the 3 of the budget", n)
		}
	})
}

// The delay follows the latency of the calls, which hedging does not change below
// it: were a fast hedge's own time counted, the delay would fall and fall.
func TestHedgeQuantileIsTheCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := mustBudget(t, &BudgetConfig{MinPerSecond: 1e5})
		h, err := NewHedge("quotes", budget, &HedgeConfig{Quantile: 0.9, AssumeIdempotent: true})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2048 {
			if err := h.Execute(t.Context(), func(ctx context.Context) error {
				if AttemptFrom(ctx) > 1 {
					return sleep(ctx, 10*time.Millisecond)
				}
				return sleep(ctx, time.Duration(1+i%20)*10*time.Millisecond)
			}); err != nil {
				t.Fatal(err)
			}
		}
		if d := h.currentDelay(); d < 180*time.Millisecond || d > 191*time.Millisecond {
			t.Errorf("the delay has become %v, want the 90th percentile of 10ms to 200ms", d)
		}
	})
}

func TestHedgeDoesNotRepeatGoexit(t *testing.T) {
	p := mustPipeline(t, Config{Hedge: HedgeConfig{On: true}})
	var n atomic.Int64
	err := p.Execute(Idempotent(t.Context()), func(context.Context) error {
		n.Add(1)
		runtime.Goexit()
		return nil
	})
	if err == nil || n.Load() != 1 {
		t.Fatalf("%d attempts, %v, want 1 and an error", n.Load(), err)
	}
}

func TestHedgePassesPanicsOnAndSkipsUnsafeCalls(t *testing.T) {
	h, err := NewHedge("quotes", nil, &HedgeConfig{Delay: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	fn, n := counting(errRemote)
	if err := h.Execute(t.Context(), fn); err != errRemote || *n != 1 {
		t.Fatalf("%d attempts, %v", *n, err)
	}
	defer func() {
		if p := recover(); p != "boom" {
			t.Fatalf("recovered %v, want boom", p)
		}
	}()
	_ = h.Execute(Idempotent(t.Context()), func(context.Context) error { panic("boom") })
}

func TestThrottleFollowsTheShareAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th, err := NewThrottle("payments", &ThrottleConfig{Rand: func() float64 { return 0.5 }})
		if err != nil {
			t.Fatal(err)
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		times(1000, func() { _ = th.Execute(cancelled, fail) })
		times(100, func() {
			if err := th.Execute(t.Context(), succeed); err != nil {
				t.Fatalf("healthy destination: %v", err)
			}
		})
		// 0.5 is reached once requests exceed twice the accepted and as many again.
		sent := 0
		times(1000, func() {
			if err := th.Execute(t.Context(), fail); !IsLocalRejection(err) {
				sent++
			}
		})
		if sent < 200 || sent > 400 {
			t.Fatalf("%d of 1000 sent to a destination that refuses all", sent)
		}
		time.Sleep(3 * time.Minute)
		if err := th.Execute(t.Context(), succeed); err != nil {
			t.Fatalf("after the window: %v", err)
		}
	})
}

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, err := NewLimiter("api", &LimiterConfig{PerSecond: 2, Burst: 3})
		if err != nil {
			t.Fatal(err)
		}
		times(3, func() {
			if err := l.Execute(t.Context(), succeed); err != nil {
				t.Fatal(err)
			}
		})
		err = l.Allow()
		var rej *Rejection
		if !errors.As(err, &rej) || !errors.Is(err, ErrLimited) || rej.After != 500*time.Millisecond {
			t.Fatalf("got %#v, want ErrLimited for 500ms", err)
		}
		if q := l.Quota(); q.Limit != 3 || q.Remaining != 0 || q.Window != 1500*time.Millisecond {
			t.Fatalf("%+v", q)
		}
		time.Sleep(rej.After)
		if err := l.Allow(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDestinationsAndKeysAreBounded(t *testing.T) {
	d, err := NewDestinations(&DestinationsConfig{Max: 100})
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := d.Get("kept")
	for i := range 5000 {
		if _, err := d.Get(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		if again, _ := d.Get("kept"); again != kept {
			t.Fatalf("a destination in use was forgotten after %d others", i)
		}
	}
	if n := len(d.Snapshot()); n != 100 {
		t.Fatalf("%d destinations are remembered, want 100", n)
	}
	if _, err := d.Get(""); err == nil {
		t.Fatal("a destination without a name was accepted")
	}

	l, err := NewKeyedLimiter("users", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 1, Burst: 1}, MaxKeys: 160})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		if _, err := l.Allow(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := l.Keys(); n > 160 {
		t.Fatalf("%d keys are remembered, want at most 160", n)
	}
	if _, err := l.Allow("4999"); !errors.Is(err, ErrLimited) {
		t.Fatalf("got %v, want ErrLimited", err)
	}
}

func TestComposeAppliesOutermostFirst(t *testing.T) {
	var order []string
	layer := func(name string) Policy {
		return PolicyFunc(func(ctx context.Context, fn func(context.Context) error) error {
			order = append(order, name)
			return fn(ctx)
		})
	}
	for _, p := range []Policy{Compose(), Compose(layer("a")), Compose(layer("b"), layer("c"), layer("d"))} {
		if err := p.Execute(t.Context(), fail); err != errRemote {
			t.Fatal(err)
		}
	}
	if got := strings.Join(order, ""); got != "abcd" {
		t.Fatalf("order %s, want abcd", got)
	}
}
