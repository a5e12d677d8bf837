package resilience

import (
	"context"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/adaptivelimiter"
	"github.com/failsafe-go/failsafe-go/adaptivethrottler"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	"github.com/failsafe-go/failsafe-go/timeout"
	"github.com/go-kratos/aegis/circuitbreaker/sre"
	"github.com/go-kratos/aegis/ratelimit"
	"github.com/sony/gobreaker/v2"
	"github.com/zeromicro/go-zero/core/breaker"
	"github.com/zeromicro/go-zero/core/load"
	"github.com/zeromicro/go-zero/core/syncx"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"

	"github.com/napkin-kit/napkin/resilience"
)

// napkin is a call under a policy of ours.
func napkin(p resilience.Policy) func() error {
	return func() error { return p.Execute(ctx, static) }
}

// failsafeOf is a call under one policy of failsafe-go.
func failsafeOf(p failsafe.Policy[any]) func() error {
	e := failsafe.With[any](p)
	return func() error { return e.Run(static0) }
}

// plenty is a rate that no benchmark reaches.
const plenty = 1e9

// policies are measured alone, each with a function that succeeds.
var policies = []contender{
	{"retry/napkin", func(b *testing.B) func() error { // always with a budget
		return napkin(must[*resilience.Retry](b)(resilience.NewRetry(nil, nil)))
	}},
	{"retry/failsafe", func(*testing.B) func() error { return failsafeOf(failsafeRetry[any]()) }},
	{"retry/backoff-v4", func(*testing.B) func() error { // without a budget
		return func() error {
			return backoff.Retry(static0, backoff.WithContext(backoff.WithMaxRetries(newBackOff(), 2), ctx))
		}
	}},

	{"breaker/napkin", func(b *testing.B) func() error {
		return napkin(must[*resilience.Breaker](b)(resilience.NewBreaker("bench", nil, nil)))
	}},
	{"breaker/failsafe", func(*testing.B) func() error { return failsafeOf(failsafeBreaker[any]()) }},
	{"breaker/gobreaker", func(*testing.B) func() error {
		cb := gobreaker.NewCircuitBreaker[struct{}](settings)
		return func() error {
			_, err := cb.Execute(func() (struct{}, error) { return struct{}{}, nil })
			return err
		}
	}},
	{"breaker/go-zero", func(*testing.B) func() error { // the SRE book's, with its only settings
		br := breaker.NewBreaker()
		return func() error { return br.Do(static0) }
	}},
	{"breaker/kratos", func(*testing.B) func() error { // the SRE book's, with its defaults
		br := sre.NewBreaker()
		return func() error {
			if err := br.Allow(); err != nil {
				return err
			}
			br.MarkSuccess()
			return nil
		}
	}},

	{"bulkhead/napkin", func(b *testing.B) func() error {
		return napkin(must[*resilience.Bulkhead](b)(resilience.NewBulkhead("bench", nil)))
	}},
	{"bulkhead/failsafe", func(*testing.B) func() error { return failsafeOf(failsafeBulkhead[any]()) }},
	{"bulkhead/semaphore", func(*testing.B) func() error {
		s := semaphore.NewWeighted(256)
		return func() error {
			if err := s.Acquire(ctx, 1); err != nil {
				return err
			}
			defer s.Release(1)
			return static(ctx)
		}
	}},
	{"bulkhead/go-zero", func(*testing.B) func() error { // a limit without queue or context
		l := syncx.NewLimit(256)
		return func() error {
			if !l.TryBorrow() {
				return errFailure
			}
			defer func() { _ = l.Return() }()
			return static(ctx)
		}
	}},

	{"limiter/napkin", func(b *testing.B) func() error {
		return napkin(must[*resilience.Limiter](b)(resilience.NewLimiter("bench", &resilience.LimiterConfig{PerSecond: plenty})))
	}},
	{"limiter/failsafe", func(*testing.B) func() error { return failsafeOf(ratelimiter.NewBursty[any](plenty, time.Second)) }},
	{"limiter/x-time-rate", func(*testing.B) func() error {
		l := rate.NewLimiter(plenty, plenty)
		return func() error {
			if !l.Allow() {
				return errFailure
			}
			return static(ctx)
		}
	}},

	{"deadline/napkin", func(b *testing.B) func() error {
		return napkin(must[resilience.Policy](b)(resilience.NewDeadline(time.Second)))
	}},
	{"deadline/failsafe", func(*testing.B) func() error { return failsafeOf(timeout.New[any](time.Second)) }},
	{"deadline/context", func(*testing.B) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			return static(ctx)
		}
	}},

	{"shedder/napkin", func(b *testing.B) func() error {
		return napkin(must[*resilience.Shedder](b)(resilience.NewShedder(nil)))
	}},
	{"shedder/failsafe", func(*testing.B) func() error { // Vegas-like, with its defaults and a queue as ours has
		return failsafeOf(adaptivelimiter.NewBuilder[any]().WithQueueing(2, 3).WithMaxWaitTime(100 * time.Millisecond).Build())
	}},
	{"shedder/go-zero", func(*testing.B) func() error { // by CPU, with its defaults, never over the threshold
		s := load.NewAdaptiveShedder(load.WithCpuThreshold(1000))
		return func() error {
			p, err := s.Allow()
			if err != nil {
				return err
			}
			p.Pass()
			return nil
		}
	}},
	{"shedder/kratos", func(*testing.B) func() error { // by CPU, with its defaults
		l := kratosBBR()
		return func() error {
			done, err := l.Allow()
			if err != nil {
				return nil // its CPU is over 80 % while we measure
			}
			done(ratelimit.DoneInfo{})
			return nil
		}
	}},

	{"throttle/napkin", func(b *testing.B) func() error {
		return napkin(must[*resilience.Throttle](b)(resilience.NewThrottle("bench", nil)))
	}},
	{"throttle/failsafe", func(*testing.B) func() error { return failsafeOf(adaptivethrottler.NewWithDefaults[any]()) }},

	{"hedge/napkin", func(b *testing.B) func() error {
		return napkin(must[*resilience.Hedge](b)(resilience.NewHedge("bench", nil, &resilience.HedgeConfig{AssumeIdempotent: true})))
	}},
	{"hedge/failsafe", func(*testing.B) func() error {
		return failsafeOf(hedgepolicy.NewBuilderWithDelay[any](100 * time.Millisecond).WithBudget(failsafeBudget()).Build())
	}},
}

func BenchmarkPolicy(b *testing.B)         { run(b, false, false, policies) }
func BenchmarkParallelPolicy(b *testing.B) { run(b, true, false, policies) }
