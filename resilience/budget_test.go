package resilience

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func mustBudget(t *testing.T, cfg *BudgetConfig) *Budget {
	t.Helper()
	b, err := NewBudget(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// attempts ≤ (1+b)·calls + min·(t + TTL) for any latency and backoff. The first
// two rows are those at which budgets measured against calls in flight reach
// 4.00 and 2.32 times the load.
func TestBudgetBoundsAmplification(t *testing.T) {
	for _, tc := range []struct{ latency, backoff time.Duration }{
		{0, 50 * time.Millisecond},
		{20 * time.Millisecond, 100 * time.Millisecond},
		{0, 1},
		{time.Second, time.Millisecond},
		{300 * time.Millisecond, 5 * time.Second},
	} {
		t.Run(fmt.Sprintf("latency=%v,backoff=%v", tc.latency, tc.backoff), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const (
					ratio, perSecond = 0.1, 2.0
					calls            = 6000
				)
				p, err := NewPipeline("down", &Config{
					Deadline: DeadlineConfig{Off: true},
					Retry:    RetryConfig{MaxAttempts: 4, BaseDelay: tc.backoff, MaxDelay: tc.backoff * 8, AssumeIdempotent: true},
					Budget:   BudgetConfig{Ratio: ratio, MinPerSecond: perSecond, SuccessShare: -1},
					Breaker:  BreakerConfig{Off: true},
					Bulkhead: BulkheadConfig{Off: true},
				})
				if err != nil {
					t.Fatal(err)
				}
				var attempts atomic.Int64
				rng := rand.New(rand.NewPCG(1, 2))
				start := time.Now()
				var wg sync.WaitGroup
				for range calls {
					wg.Go(func() {
						_ = p.Execute(t.Context(), func(context.Context) error {
							attempts.Add(1)
							time.Sleep(tc.latency)
							return errRemote
						})
					})
					time.Sleep(time.Duration(rng.ExpFloat64() * float64(5*time.Millisecond)))
				}
				wg.Wait()
				elapsed := time.Since(start).Seconds()
				bound := (1+ratio)*calls + perSecond*(elapsed+10)
				if got := float64(attempts.Load()); got > bound {
					t.Fatalf("%v attempts for %d calls (%.2f times), want at most %v", got, calls, got/calls, bound)
				} else if got < calls*1.05 {
					t.Fatalf("%v attempts for %d calls: the budget gives nothing", got, calls)
				}
			})
		})
	}
}

func TestBudgetExpiresWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBudget(t, &BudgetConfig{Ratio: 0.1, MinPerSecond: -1})
		times(100, func() { b.Deposit(true) })
		if n := b.Balance(); n != 10 {
			t.Fatalf("balance %d after 100 calls, want 10", n)
		}
		time.Sleep(12 * time.Second)
		if n := b.Balance(); n != 0 {
			t.Fatalf("balance %d after the TTL, want 0", n)
		}
		if b.Withdraw() {
			t.Fatal("a retry was paid from expired deposits")
		}
	})
}

func TestBudgetFailuresFundLess(t *testing.T) {
	b := mustBudget(t, &BudgetConfig{Ratio: 0.2, SuccessShare: 0.75, MinPerSecond: -1})
	times(100, func() { b.Deposit(false) })
	if n := b.Balance(); n != 5 {
		t.Fatalf("balance %d after 100 failed calls, want 5", n)
	}
}

func TestBudgetPermitIsAtomic(t *testing.T) {
	b := mustBudget(t, &BudgetConfig{Ratio: 0.1, MinPerSecond: -1, TTL: time.Hour})
	times(1000, func() { b.Deposit(true) })
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			times(200, func() {
				if b.Withdraw() {
					taken.Add(1)
				}
			})
		})
	}
	wg.Wait()
	if n := taken.Load(); n != 100 {
		t.Fatalf("%d retries taken, want exactly 100", n)
	}
}
