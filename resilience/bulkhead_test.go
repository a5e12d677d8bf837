package resilience

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func mustBulkhead(t *testing.T, cfg *BulkheadConfig) *Bulkhead {
	t.Helper()
	b, err := NewBulkhead("db", cfg)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBulkheadPermitSurvivesPanicGoexitAndCancel(t *testing.T) {
	b := mustBulkhead(t, &BulkheadConfig{MaxConcurrent: 1})
	ends := map[string]func(context.Context) error{
		"panic":  func(context.Context) error { panic("boom") },
		"goexit": func(context.Context) error { runtime.Goexit(); return nil },
		"cancel": func(ctx context.Context) error { return context.Canceled },
	}
	for name, fn := range ends {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			_ = b.Execute(t.Context(), fn)
		}()
		<-done
		if n := b.InFlight(); n != 0 {
			t.Fatalf("after %s: %d permits are out, want 0", name, n)
		}
	}
}

func TestBulkheadQueueIsBoundedFairAndTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mustBulkhead(t, &BulkheadConfig{MaxConcurrent: 1, MaxQueue: 2, MaxWait: time.Second})
		if err := b.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 2 {
			wg.Go(func() {
				_ = b.Execute(t.Context(), func(context.Context) error {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
					return nil
				})
			})
			synctest.Wait()
		}
		if err := b.Acquire(t.Context()); !errors.Is(err, ErrBulkheadFull) || !IsLocalRejection(err) {
			t.Fatalf("third waiter got %v, want ErrBulkheadFull", err)
		}
		b.Release()
		wg.Wait()
		if len(order) != 2 || order[0] != 0 {
			t.Fatalf("served in order %v, want [0 1]", order)
		}
		if b.InFlight() != 0 || b.Waiting() != 0 {
			t.Fatalf("in flight %d, waiting %d, want 0 and 0", b.InFlight(), b.Waiting())
		}

		// A wait that is too long, and one that the caller gives up.
		if err := b.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if err := b.Acquire(t.Context()); !errors.Is(err, ErrBulkheadFull) {
			t.Fatalf("got %v, want ErrBulkheadFull", err)
		}
		if d := time.Since(start); d != time.Second {
			t.Fatalf("waited %v, want 1s", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := b.Acquire(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v, want DeadlineExceeded", err)
		}
		b.Release()
		if b.InFlight() != 0 || b.Waiting() != 0 {
			t.Fatalf("in flight %d, waiting %d, want 0 and 0", b.InFlight(), b.Waiting())
		}
	})
}

func TestBulkheadConservesPermitsUnderChurn(t *testing.T) {
	b := mustBulkhead(t, &BulkheadConfig{MaxConcurrent: 3, MaxQueue: 8, MaxWait: time.Millisecond})
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(t.Context())
				if i%3 == 0 {
					go cancel()
				}
				_ = b.Execute(ctx, func(context.Context) error {
					if n := b.InFlight(); n > 3 {
						t.Errorf("%d in flight, want at most 3", n)
					}
					runtime.Gosched()
					return nil
				})
				cancel()
			}
		})
	}
	wg.Wait()
	if b.InFlight() != 0 || b.Waiting() != 0 {
		t.Fatalf("in flight %d, waiting %d, want 0 and 0", b.InFlight(), b.Waiting())
	}
}
