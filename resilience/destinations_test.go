package resilience

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func mustDestinations(t *testing.T, cfg *DestinationsConfig) *Destinations {
	t.Helper()
	d, err := NewDestinations(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustGet(t *testing.T, d *Destinations, name string) *Pipeline {
	t.Helper()
	p, err := d.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func names(d *Destinations) []string {
	var all []string
	for _, s := range d.Snapshot() {
		all = append(all, s.Name)
	}
	slices.Sort(all)
	return all
}

func TestDestinationsForgetWhatIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mustDestinations(t, &DestinationsConfig{
			IdleTTL: time.Minute,
			Configure: func(name string, c *Config) {
				c.Breaker.MinCalls, c.Breaker.MaxEndpoints = 1, 1
				switch name {
				case "limited": // an hour until the bucket is full again
					c.Limiter = LimiterConfig{PerSecond: 1. / 3600, Burst: 1}
				case "broken":
					c.Breaker.OpenFor = time.Hour
				}
			},
		})
		used := mustGet(t, d, "used")
		idle := mustGet(t, d, "idle")
		if err := mustGet(t, d, "limited").Execute(t.Context(), succeed); err != nil {
			t.Fatal(err)
		}
		_ = mustGet(t, d, "broken").Execute(t.Context(), fail)
		mustGet(t, d, "forced").Breaker().Force(BreakerForcedOpen)
		mustGet(t, d, "forced endpoint").EndpointBreaker("/x").Force(BreakerOff)
		pass, err := mustGet(t, d, "stream").Begin(t.Context(), Call{})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if mustGet(t, d, "used") != used {
				t.Fatal("a destination in use was forgotten")
			}
			time.Sleep(time.Second)
		}
		want := []string{"broken", "forced", "forced endpoint", "limited", "stream", "used"}
		if got := names(d); !slices.Equal(got, want) {
			t.Fatalf("remembered after 100s: %v, want %v", got, want)
		}
		if mustGet(t, d, "idle") == idle {
			t.Fatal("the idle destination's pipeline is still there")
		}

		pass.End(t.Context(), nil)
		mustGet(t, d, "forced").Breaker().Force(BreakerAuto)
		mustGet(t, d, "forced endpoint").EndpointBreaker("/x").Force(BreakerAuto)
		time.Sleep(2 * time.Hour)
		if got := names(d); len(got) != 0 {
			t.Fatalf("remembered after two idle hours: %v", got)
		}
		if d.timer != nil {
			t.Fatal("a timer runs although nothing is remembered")
		}
		mustGet(t, d, "again")
		time.Sleep(2 * time.Minute)
		if got := names(d); len(got) != 0 {
			t.Fatalf("the sweeps did not start again: %v", got)
		}
	})
}

func TestDestinationsNeverIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := mustDestinations(t, &DestinationsConfig{IdleTTL: -1})
		mustGet(t, d, "kept")
		time.Sleep(24 * time.Hour)
		if got := names(d); len(got) != 1 {
			t.Fatalf("remembered: %v", got)
		}
	})
}

// A gauge fed by the hook must not show "open" for a breaker that is no more.
func TestForgottenBreakersAreReportedClosed(t *testing.T) {
	for name, forget := range map[string]func(t *testing.T, d *Destinations){
		"idle": func(*testing.T, *Destinations) { time.Sleep(time.Hour) },
		"full": func(t *testing.T, d *Destinations) {
			time.Sleep(6 * time.Second) // while it is open it is not forgotten
			for i := range 3 {
				mustGet(t, d, fmt.Sprint(i))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				last := map[string]BreakerState{}
				var mu sync.Mutex
				var d *Destinations
				d = mustDestinations(t, &DestinationsConfig{
					Max:     2,
					Default: Config{Breaker: BreakerConfig{MinCalls: 1, MaxEndpoints: 1}},
					Hooks: &Hooks{BreakerState: func(name string, _, to BreakerState) {
						d.Snapshot() // the hook may look: no lock is held
						mu.Lock()
						last[name] = to
						mu.Unlock()
					}},
				})
				p := mustGet(t, d, "payments")
				_ = p.Execute(t.Context(), fail)
				_ = p.Call(t.Context(), Call{Endpoint: "/Charge"}, fail)
				saw := func(want BreakerState) {
					t.Helper()
					mu.Lock()
					defer mu.Unlock()
					if len(last) != 2 || last["payments"] != want || last["payments /Charge"] != want {
						t.Fatalf("hook saw last %v, want %v", last, want)
					}
				}
				saw(BreakerOpen)
				forget(t, d)
				synctest.Wait()
				saw(BreakerClosed)
			})
		})
	}
}

