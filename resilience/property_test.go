package resilience

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var seedFlag = flag.Uint64("seed", 0, "run the properties with this seed alone")

// property runs check in a bubble of synctest for a number of seeds, each in a
// subtest that bears it: go test -run TestX -seed 42 repeats one. -short has a
// tenth of them.
func property(t *testing.T, n int, check func(t *testing.T, r *rand.Rand)) {
	first := uint64(1)
	if testing.Short() {
		n /= 10
	}
	if *seedFlag != 0 {
		first, n = *seedFlag, 1
	}
	for seed := first; seed < first+uint64(n); seed++ {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { check(t, rand.New(rand.NewPCG(seed, 1))) })
		})
	}
}

// dice is a random source for the goroutines of one property.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64()
}

func (d *dice) below(n int) int { return int(d.float() * float64(n)) }

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// attempts ≤ (1 + ratio)·calls + MinPerSecond·(t + TTL), at every moment, for
// any mix of latencies, backoffs, waits asked for, outages, bursts, hedges and
// callers that leave. The floor's last part is the reserve.
func TestAmplificationIsBounded(t *testing.T) {
	property(t, 300, func(t *testing.T, r *rand.Rand) {
		cfg := Config{
			Deadline: DeadlineConfig{Total: time.Minute, Attempt: pick(r, 100*time.Millisecond, time.Second, time.Minute)},
			Retry: RetryConfig{
				MaxAttempts: 2 + r.IntN(5), AssumeIdempotent: true,
				BaseDelay: pick(r, 1, time.Millisecond, 50*time.Millisecond, time.Second), MaxDelay: time.Duration(1+r.IntN(10)) * time.Second,
			},
			Budget: BudgetConfig{
				Ratio: 0.02 + r.Float64()/2, SuccessShare: pick(r, -1, 0.5, r.Float64()+1e-9),
				MinPerSecond: pick(r, -1, 0.5, 5*r.Float64()+1e-9), TTL: time.Duration(1+r.IntN(30)) * time.Second,
			},
			Hedge:    HedgeConfig{On: r.IntN(2) == 0, Delay: pick(r, time.Microsecond, 10*time.Millisecond, time.Second), MaxExtra: 1 + r.IntN(3), AssumeIdempotent: true},
			Breaker:  BreakerConfig{Off: r.IntN(3) > 0},
			Bulkhead: BulkheadConfig{Off: r.IntN(2) == 0, MaxConcurrent: 50},
		}
		p := mustPipeline(t, cfg)
		policy := Policy(p)
		if r.IntN(3) == 0 { // the same by hand, around the pipeline
			cfg.Hedge.On = false
			p = mustPipeline(t, cfg)
			h, err := NewHedge("around", p.Budget(), &cfg.Hedge)
			if err != nil {
				t.Fatal(err)
			}
			policy = Compose(h, p)
		}
		d := &dice{r: r}
		typical := pick(r, 0, time.Millisecond, 20*time.Millisecond, time.Second)
		healthy := pick(r, 0, 0.5, 0.95)
		floor := max(cfg.Budget.MinPerSecond, 0)
		start := time.Now()
		var calls, attempts atomic.Int64
		call := func(ctx context.Context) error {
			n := float64(attempts.Add(1))
			most := (1+cfg.Budget.Ratio)*float64(calls.Load()) + floor*(time.Since(start)+cfg.Budget.TTL).Seconds()
			if n > most+1e-6 {
				t.Errorf("%v attempts after %v and %d calls, want at most %.1f", n, time.Since(start), calls.Load(), most)
			}
			latency := time.Duration(-math.Log(1-d.float()) * float64(typical))
			if d.below(50) == 0 {
				latency = time.Hour // it hangs
			}
			if err := sleep(ctx, latency); err != nil {
				return err
			}
			if d.float() < healthy {
				return nil
			}
			switch d.below(10) {
			case 0:
				return RetryAfter(errRemote, time.Duration(d.below(20))*time.Second)
			case 1:
				return NeverSent(errRemote)
			case 2:
				return Permanent(errRemote)
			}
			return errRemote
		}
		var wg sync.WaitGroup
		gap := pick(r, time.Millisecond, 10*time.Millisecond, 100*time.Millisecond)
		for range 400 {
			calls.Add(1)
			wg.Go(func() {
				ctx := t.Context()
				if d.below(10) == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Duration(d.below(1000))*time.Millisecond)
					defer cancel()
				}
				_ = policy.Execute(ctx, call)
			})
			if d.below(3) > 0 {
				time.Sleep(time.Duration(d.float() * 2 * float64(gap)))
			}
			if d.below(200) == 0 {
				time.Sleep(time.Minute) // every window expires
			}
		}
		wg.Wait()
	})
}

