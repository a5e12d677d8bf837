package resilience

import (
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/time/rate"

	"github.com/napkin-kit/napkin/resilience"
)

// rejections are the ways out of a pipeline that makes no call, or no further
// one. When everything is refused, refusing must cost less than serving.
var rejections = []contender{
	{"open/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Breaker.OpenFor = time.Hour
		p := pipeline(b, cfg)
		for range 20 { // by failures, as it happens: not forced
			_ = p.Execute(ctx, failing)
		}
		return func() error { return p.Execute(ctx, static) }
	}},
	{"full/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Bulkhead = resilience.BulkheadConfig{MaxConcurrent: 1}
		p := pipeline(b, cfg)
		if _, err := p.Begin(ctx, resilience.Call{}); err != nil {
			b.Fatal(err)
		}
		return func() error { return p.Execute(ctx, static) }
	}},
	{"limited/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Limiter = resilience.LimiterConfig{PerSecond: 1e-6, Burst: 1}
		p := pipeline(b, cfg)
		_ = p.Execute(ctx, static)
		return func() error { return p.Execute(ctx, static) }
	}},
	// A call that fails and may not be repeated since the budget is spent: the
	// attempt is made, the error says why there is no other.
	{"budget/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Retry.AssumeIdempotent = true
		cfg.Breaker.FailureRate = 1
		cfg.Budget = resilience.BudgetConfig{MinPerSecond: -1, Ratio: 1e-6}
		p := pipeline(b, cfg)
		_ = p.Execute(ctx, static) // the breaker never opens
		return func() error { return p.Execute(ctx, failing) }
	}},

	// The same failing call without retrying, for what the refusal adds to it.
	{"failed/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Retry.Off = true
		cfg.Breaker.FailureRate = 1
		p := pipeline(b, cfg)
		_ = p.Execute(ctx, static)
		return func() error { return p.Execute(ctx, failing) }
	}},

	{"open/failsafe", func(*testing.B) func() error {
		cb := failsafeBreaker[any]()
		cb.Open()
		e := failsafe.With[any](cb, failsafeBulkhead[any]()) // no retry: it would sleep and try again
		return func() error { return e.Run(static0) }
	}},
	{"open/gobreaker", func(b *testing.B) func() error {
		long := settings
		long.Timeout = time.Hour
		cb := gobreaker.NewCircuitBreaker[struct{}](long)
		for range 20 {
			_, _ = cb.Execute(func() (struct{}, error) { return struct{}{}, errFailure })
		}
		return func() error {
			_, err := cb.Execute(func() (struct{}, error) { return struct{}{}, nil })
			return err
		}
	}},
	{"full/failsafe", func(b *testing.B) func() error {
		bh := failsafeBulkhead[any]()
		for bh.TryAcquirePermit() {
		}
		e := failsafe.With[any](failsafeBreaker[any](), bh)
		return func() error { return e.Run(static0) }
	}},
	{"limited/failsafe", func(*testing.B) func() error {
		e := failsafe.With[any](ratelimiter.NewBursty[any](1, 1<<62))
		_ = e.Run(static0)
		return func() error { return e.Run(static0) }
	}},
	{"limited/x-time-rate", func(*testing.B) func() error {
		l := rate.NewLimiter(1e-6, 1)
		l.Allow()
		return func() error {
			if !l.Allow() {
				return errFailure
			}
			return nil
		}
	}},
}

// served are the same pipelines where the call is made and succeeds.
var served = []contender{
	{"open/napkin", func(b *testing.B) func() error { return napkin(pipeline(b, withoutDeadline)) }},
	{"full/napkin", func(b *testing.B) func() error { return napkin(pipeline(b, withoutDeadline)) }},
	{"limited/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Limiter = resilience.LimiterConfig{PerSecond: plenty}
		return napkin(pipeline(b, cfg))
	}},
	{"budget/napkin", func(b *testing.B) func() error {
		cfg := withoutDeadline
		cfg.Retry.AssumeIdempotent = true
		return napkin(pipeline(b, cfg))
	}},
}

func BenchmarkRejected(b *testing.B) { run(b, false, true, rejections) }
func BenchmarkServed(b *testing.B)   { run(b, false, false, served) }
