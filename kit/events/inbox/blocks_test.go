package inbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// inOrder checks that each key's effects are 1 to n.
func inOrder(t *testing.T, got []string, keys []string, n int) {
	t.Helper()
	if len(got) != len(keys)*n {
		t.Errorf("%d effects, want %d", len(got), len(keys)*n)
	}
	for _, k := range keys {
		var want []string
		for i := range n {
			want = append(want, fmt.Sprintf("%s-%d", k, i+1))
		}
		if list := of(k+"-", got); !slices.Equal(list, want) {
			t.Errorf("effects of %s: %v", k, list)
		}
	}
}

func names(n int) []string {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("key%d", i))
	}
	return keys
}

// Two replicas each handle a part of the keys, and one that ends leaves its part
// to the other.
func TestReplicasShareTheBlocks(t *testing.T) {
	db := migrated(t, pgtest.DB(t))
	b := memevents.New(nil)
	var mu sync.Mutex
	by := [2]map[string]bool{{}, {}}
	handled := func(i int) int {
		mu.Lock()
		defer mu.Unlock()
		return len(by[i])
	}
	replica := func(i int) func() {
		_, stop := start(t, db, b, inbox.ConsumerConfig{Batch: 4}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			mu.Lock()
			by[i][e.Key] = true
			mu.Unlock()
			return effect(ctx, tx, e)
		})
		return stop
	}
	keys := names(40)
	n := 0
	wave := func() {
		n++
		for _, k := range keys {
			publish(t, b, event(k, n))
		}
	}
	replica(0)
	wave()
	happen(t, db, len(keys)*n)
	stop := replica(1)
	eventually(t, "both have a part", func() bool {
		wave()
		happen(t, db, len(keys)*n)
		return handled(0) > 0 && handled(1) >= len(keys)/4
	})
	stop()
	wave()
	happen(t, db, len(keys)*n)
	drained(t, b)
	inOrder(t, effects(t, db), keys, n)
}

// A consumer that is cut into other blocks repeats nothing and misses nothing.
func TestBlocksMayBeChanged(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		keys := names(20)
		n := 0
		for _, blocks := range []int{1, 8, 2} {
			_, stop := start(t, db, b, inbox.ConsumerConfig{Blocks: blocks}, nil)
			for range 3 {
				n++
				for _, k := range keys {
					publish(t, b, event(k, n))
				}
			}
			happen(t, db, len(keys)*n)
			drained(t, b)
			stop()
		}
		inOrder(t, effects(t, db), keys, n)
	})
}

// While a block is handed over, or at the end, what is under way may finish.
func TestHandlersUnderWayFinish(t *testing.T) {
	both(t, func(t *testing.T, db *sqldb.DB) {
		b := memevents.New(nil)
		in, out := make(chan struct{}), make(chan struct{})
		_, stop := start(t, db, b, inbox.ConsumerConfig{DrainTimeout: time.Minute}, func(ctx context.Context, tx *sql.Tx, e events.Event) error {
			close(in)
			<-out
			return effect(ctx, tx, e)
		})
		publish(t, b, event("a", 1))
		<-in
		ended := make(chan struct{})
		go func() { stop(); close(ended) }()
		close(out)
		<-ended
		if got := effects(t, db); len(got) != 1 {
			t.Errorf("effects %v", got)
		}
	})
}