// Layers that do not know of each other multiply to 1.1^d, not to r^d; layers
// that pass the attempt number on only add up. The floor of each budget is off.
func TestLayersMultiplyByTheirBudgets(t *testing.T) {
	const calls = 4000
	for _, chained := range []bool{false, true} {
		for depth := 1; depth <= 4; depth++ {
			t.Run(fmt.Sprintf("depth=%d,chained=%t", depth, chained), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					bottom := 0
					call := func(context.Context) error { bottom++; return errRemote }
					for range depth {
						p := mustPipeline(t, Config{
							Budget:  BudgetConfig{Ratio: 0.1, MinPerSecond: -1, SuccessShare: -1},
							Breaker: BreakerConfig{Off: true},
						})
						next := call
						call = func(ctx context.Context) error {
							ctx = Idempotent(ctx)
							if !chained { // a hop that loses the header
								ctx = Idempotent(t.Context())
							}
							if err := p.Execute(ctx, next); err != nil {
								return errRemote // what is left of an error on the wire
							}
							return nil
						}
					}
					for range calls {
						_ = call(t.Context())
						time.Sleep(time.Millisecond)
					}
					got := float64(bottom) / calls
					most, least := math.Pow(1.1, float64(depth)), math.Pow(1.08, float64(depth))
					if chained {
						most, least = 1+0.1*float64(depth), 1.05
					}
					t.Logf("%.3f calls arrive for each made at the top; retries alone would make %v", got, math.Pow(3, float64(depth)))
					if got > most+1e-9 || got < least {
						t.Fatalf("%.3f calls arrive for each made, want between %.3f and %.3f", got, least, most)
					}
				})
			})
		}
	}
}

// ending is what a call may come to. It heeds its context, as it must.
func ending(ctx context.Context, d *dice) error {
	if err := sleep(ctx, time.Duration(d.below(300))*time.Millisecond); err != nil {
		return err
	}
	switch d.below(8) {
	case 0:
		panic("boom")
	case 1:
		runtime.Goexit()
	case 2:
		<-ctx.Done()
		return ctx.Err()
	case 3:
		return errRemote
	case 4:
		return NeverSent(errRemote)
	}
	return nil
}

// crowd makes calls that end in every way, some of them given up by the caller.
func crowd(t *testing.T, d *dice, execute func(ctx context.Context) error) {
	var wg sync.WaitGroup
	for range 300 {
		wg.Go(func() {
			defer func() { _ = recover() }()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if d.below(3) == 0 {
				stop := time.AfterFunc(time.Duration(d.below(200))*time.Millisecond, cancel)
				defer stop.Stop()
			}
			_ = execute(ctx)
		})
		time.Sleep(time.Duration(d.below(20)) * time.Millisecond)
	}
	wg.Wait()
	synctest.Wait()
}

