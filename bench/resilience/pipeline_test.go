// Package resilience measures the success path of Napkin's pipeline beside the
// parts that one would compose by hand, in one run on one machine:
//
//	go test -run '^$' -bench . -benchmem ./resilience
//
// Configuration: retry, budget, breaker and bulkhead on, deadlines off (they are
// reported apart, since a context with a timeout costs more than all the rest).
// gobreaker alone has the settings that the pipeline gives it.
package resilience

import (
	"context"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/semaphore"

	"github.com/napkin-kit/napkin/resilience"
)

var settings = gobreaker.Settings{
	Name:         "bench",
	MaxRequests:  3,
	Interval:     10 * time.Second,
	BucketPeriod: time.Second,
	Timeout:      5 * time.Second,
	ReadyToTrip: func(c gobreaker.Counts) bool {
		total := c.TotalSuccesses + c.TotalFailures
		return total >= 20 && float64(c.TotalFailures) >= 0.5*float64(total)
	},
}

func static(context.Context) error { return nil }

func pipeline(b *testing.B, cfg resilience.Config) *resilience.Pipeline {
	b.Helper()
	p, err := resilience.NewPipeline("bench", &cfg)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

var withoutDeadline = resilience.Config{Deadline: resilience.DeadlineConfig{Off: true}}

func BenchmarkGobreakerAlone(b *testing.B) {
	cb := gobreaker.NewCircuitBreaker[struct{}](settings)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := cb.Execute(func() (struct{}, error) { return struct{}{}, static(ctx) }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPipelineStatic(b *testing.B) {
	p := pipeline(b, withoutDeadline)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Execute(ctx, static); err != nil {
			b.Fatal(err)
		}
	}
}

// policy is behind the interface, as a caller holds it, so that the compiler
// cannot see through it and the closure escapes.
var policy resilience.Policy

func BenchmarkPipelineClosure(b *testing.B) {
	policy = pipeline(b, withoutDeadline)
	ctx := context.Background()
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		if err := policy.Execute(ctx, func(context.Context) error { n++; return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPipelineDo(b *testing.B) {
	p := pipeline(b, withoutDeadline)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := resilience.Do(ctx, p, func(context.Context) (int, error) { return 1, nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPipelineDeadlines(b *testing.B) {
	p := pipeline(b, resilience.Config{})
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Execute(ctx, static); err != nil {
			b.Fatal(err)
		}
	}
}

// byHand is what one composes from the usual parts: it has no budget, sleeps
// past deadlines and counts a caller's cancellation as a failure.
func byHand(ctx context.Context, cb *gobreaker.CircuitBreaker[struct{}], sem *semaphore.Weighted, fn func(context.Context) error) error {
	return backoff.Retry(func() error {
		_, err := cb.Execute(func() (struct{}, error) {
			if err := sem.Acquire(ctx, 1); err != nil {
				return struct{}{}, err
			}
			defer sem.Release(1)
			return struct{}{}, fn(ctx)
		})
		return err
	}, backoff.WithContext(backoff.WithMaxRetries(backoff.NewExponentialBackOff(), 2), ctx))
}

func BenchmarkComposedByHand(b *testing.B) {
	cb := gobreaker.NewCircuitBreaker[struct{}](settings)
	sem := semaphore.NewWeighted(256)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := byHand(ctx, cb, sem, static); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParallelGobreakerAlone(b *testing.B) {
	cb := gobreaker.NewCircuitBreaker[struct{}](settings)
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_, _ = cb.Execute(func() (struct{}, error) { return struct{}{}, static(ctx) })
		}
	})
}

func BenchmarkParallelPipelineStatic(b *testing.B) {
	p := pipeline(b, withoutDeadline)
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = p.Execute(ctx, static)
		}
	})
}

func BenchmarkParallelComposedByHand(b *testing.B) {
	cb := gobreaker.NewCircuitBreaker[struct{}](settings)
	sem := semaphore.NewWeighted(256)
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			_ = byHand(ctx, cb, sem, static)
		}
	})
}

// The path of an open breaker: it must be cheaper than success.
func BenchmarkPipelineRejected(b *testing.B) {
	p := pipeline(b, withoutDeadline)
	p.Breaker().Force(resilience.BreakerForcedOpen)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Execute(ctx, static); err == nil {
			b.Fatal("not rejected")
		}
	}
}
