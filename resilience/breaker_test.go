package resilience

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

var errRemote = errors.New("remote failure")

func fail(context.Context) error    { return errRemote }
func succeed(context.Context) error { return nil }

func mustBreaker(t *testing.T, cfg *BreakerConfig, onChange func(from, to BreakerState)) *Breaker {
	t.Helper()
	b, err := NewBreaker("payments", cfg, onChange)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func times(n int, f func()) {
	for range n {
		f()
	}
}

func TestBreakerOpensProbesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var changes []string
		var b *Breaker
		b = mustBreaker(t, &BreakerConfig{MinCalls: 10, OpenFor: time.Second, Probes: 2}, func(from, to BreakerState) {
			changes = append(changes, from.String()+">"+to.String())
			b.State() // the hook may look at the breaker: no lock is held
			b.Counts()
		})
		times(10, func() { _ = b.Execute(t.Context(), fail) })
		if s := b.State(); s != BreakerOpen {
			t.Fatalf("state %v after 10 failures, want open", s)
		}
		err := b.Execute(t.Context(), succeed)
		var rej *Rejection
		if !errors.Is(err, ErrOpen) || !errors.As(err, &rej) || rej.After <= 0 || rej.After > time.Second {
			t.Fatalf("got %#v, want ErrOpen with the time left", err)
		}
		time.Sleep(time.Second + 1)
		times(2, func() {
			if err := b.Execute(t.Context(), succeed); err != nil {
				t.Fatalf("probe: %v", err)
			}
		})
		if s := b.State(); s != BreakerClosed {
			t.Fatalf("state %v after the probes, want closed", s)
		}
		want := []string{"closed>open", "open>half-open", "half-open>closed"}
		if !slices.Equal(changes, want) {
			t.Fatalf("changes %v, want %v", changes, want)
		}
	})
}

// gobreaker's fixed window forgets at its boundary; ours rolls.
func TestBreakerCountsAcrossBucketBoundaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 10, Window: 10 * time.Second}, nil)
		times(9, func() { _ = b.Execute(t.Context(), fail) })
		time.Sleep(5 * time.Second)
		_ = b.Execute(t.Context(), fail)
		if s := b.State(); s != BreakerOpen {
			t.Fatalf("state %v, want open: all 10 failures are within the window", s)
		}
	})
}

func TestBreakerWindowExpiresWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 10, Window: 10 * time.Second}, nil)
		times(9, func() { _ = b.Execute(t.Context(), fail) })
		time.Sleep(time.Minute)
		if c := b.Counts(); c.Failures != 0 {
			t.Fatalf("%d failures are remembered after a minute, want 0", c.Failures)
		}
		_ = b.Execute(t.Context(), fail)
		if s := b.State(); s != BreakerClosed {
			t.Fatalf("state %v, want closed", s)
		}
	})
}

func TestBreakerNeutralOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 5}, nil)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		full := &Rejection{Policy: "bulkhead", Err: ErrBulkheadFull}
		times(50, func() {
			_ = b.Execute(cancelled, fail) // the caller is gone: whatever came back
			_ = b.Execute(t.Context(), func(context.Context) error { return full })
		})
		if c := b.Counts(); c != (BreakerCounts{}) {
			t.Fatalf("counts %+v, want none", c)
		}
		times(50, func() {
			_ = b.Execute(t.Context(), func(context.Context) error { return Permanent(errors.New("no such order")) })
		})
		if c := b.Counts(); c.Failures != 0 || c.Successes != 50 {
			t.Fatalf("counts %+v, want 50 successes: a refusal is an answer", c)
		}
	})
}

// Also where a classification of one's own calls everything a failure.
func TestBreakerNeutralWhateverIsClassified(t *testing.T) {
	p := mustPipeline(t, Config{
		Classify: func(error) Class { return Class{Health: Unhealthy} },
		Breaker:  BreakerConfig{MinCalls: 1}, Bulkhead: BulkheadConfig{MaxConcurrent: 1},
	})
	err := p.Execute(t.Context(), func(ctx context.Context) error {
		times(10, func() { _ = p.Execute(ctx, succeed) })
		return nil
	})
	if s := p.Snapshot(); err != nil || s.Counts != (BreakerCounts{Successes: 1}) {
		t.Fatalf("%v, %+v: a full bulkhead moved the breaker", err, s.Counts)
	}
}

// The panic that opens the breaker is told of before it reaches the caller.
func TestBreakerTellsOfAPanic(t *testing.T) {
	var changes int
	b := mustBreaker(t, &BreakerConfig{MinCalls: 1}, func(_, to BreakerState) {
		if to == BreakerOpen {
			changes++
		}
	})
	func() {
		defer func() { _ = recover() }()
		_ = b.Execute(t.Context(), func(context.Context) error { panic("boom") })
	}()
	if changes != 1 {
		t.Fatalf("the hook was called %d times, want once", changes)
	}
}

// A dependency that hangs until the caller's deadline has failed.
func TestBreakerCountsDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 5}, nil)
		times(5, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			_ = b.Execute(ctx, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		})
		if s := b.State(); s != BreakerOpen {
			t.Fatalf("state %v, want open", s)
		}
	})
}

func openBreaker(t *testing.T, b *Breaker) {
	t.Helper()
	times(b.cfg.MinCalls, func() { _ = b.Execute(t.Context(), fail) })
	if s := b.State(); s != BreakerOpen {
		t.Fatalf("state %v, want open", s)
	}
}

func TestBreakerHungProbeDoesNotHoldIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 5, OpenFor: time.Second, Probes: 1, ProbeTimeout: 2 * time.Second}, nil)
		openBreaker(t, b)
		time.Sleep(time.Second + 1)
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = b.Execute(t.Context(), func(context.Context) error { <-release; return nil })
		})
		synctest.Wait()
		if err := b.Execute(t.Context(), succeed); !errors.Is(err, ErrOpen) {
			t.Fatalf("beside the probe: %v, want ErrOpen", err)
		}
		time.Sleep(2 * time.Second)
		if s := b.State(); s != BreakerOpen {
			t.Fatalf("state %v once the probe's time is over, want open", s)
		}
		time.Sleep(time.Second + 1)
		if err := b.Execute(t.Context(), succeed); err != nil {
			t.Fatalf("next probe: %v", err)
		}
		if s := b.State(); s != BreakerClosed {
			t.Fatalf("state %v, want closed", s)
		}
		close(release)
		wg.Wait()
		if c := b.Counts(); c != (BreakerCounts{}) {
			t.Fatalf("counts %+v: the hung probe's late result must not count", c)
		}
	})
}

func TestBreakerProbePermitSurvivesPanicGoexitAndCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, end := range map[string]struct {
			fn   func(context.Context) error
			want BreakerState
		}{
			"panic":  {func(context.Context) error { panic("boom") }, BreakerOpen},
			"goexit": {func(context.Context) error { runtime.Goexit(); return nil }, BreakerHalfOpen},
			"cancel": {func(context.Context) error { return context.Canceled }, BreakerHalfOpen},
		} {
			b := mustBreaker(t, &BreakerConfig{MinCalls: 5, OpenFor: time.Second, Probes: 1}, nil)
			openBreaker(t, b)
			time.Sleep(time.Second + 1)
			var wg sync.WaitGroup
			wg.Go(func() {
				defer func() { _ = recover() }()
				_ = b.Execute(t.Context(), end.fn)
			})
			wg.Wait()
			if s := b.State(); s != end.want {
				t.Fatalf("%s: state %v, want %v", name, s, end.want)
			}
			time.Sleep(time.Second + 1)
			if err := b.Execute(t.Context(), succeed); err != nil {
				t.Fatalf("%s: the permit is lost: %v", name, err)
			}
		}
	})
}

func TestBreakerStaleResultDoesNotMoveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 5, OpenFor: time.Second, Probes: 2}, nil)
		release := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() { // begins while closed, fails while half-open
			_ = b.Execute(t.Context(), func(context.Context) error { <-release; return errRemote })
		})
		stream, err := b.Begin(t.Context()) // the same for a call in two steps
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		openBreaker(t, b)
		time.Sleep(time.Second + 1)
		if err := b.Execute(t.Context(), succeed); err != nil {
			t.Fatal(err)
		}
		close(release)
		wg.Wait()
		stream.Done(t.Context(), errRemote)
		if s := b.State(); s != BreakerHalfOpen {
			t.Fatalf("state %v, want half-open", s)
		}
	})
}

func TestBreakerSlowCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 10, SlowCall: time.Second, SlowRate: 0.5, FailureRate: 0.9}, nil)
		slowly := func(context.Context) error { time.Sleep(time.Second); return nil }
		times(6, func() { _ = b.Execute(t.Context(), succeed) })
		times(4, func() { _ = b.Execute(t.Context(), slowly) })
		if s := b.State(); s != BreakerClosed {
			t.Fatalf("state %v with 40%% slow, want closed", s)
		}
		times(2, func() { _ = b.Execute(t.Context(), slowly) })
		if s := b.State(); s != BreakerOpen {
			t.Fatalf("state %v with 50%% slow, want open", s)
		}
	})
}

// Slow calls that began before the breaker opened end after it has closed.
func TestBreakerStaleSlowCallsDoNotMoveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBreaker(t, &BreakerConfig{MinCalls: 10, Probes: 1, SlowCall: 100 * time.Millisecond}, nil)
		var stale []Admission
		times(50, func() {
			a, err := b.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			stale = append(stale, a)
		})
		times(10, func() { _ = b.Execute(t.Context(), fail) })
		if s := b.State(); s != BreakerOpen {
			t.Fatalf("state %v, want open", s)
		}
		time.Sleep(1001 * time.Millisecond)
		_ = b.Execute(t.Context(), succeed)
		for _, a := range stale {
			a.Done(t.Context(), nil)
		}
		times(19, func() { _ = b.Execute(t.Context(), succeed) })
		_ = b.Execute(t.Context(), fail)
		if s := b.State(); s != BreakerClosed {
			t.Errorf("state %v with 1 failure of 20 and none slow, want closed", s)
		}
	})
}

func TestBreakerForced(t *testing.T) {
	b := mustBreaker(t, &BreakerConfig{MinCalls: 2}, nil)
	b.Force(BreakerForcedOpen)
	if err := b.Execute(t.Context(), succeed); !errors.Is(err, ErrOpen) {
		t.Fatalf("forced open: %v", err)
	}
	b.Force(BreakerOff)
	times(10, func() { _ = b.Execute(t.Context(), fail) })
	if c := b.Counts(); c != (BreakerCounts{}) {
		t.Fatalf("off: counts %+v, want none", c)
	}
	b.Force(BreakerForcedClosed)
	times(10, func() {
		if err := b.Execute(t.Context(), fail); !errors.Is(err, errRemote) {
			t.Fatalf("forced closed: %v", err)
		}
	})
	b.Force(BreakerAuto)
	if s := b.State(); s != BreakerOpen {
		t.Fatalf("state %v, want open: outcomes were counted", s)
	}
}