// Whatever becomes of the calls, every permit comes back: those of the bulkhead,
// of the breaker half-open, and what hedges hold.
func TestPermitsAreConserved(t *testing.T) {
	property(t, 200, func(t *testing.T, r *rand.Rand) {
		const endpoints = 3
		most := int64(1 + r.IntN(6))
		p := mustPipeline(t, Config{
			Deadline: DeadlineConfig{Total: 5 * time.Second, Attempt: time.Second},
			Retry:    RetryConfig{AssumeIdempotent: true},
			Budget:   BudgetConfig{Ratio: 1},
			Hedge:    HedgeConfig{On: r.IntN(2) == 0, Delay: 20 * time.Millisecond, MaxExtra: 2, AssumeIdempotent: true},
			Breaker:  BreakerConfig{MinCalls: 3, OpenFor: 100 * time.Millisecond, Probes: 1 + r.IntN(3), ProbeTimeout: 200 * time.Millisecond, MaxEndpoints: endpoints - 1, SlowCall: pick(r, 0, 100*time.Millisecond)},
			Bulkhead: BulkheadConfig{MaxConcurrent: int(most), MaxQueue: r.IntN(5), MaxWait: 50 * time.Millisecond},
			Throttle: ThrottleConfig{On: r.IntN(2) == 0, Rand: func() float64 { return 0.99 }},
		})
		d := &dice{r: r}
		var inFlight atomic.Int64
		crowd(t, d, func(ctx context.Context) error {
			endpoint := fmt.Sprint(d.below(endpoints))
			if d.below(5) == 0 { // a stream
				pass, err := p.Begin(ctx, Call{Endpoint: endpoint})
				if err != nil {
					return err
				}
				err = errRemote
				defer func() { pass.End(ctx, err); pass.End(ctx, nil) }()
				err = ending(ctx, d)
				return err
			}
			return p.Call(ctx, Call{Endpoint: endpoint, Overlap: true}, func(ctx context.Context) error {
				if n := inFlight.Add(1); n > most {
					t.Errorf("%d calls run at once, want at most %d", n, most)
				}
				defer inFlight.Add(-1)
				return ending(ctx, d)
			})
		})
		time.Sleep(10 * time.Second) // losers of hedges have gone
		if s := p.Snapshot(); s.InFlight != 0 || s.Waiting != 0 {
			t.Fatalf("%d permits are out and %d calls wait, with no call left", s.InFlight, s.Waiting)
		}
		// A probe's permit that was lost would hold its breaker half-open.
		for i := range endpoints {
			for range 20 {
				_ = p.Call(t.Context(), Call{Endpoint: fmt.Sprint(i)}, succeed)
				time.Sleep(100 * time.Millisecond)
			}
		}
		s := p.Snapshot()
		for _, e := range append(s.Endpoints, EndpointSnapshot{Endpoint: "the destination", Breaker: s.Breaker}) {
			if e.Breaker != BreakerClosed {
				t.Errorf("%s: the breaker is %v after 20 successes, want closed", e.Endpoint, e.Breaker)
			}
		}
	})
}

func TestShedderPlacesAreConserved(t *testing.T) {
	property(t, 200, func(t *testing.T, r *rand.Rand) {
		limit := 2 + r.IntN(8)
		s := mustShedder(t, &ShedderConfig{MinLimit: limit, InitialLimit: limit, MaxLimit: limit, MaxQueue: 1 + r.IntN(10), MaxWait: 50 * time.Millisecond})
		d := &dice{r: r}
		var inService atomic.Int64
		crowd(t, d, func(ctx context.Context) error {
			ctx = WithCriticality(ctx, Criticality(1+d.below(4)))
			ctx, cancel := context.WithTimeout(ctx, time.Duration(1+d.below(500))*time.Millisecond)
			defer cancel()
			return s.Execute(ctx, func(ctx context.Context) error {
				if n := inService.Add(1); n > int64(limit) {
					t.Errorf("%d requests in service, want at most %d", n, limit)
				}
				defer inService.Add(-1)
				return ending(ctx, d)
			})
		})
		if now := s.Snapshot(); now.InFlight != 0 || now.Waiting != 0 {
			t.Fatalf("%d places are taken and %d requests wait, with no request left", now.InFlight, now.Waiting)
		}
	})
}

