// Package resilience measures Napkin's policies, its pipeline and its adapters
// beside their peers, in one run on one machine:
//
//	make bench-resilience
//
// Each benchmark is named what/peer; napkin is one of the peers. A call is one
// success of a function that does nothing, unless the name says otherwise. The
// peers' configurations are in peers_test.go.
package resilience

import (
	"context"
	"testing"

	"github.com/sony/gobreaker/v2"

	"github.com/napkin-kit/napkin/resilience"
)

// contender is one way to make a call.
type contender struct {
	name string
	make func(b *testing.B) func() error
}

// run measures each contender, serial or parallel. fails says that the call
// must end with an error.
func run(b *testing.B, parallel, fails bool, all []contender) {
	for _, c := range all {
		b.Run(c.name, func(b *testing.B) {
			call := c.make(b)
			b.ReportAllocs()
			if parallel {
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						if err := call(); (err != nil) != fails {
							b.Error(err)
							return
						}
					}
				})
				return
			}
			for b.Loop() {
				if err := call(); (err != nil) != fails {
					b.Fatal(err)
				}
			}
		})
	}
}

// policy is behind the interface, as a caller holds it, so that the compiler
// cannot see through it and a capturing closure escapes.
var policy resilience.Policy

// pipelines have retry, budget, breaker and bulkhead.
var pipelines = []contender{
	{"static/napkin", func(b *testing.B) func() error {
		p := pipeline(b, withoutDeadline)
		return func() error { return p.Execute(ctx, static) }
	}},
	{"closure/napkin", func(b *testing.B) func() error {
		policy = pipeline(b, withoutDeadline)
		return func() error {
			n := 0
			return policy.Execute(ctx, func(context.Context) error { n++; return nil })
		}
	}},
	{"do/napkin", func(b *testing.B) func() error {
		p := pipeline(b, withoutDeadline)
		return func() error {
			_, err := resilience.Do(ctx, p, func(context.Context) (int, error) { return 1, nil })
			return err
		}
	}},
	{"deadlines/napkin", func(b *testing.B) func() error {
		p := pipeline(b, resilience.Config{})
		return func() error { return p.Execute(ctx, static) }
	}},
	{"watched-deadlines/napkin", func(b *testing.B) func() error {
		p := pipeline(b, resilience.Config{})
		return func() error {
			return p.Execute(ctx, func(ctx context.Context) error { _ = ctx.Done(); return nil })
		}
	}},
	{"static/failsafe", func(*testing.B) func() error {
		e := failsafeExecutor[any]()
		return func() error { return e.Run(static0) }
	}},
	{"with-context/failsafe", func(*testing.B) func() error {
		e := failsafeExecutor[any]()
		c, cancel := context.WithCancel(ctx) // one that is not the executor's own
		_ = cancel
		return func() error { return e.WithContext(c).Run(static0) }
	}},
	{"do/failsafe", func(*testing.B) func() error {
		e := failsafeExecutor[int]()
		return func() error {
			_, err := e.Get(func() (int, error) { return 1, nil })
			return err
		}
	}},
	{"static/by-hand", func(*testing.B) func() error {
		h := newByHand()
		return func() error { return h.execute(ctx, static) }
	}},
	{"static/gobreaker-alone", func(*testing.B) func() error {
		cb := gobreaker.NewCircuitBreaker[struct{}](settings)
		return func() error {
			_, err := cb.Execute(func() (struct{}, error) { return struct{}{}, static(ctx) })
			return err
		}
	}},
}

func BenchmarkPipeline(b *testing.B)         { run(b, false, false, pipelines) }
func BenchmarkParallelPipeline(b *testing.B) { run(b, true, false, pipelines) }