// Max holds even where everything remembered is pinned.
func TestDestinationsAreBoundedWhatever(t *testing.T) {
	d := mustDestinations(t, &DestinationsConfig{Max: 3})
	for i := range 200 {
		p := mustGet(t, d, fmt.Sprint(i))
		p.Breaker().Force(BreakerForcedOpen)
		if _, err := p.Begin(t.Context(), Call{}); !errors.Is(err, ErrOpen) {
			t.Fatal(err)
		}
	}
	if n := len(d.Snapshot()); n != 3 {
		t.Fatalf("%d are remembered, want 3", n)
	}
}

func TestDestinationsRefuseAbsurdNames(t *testing.T) {
	d := mustDestinations(t, nil)
	if _, err := d.Get(strings.Repeat("x", 1<<20)); err == nil || len(err.Error()) > 200 {
		t.Fatalf("a name of 1 MiB: %v, want a short error", err)
	}
	if n := len(d.Snapshot()); n != 0 {
		t.Fatalf("%d are remembered", n)
	}
}

// Destinations that their owner drops are collected: no timer keeps them.
func TestDestinationsAreCollected(t *testing.T) {
	collected := make(chan struct{})
	func() {
		d := mustDestinations(t, nil)
		mustGet(t, d, "payments")
		runtime.AddCleanup(d, func(done chan struct{}) { close(done) }, collected)
	}()
	for range 100 {
		runtime.GC()
		select {
		case <-collected:
			return
		case <-time.After(50 * time.Millisecond): // cleanups run on a goroutine of the runtime's
		}
	}
	t.Fatal("destinations without an owner are still there")
}

func TestForcedModesAreReported(t *testing.T) {
	var changes []string
	var b *Breaker
	b = mustBreaker(t, &BreakerConfig{MinCalls: 2}, func(from, to BreakerState) {
		changes = append(changes, from.String()+">"+to.String())
		if len(changes) == 1 {
			b.Force(BreakerForcedOpen) // as a hook may: no lock is held
		}
	})
	b.Force(BreakerForcedOpen)
	b.Force(BreakerForcedClosed)
	times(5, func() { _ = b.Execute(t.Context(), fail) }) // opens underneath, where no caller notices
	b.Force(BreakerAuto)
	b.Force(BreakerOff)
	want := []string{"closed>open", "open>closed", "closed>open", "open>closed"}
	if !slices.Equal(changes, want) {
		t.Fatalf("hook saw %v, want %v", changes, want)
	}
	if b.Mode() != BreakerOff {
		t.Fatalf("mode %v", b.Mode())
	}
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A million distinct hosts or keys, as a crawler or a flood brings them, stay
// under 64 MiB with the defaults. Names and keys are as long as may be.
func TestMillionsAreBounded(t *testing.T) {
	const bound = 64 << 20
	measure := func(name string, short int, use func(i int), keep any) {
		n := 1_000_000
		if testing.Short() {
			n = short // still more than are remembered
		}
		before := heap()
		for i := range n {
			use(i)
		}
		used := int64(heap()) - int64(before)
		runtime.KeepAlive(keep)
		t.Logf("%d %s: %.1f MiB", n, name, float64(used)/(1<<20))
		if used > bound {
			t.Errorf("%d %s hold %d bytes, want at most %d", n, name, used, bound)
		}
	}
	d := mustDestinations(t, nil)
	host := strings.Repeat("h", 240)
	measure("destinations", 10_000, func(i int) {
		p, err := d.Get(fmt.Sprintf("%s.%d:443", host, i))
		if err != nil {
			t.Fatal(err)
		}
		if i%1000 == 0 {
			_ = p.Execute(context.Background(), succeed)
		}
	}, d)
	l, err := NewKeyedLimiter("users", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 1}})
	if err != nil {
		t.Fatal(err)
	}
	token := strings.Repeat("k", 4096)
	measure("limiter keys", 100_000, func(i int) { _, _ = l.Allow(fmt.Sprintf("%s%d", token, i)) }, l)
}