// A breaker under every history: an open one lets nothing pass; half-open, no
// more than the probes; a neutral, a stale and an overdue result change nothing;
// and it always finds back.
func TestBreakerInvariants(t *testing.T) {
	property(t, 300, func(t *testing.T, r *rand.Rand) {
		var generation int
		cfg := BreakerConfig{
			Window: time.Duration(1+r.IntN(10)) * time.Second, Buckets: 2 + r.IntN(9), MinCalls: 1 + r.IntN(10), FailureRate: 0.1 + 0.9*r.Float64(),
			OpenFor: time.Duration(1+r.IntN(5)) * time.Second, Probes: 1 + r.IntN(3), ProbeTimeout: time.Duration(1+r.IntN(5)) * time.Second,
			SlowCall: pick(r, 0, 2*time.Second),
		}
		b := mustBreaker(t, &cfg, func(from, to BreakerState) { generation++ })
		type state struct {
			state      BreakerState
			counts     BreakerCounts
			generation int
		}
		look := func() state { return state{b.State(), b.Counts(), generation} }
		type call struct {
			Admission
			generation int
			since      time.Time
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		var out []call
		var opened time.Time
		for range 400 {
			before := look()
			switch op := r.IntN(10); {
			case op < 5: // a call begins
				a, err := b.Begin(t.Context())
				probes := 0
				for _, c := range out {
					if c.generation == before.generation && time.Since(c.since) < cfg.ProbeTimeout {
						probes++
					}
				}
				want := before.state == BreakerClosed || before.state == BreakerHalfOpen && probes < cfg.Probes
				if (err == nil) != want {
					t.Fatalf("%v with %d of %d probes out: Begin returned %v", before.state, probes, cfg.Probes, err)
				}
				if err == nil {
					out = append(out, call{a, generation, time.Now()})
				} else if !errors.Is(err, ErrOpen) || !IsLocalRejection(err) {
					t.Fatal(err)
				}
			case op < 9 && len(out) > 0: // one ends
				i := r.IntN(len(out))
				c := out[i]
				out = append(out[:i], out[i+1:]...)
				ctx, err := t.Context(), pick(r, nil, errRemote, errRemote, Permanent(errRemote), context.Canceled, error(&Rejection{Policy: "bulkhead", Err: ErrBulkheadFull}))
				neutral := errors.Is(err, context.Canceled) || IsLocalRejection(err)
				if err != nil && r.IntN(5) == 0 {
					ctx, neutral = cancelled, true
				}
				stale := c.generation != before.generation
				overdue := before.state == BreakerHalfOpen && time.Since(c.since) >= cfg.ProbeTimeout
				c.Done(ctx, err)
				c.Done(ctx, err) // a second result of a probe is nothing at all
				if before.state == BreakerClosed {
					// Outside of probes the one result is the caller's care.
					break
				}
				if after := look(); (neutral || stale || overdue) && after != before {
					t.Fatalf("neutral %t, stale %t, overdue %t: %+v became %+v", neutral, stale, overdue, before, after)
				}
			default:
				time.Sleep(time.Duration(r.IntN(3000)) * time.Millisecond)
			}
			if s := look(); s.state == BreakerOpen && before.state != BreakerOpen {
				opened = time.Now()
			} else if s.state == BreakerOpen && time.Since(opened) > cfg.OpenFor+3*time.Second {
				t.Fatalf("open for %v, want %v", time.Since(opened), cfg.OpenFor)
			}
		}
		// What is out never comes back. The destination is well.
		for range 10 + 2*cfg.Probes {
			_ = b.Execute(t.Context(), succeed)
			time.Sleep(max(cfg.OpenFor, cfg.ProbeTimeout) + time.Millisecond)
		}
		if s := b.State(); s != BreakerClosed {
			t.Fatalf("state %v although every call succeeds, want closed", s)
		}
		time.Sleep(cfg.Window + cfg.Window/time.Duration(cfg.Buckets))
		if c := b.Counts(); c != (BreakerCounts{}) {
			t.Fatalf("%+v are remembered after the window without traffic", c)
		}
	})
}

// A call is never late: it ends by its deadline, and where no further attempt
// can be over by then it returns at once, with both causes.
func TestRetryKeepsTheDeadline(t *testing.T) {
	property(t, 500, func(t *testing.T, r *rand.Rand) {
		total := time.Duration(1+r.IntN(5000)) * time.Millisecond
		var gaveUp time.Time
		var reason error
		p := mustPipeline(t, Config{
			Deadline: DeadlineConfig{Total: total},
			Retry:    RetryConfig{MaxAttempts: 20, BaseDelay: time.Duration(1+r.IntN(2000)) * time.Millisecond, AssumeIdempotent: true},
			Budget:   BudgetConfig{Off: true}, Breaker: BreakerConfig{Off: true},
			Hooks: &Hooks{GaveUp: func(_ context.Context, _ string, _ int, why, _ error) { gaveUp, reason = time.Now(), why }},
		})
		start, last := time.Now(), time.Time{}
		err := p.Execute(t.Context(), func(ctx context.Context) error {
			_ = sleep(ctx, time.Duration(r.IntN(1000))*time.Millisecond)
			last = time.Now()
			if r.IntN(3) == 0 {
				return RetryAfter(errRemote, time.Duration(r.IntN(4000))*time.Millisecond)
			}
			return errRemote
		})
		if took := time.Since(start); took > total {
			t.Fatalf("took %v, with %v in all", took, total)
		}
		if errors.Is(reason, context.DeadlineExceeded) {
			if !gaveUp.Equal(last) || !time.Now().Equal(last) {
				t.Fatalf("waited %v to say that there is no time", time.Since(last))
			}
			if !errors.Is(err, errRemote) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("%v: want the cause and DeadlineExceeded", err)
			}
		}
	})
}

