package resilience

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func mustPipeline(t testing.TB, cfg Config) *Pipeline {
	t.Helper()
	p, err := NewPipeline("payments", &cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// counting returns a function that fails with the given errors in turn, then
// succeeds, and its number of calls.
func counting(errs ...error) (func(context.Context) error, *int) {
	n := 0
	return func(context.Context) error {
		n++
		if n <= len(errs) {
			return errs[n-1]
		}
		return nil
	}, &n
}

func TestRetryOnlyWhatIsProvenSafe(t *testing.T) {
	dial := &net.OpError{Op: "dial", Err: errors.New("refused")}
	read := &net.OpError{Op: "read", Err: errors.New("reset")}
	for name, tc := range map[string]struct {
		ctx  func(context.Context) context.Context
		err  error
		want int
	}{
		"unmarked":                    {nil, errRemote, 1},
		"unmarked, connection reset":  {nil, read, 1},
		"unmarked, never dialled":     {nil, dial, 2},
		"unmarked, marked never sent": {nil, NeverSent(errRemote), 2},
		"idempotent":                  {Idempotent, errRemote, 2},
		"idempotent, permanent":       {Idempotent, Permanent(errRemote), 1},
		"idempotent, local rejection": {Idempotent, &Rejection{Policy: "bulkhead", Err: ErrBulkheadFull}, 1},
		"idempotent, already retried below": {
			Idempotent, &RetryError{Attempts: 3, Cause: errRemote, Reason: ErrAttemptsExhausted}, 1,
		},
		"idempotent, but a retry of the caller's": {
			func(ctx context.Context) context.Context { return WithAttempt(Idempotent(ctx), 2) }, errRemote, 1,
		},
		"idempotent, but retries are off": {
			func(ctx context.Context) context.Context { return NoRetry(Idempotent(ctx)) }, errRemote, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := mustPipeline(t, Config{})
				ctx := t.Context()
				if tc.ctx != nil {
					ctx = tc.ctx(ctx)
				}
				fn, n := counting(tc.err)
				err := p.Execute(ctx, fn)
				if *n != tc.want {
					t.Fatalf("%d attempts, want %d", *n, tc.want)
				}
				if tc.want == 1 && !errors.Is(err, tc.err) {
					t.Fatalf("got %v, want the error itself", err)
				}
				if tc.want == 2 && err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

func TestRetryGivesUpWithCauseAndReason(t *testing.T) {
	t.Run("attempts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := mustPipeline(t, Config{})
			fn, n := counting(errRemote, errRemote, errRemote, errRemote)
			err := p.Execute(Idempotent(t.Context()), fn)
			if *n != 3 || !errors.Is(err, errRemote) || !errors.Is(err, ErrAttemptsExhausted) || IsLocalRejection(err) {
				t.Fatalf("%d attempts, %v", *n, err)
			}
		})
	})
	t.Run("budget", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var reasons []error
			p := mustPipeline(t, Config{
				Budget: BudgetConfig{MinPerSecond: -1},
				Hooks: &Hooks{GaveUp: func(_ context.Context, _ string, _ int, reason, _ error) {
					reasons = append(reasons, reason)
				}},
			})
			fn, n := counting(errRemote)
			err := p.Execute(Idempotent(t.Context()), fn)
			if *n != 1 || !errors.Is(err, errRemote) || !errors.Is(err, ErrBudgetExhausted) {
				t.Fatalf("%d attempts, %v", *n, err)
			}
			if IsLocalRejection(err) {
				t.Fatal("an attempt was made: that is no local rejection")
			}
			if len(reasons) != 1 || reasons[0] != ErrBudgetExhausted {
				t.Fatalf("hook saw %v", reasons)
			}
		})
	})
	t.Run("deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := mustPipeline(t, Config{})
			ctx, cancel := context.WithTimeout(Idempotent(t.Context()), time.Second)
			defer cancel()
			fn, n := counting(RetryAfter(errRemote, 2*time.Second))
			start := time.Now()
			err := p.Execute(ctx, fn)
			if *n != 1 || !errors.Is(err, errRemote) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%d attempts, %v", *n, err)
			}
			if d := time.Since(start); d != 0 {
				t.Fatalf("returned after %v, want at once", d)
			}
		})
	})
	t.Run("total", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := mustPipeline(t, Config{Deadline: DeadlineConfig{Total: time.Second}})
			fn, n := counting(RetryAfter(errRemote, 2*time.Second))
			err := p.Execute(Idempotent(t.Context()), fn)
			if *n != 1 || !errors.Is(err, errRemote) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%d attempts, %v", *n, err)
			}
		})
	})
	t.Run("cancelled while waiting", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := mustPipeline(t, Config{})
			ctx, cancel := context.WithCancel(Idempotent(t.Context()))
			time.AfterFunc(time.Second, cancel)
			fn, n := counting(RetryAfter(errRemote, 5*time.Second))
			err := p.Execute(ctx, fn)
			if *n != 1 || !errors.Is(err, errRemote) || !errors.Is(err, context.Canceled) {
				t.Fatalf("%d attempts, %v", *n, err)
			}
		})
	})
	t.Run("breaker opens in between", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := mustPipeline(t, Config{Breaker: BreakerConfig{MinCalls: 1}})
			fn, n := counting(errRemote, errRemote)
			err := p.Execute(Idempotent(t.Context()), fn)
			if *n != 1 || !errors.Is(err, errRemote) || !errors.Is(err, ErrOpen) || IsLocalRejection(err) {
				t.Fatalf("%d attempts, %v", *n, err)
			}
			if err = p.Execute(t.Context(), fn); !IsLocalRejection(err) {
				t.Fatalf("%v: want a local rejection", err)
			}
		})
	})
}

