package simulation

import (
	"flag"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	oneSeed = flag.Uint64("seed", 0, "the only seed to run")
	seeds   = flag.Int("seeds", 0, "how many seeds TestSeeds runs; 0: 2,000, with -short 50; make test-sim runs 10,000")
)

// total adds up what the seeds met.
type total struct {
	mu                      sync.Mutex
	faults, points, crashes map[string]int
	virtual                 time.Duration
	calls                   int
}

func newTotal() *total {
	return &total{faults: map[string]int{}, points: map[string]int{}, crashes: map[string]int{}}
}

func (s *total) add(w *world) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for to, from := range map[*map[string]int]map[string]int{&s.faults: w.faults, &s.points: w.points, &s.crashes: w.crashes} {
		for k, n := range from {
			(*to)[k] += n
		}
	}
	s.virtual += time.Since(w.begun)
	s.calls += w.calls
}

func table(t *testing.T, title string, counts map[string]int) {
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%-8s %-36s %9d", title, k, counts[k])
	}
}

func run(t *testing.T, db *store, seed uint64, b *broken, sum *total) (trace uint64, err error) {
	trace, _, err = watch(t, db, seed, b, sum)
	return trace, err
}

// watch runs one seed in a bubble of its own, and returns the turns that it took.
func watch(t *testing.T, db *store, seed uint64, b *broken, sum *total) (trace uint64, turns []string, err error) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(seed, db, b)
		if *oneSeed != 0 && testing.Verbose() {
			w.log = t.Logf
			t.Logf("%+v", w.shape)
		}
		err = w.run()
		trace = w.trace
		if err != nil {
			turns = w.turns()
		}
		if sum != nil {
			sum.add(w)
		}
	})
	return trace, turns, err
}

// each runs seeds on all processors until f says to stop.
func each(t *testing.T, n int, f func(t *testing.T, db *store, seed uint64) bool) {
	var next atomic.Uint64
	var stop atomic.Bool
	t.Run("workers", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				db, err := newStore()
				if err != nil {
					t.Fatal(err)
				}
				defer db.close()
				for !stop.Load() {
					seed := next.Add(1)
					if seed > uint64(n) {
						return
					}
					if !f(t, db, seed) {
						stop.Store(true)
					}
				}
			})
		}
	})
}

func TestSeeds(t *testing.T) {
	n := *seeds
	switch {
	case n > 0:
	case testing.Short():
		n = 50
	default:
		n = 2000
	}
	sum := newTotal()
	one := func(t *testing.T, db *store, seed uint64) bool {
		_, last, err := watch(t, db, seed, &broken{}, sum)
		if err != nil {
			t.Errorf("seed %d: %v\nrepeat it with: go test ./kit/events/simulation -run TestSeeds -seed %d -v", seed, err, seed)
			if *oneSeed == 0 {
				t.Log(strings.Join(last[:min(len(last), 1000)], "\n"))
			}
		}
		return err == nil
	}
	start := time.Now()
	if *oneSeed != 0 {
		n = 1
		db, err := newStore()
		if err != nil {
			t.Fatal(err)
		}
		defer db.close()
		one(t, db, *oneSeed)
	} else {
		each(t, n, one)
	}
	t.Logf("%d seeds in %v; %v of virtual time, %d calls", n, time.Since(start).Round(time.Millisecond), sum.virtual, sum.calls)
	table(t, "fault", sum.faults)
	table(t, "hits", sum.points)
	table(t, "crashes", sum.crashes)
	if t.Failed() || n < 200 {
		return
	}
	for _, p := range slices.Concat(relayPoints, consumerPoints) {
		if sum.points[p] == 0 || sum.crashes[p] == 0 {
			t.Errorf("crash point %q was hit %d times, %d of them with a crash", p, sum.points[p], sum.crashes[p])
		}
	}
}

// A seed says what happens: run twice, all but a few take the same turns. Those few
// have goroutines that several things reach at the same instant, of which Go picks
// any; their outcome is judged all the same.
func TestSeedsRepeatThemselves(t *testing.T) {
	n := 60
	if testing.Short() {
		n = 10
	}
	var same atomic.Int32
	each(t, n, func(t *testing.T, db *store, seed uint64) bool {
		a, err := run(t, db, seed, &broken{}, nil)
		b, again := run(t, db, seed, &broken{}, nil)
		if err != nil || again != nil {
			t.Errorf("seed %d: %v, %v", seed, err, again)
		}
		if a == b {
			same.Add(1)
		}
		return true
	})
	t.Logf("%d of %d seeds took the same turns twice", same.Load(), n)
	if int(same.Load()) < n/2 {
		t.Errorf("only %d of %d seeds took the same turns twice", same.Load(), n)
	}
}

// The ledger is worth something only where it finds what is wrong.
func TestPlantedFaultsAreFound(t *testing.T) {
	for _, x := range []struct {
		name   string
		broken broken
	}{
		{"AckBeforeCommit", broken{ackFirst: true}},
		{"CursorBeforePublish", broken{cursorFirst: true}},
		{"NegativeAckReorders", broken{nack: true}},
		{"MarkWithoutConsumer", broken{oneMark: true}},
		{"OvertakesADeadLetter", broken{unparked: true}},
		{"DrainsFromTheEnd", broken{lastFirst: true}},
	} {
		t.Run(x.name, func(t *testing.T) {
			const within = 200
			var found atomic.Uint64
			var mu sync.Mutex
			var first error
			each(t, within, func(t *testing.T, db *store, seed uint64) bool {
				_, err := run(t, db, seed, &x.broken, nil)
				if err == nil {
					return true
				}
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
					found.Store(seed)
				}
				return false
			})
			if first == nil {
				t.Fatalf("not found within %d seeds", within)
			}
			t.Logf("found by seed %d: %v", found.Load(), first)
		})
	}
}