// The wait that a server asks for by Retry-After is kept, up to the cap; what
// cannot be read asks for nothing.
func TestTransportHonoursAndCapsRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{
		"3": 3 * time.Second, "3600": 10 * time.Second, "99999999999999999999": 10 * time.Second,
		"Fri, 31 Dec 9999 23:59:59 GMT": 10 * time.Second, "date": 4 * time.Second,
		"-5": 0, "soon": 0, "": 0, "Mon, 01 Jan 1990 00:00:00 GMT": 0,
	} {
		for _, code := range []int{429, 503} {
			t.Run(fmt.Sprintf("%d %s", code, header), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					d := mustDestinations(t, &DestinationsConfig{Default: Config{
						Deadline: DeadlineConfig{Total: time.Minute}, Retry: RetryConfig{BaseDelay: 1},
					}})
					n := 0
					rt := NewTransport(roundTripper(func(req *http.Request) (*http.Response, error) {
						resp := &http.Response{StatusCode: 200, Header: http.Header{}, Body: http.NoBody, Request: req}
						if n++; n == 1 {
							value := header
							if header == "date" {
								value = time.Now().Add(4 * time.Second).UTC().Format(http.TimeFormat)
							}
							resp.StatusCode = code
							resp.Header.Set("Retry-After", value)
						}
						return resp, nil
					}), d)
					req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop.test/", nil)
					start := time.Now()
					resp, err := rt.RoundTrip(req)
					if err != nil || n != 2 {
						t.Fatalf("%d attempts, %v", n, err)
					}
					resp.Body.Close()
					if took := time.Since(start).Round(time.Millisecond); took != want {
						t.Fatalf("waited %v, want %v", took, want)
					}
				})
			})
		}
	}
}

// What a window has seen is gone when its time is over, though nobody calls.
func TestWindowsExpireWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := newSlowWindow(10*time.Second, 10)
		slow.add(true)
		throttle, err := NewThrottle("payments", &ThrottleConfig{Window: 12 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		times(50, func() { _ = throttle.Execute(t.Context(), fail) })
		time.Sleep(14 * time.Second)
		if n, _ := slow.counts(); n != 0 {
			t.Errorf("%d slow calls are remembered", n)
		}
		throttle.mu.Lock()
		defer throttle.mu.Unlock()
		if n, _ := throttle.sum(); n != 0 {
			t.Errorf("the throttle remembers %v calls", n)
		}
	})
}