func TestRetryHonoursAndCapsTheServersWait(t *testing.T) {
	for _, tc := range []struct{ asked, want time.Duration }{
		{3 * time.Second, 3 * time.Second},
		{time.Hour, 4 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := mustPipeline(t, Config{Retry: RetryConfig{MaxRetryAfter: 4 * time.Second, BaseDelay: time.Millisecond}})
			fn, n := counting(RetryAfter(errRemote, tc.asked))
			start := time.Now()
			if err := p.Execute(Idempotent(t.Context()), fn); err != nil || *n != 2 {
				t.Fatalf("%d attempts, %v", *n, err)
			}
			if d := time.Since(start); d != tc.want {
				t.Fatalf("asked to wait %v, waited %v, want %v", tc.asked, d, tc.want)
			}
		})
	}
}

func TestRetryNeverOnTopOfARetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		outer, inner := mustPipeline(t, Config{}), mustPipeline(t, Config{})
		n := 0
		var attempts []int
		err := outer.Execute(Idempotent(t.Context()), func(ctx context.Context) error {
			return inner.Execute(ctx, func(ctx context.Context) error {
				n++
				attempts = append(attempts, AttemptFrom(ctx))
				return errRemote
			})
		})
		if n != 3 {
			t.Fatalf("%d attempts (%v), want 3: one layer retries", n, attempts)
		}
		if !errors.Is(err, errRemote) {
			t.Fatal(err)
		}
	})
}

func TestFullJitterIsWithinItsBound(t *testing.T) {
	r, err := NewRetry(nil, &RetryConfig{BaseDelay: 100 * time.Millisecond, MaxDelay: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var longest [4]time.Duration
	for range 2000 {
		b := r.newBackOff()
		for i, bound := range []time.Duration{100, 200, 300, 300} {
			d := b.NextBackOff()
			if d < 0 || d > bound*time.Millisecond+1 {
				t.Fatalf("wait %d is %v, want at most %vms", i, d, int(bound))
			}
			longest[i] = max(longest[i], d)
		}
	}
	for i, bound := range []time.Duration{100, 200, 300, 300} {
		if longest[i] < bound*time.Millisecond*9/10 {
			t.Fatalf("wait %d never exceeds %v of %vms: no full jitter", i, longest[i], int(bound))
		}
	}
}

func TestAttemptTimeoutIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := mustPipeline(t, Config{Deadline: DeadlineConfig{Attempt: time.Second}})
		n := 0
		err := p.Execute(Idempotent(t.Context()), func(ctx context.Context) error {
			if n++; n == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		if err != nil || n != 2 {
			t.Fatalf("%d attempts, %v", n, err)
		}
	})
}
