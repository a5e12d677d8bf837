package resilience

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// load sends requests of one latency at a steady rate, and counts those served.
type load struct {
	every, latency time.Duration
	sent, served   atomic.Int64
}

func (l *load) run(ctx context.Context, s *Shedder, wg *sync.WaitGroup) {
	tick := time.NewTicker(l.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.sent.Add(1)
		wg.Go(func() {
			err := s.Execute(context.Background(), func(context.Context) error {
				time.Sleep(l.latency)
				return nil
			})
			if err == nil {
				l.served.Add(1)
			}
		})
	}
}

// offer runs the loads for d and returns what part of each was served.
func offer(s *Shedder, d time.Duration, loads ...*load) []float64 {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	var wg sync.WaitGroup
	for _, l := range loads {
		wg.Go(func() { l.run(ctx, s, &wg) })
	}
	wg.Wait()
	parts := make([]float64, len(loads))
	for i, l := range loads {
		parts[i] = float64(l.served.Load()) / float64(l.sent.Load())
	}
	return parts
}

// Handlers that only wait for something do not contend, however different they
// are: the average latency says nothing about load.
func TestShedderLetsDifferentLatenciesBe(t *testing.T) {
	for name, mix := range map[string][]*load{
		"5 ms and 800 ms":  {{every: 10 * time.Millisecond, latency: 5 * time.Millisecond}, {every: 25 * time.Millisecond, latency: 800 * time.Millisecond}},
		"20 ms and 200 ms": {{every: 10 * time.Millisecond, latency: 20 * time.Millisecond}, {every: 10 * time.Millisecond, latency: 200 * time.Millisecond}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := mustShedder(t, nil)
				for i, part := range offer(s, 30*time.Second, mix...) {
					if part < 0.97 {
						t.Errorf("load %d: %.0f %% served, limit %d", i, 100*part, s.Snapshot().Limit)
					}
				}
			})
		})
	}
}

// A service whose calls become slower, because of something behind it, has a dip
// and not a decline: less at a time does not make them faster.
func TestShedderLearnsANewLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustShedder(t, nil)
		before := offer(s, 20*time.Second, &load{every: 5 * time.Millisecond, latency: 100 * time.Millisecond})
		during := offer(s, 10*time.Second, &load{every: 5 * time.Millisecond, latency: 400 * time.Millisecond})
		after := offer(s, 10*time.Second, &load{every: 5 * time.Millisecond, latency: 400 * time.Millisecond})
		t.Logf("served %.3f, then %.3f, then %.3f; %+v", before, during, after, s.Snapshot())
		if before[0] < 0.99 || after[0] < 0.97 {
			t.Errorf("served %.3f before, %.3f while the latency rose, %.3f after", before, during, after)
		}
	})
}

// A service that starts under its usual load finds room for it in a second.
func TestShedderStartsUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustShedder(t, nil)
		first := offer(s, 2*time.Second, &load{every: time.Millisecond, latency: 200 * time.Millisecond})
		then := offer(s, 10*time.Second, &load{every: time.Millisecond, latency: 200 * time.Millisecond})
		t.Logf("served %.3f, then %.3f; %+v", first, then, s.Snapshot())
		if first[0] < 0.5 || then[0] < 0.99 {
			t.Errorf("served %.3f in the first two seconds, %.3f afterwards", first, then)
		}
	})
}
