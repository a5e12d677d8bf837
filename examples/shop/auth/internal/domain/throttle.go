package domain

import (
	"sync"
	"time"
)

// Throttle slows the guessing of passwords down. Each key, an account or an
// address, may fail Burst times in a row and then once in each Every; who knows the
// password is not slowed. It is kept in memory: each replica counts for itself.
type Throttle struct {
	burst   int
	every   time.Duration
	maxKeys int

	mu   sync.Mutex
	keys map[string]failures
}

type failures struct {
	n  float64 // as of at; it falls by one in each Every
	at time.Time
}

// NewThrottle returns a Throttle that remembers at most maxKeys keys.
func NewThrottle(burst int, every time.Duration, maxKeys int) *Throttle {
	return &Throttle{burst: burst, every: every, maxKeys: maxKeys, keys: map[string]failures{}}
}

// Attempt counts an attempt as failed, until Forgive. It returns how long to wait
// where there have been too many; that attempt is then not to be made.
func (t *Throttle) Attempt(key string, now time.Time) (wait time.Duration, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.count(key, now)
	if n+1 > float64(t.burst) {
		return time.Duration((n + 1 - float64(t.burst)) * float64(t.every)), false
	}
	if _, known := t.keys[key]; !known && len(t.keys) >= t.maxKeys {
		t.makeRoom(now)
	}
	t.keys[key] = failures{n + 1, now}
	return 0, true
}

// Forgive takes an attempt back that was no failure.
func (t *Throttle) Forgive(key string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := t.count(key, now) - 1; n > 0 {
		t.keys[key] = failures{n, now}
	} else {
		delete(t.keys, key)
	}
}

func (t *Throttle) count(key string, now time.Time) float64 {
	f, ok := t.keys[key]
	if !ok {
		return 0
	}
	return max(0, f.n-float64(now.Sub(f.at))/float64(t.every))
}

// makeRoom forgets the keys that have recovered, or else any one: whoever can fill
// the memory with failing keys is slowed by another Throttle.
func (t *Throttle) makeRoom(now time.Time) {
	for key := range t.keys {
		if t.count(key, now) == 0 {
			delete(t.keys, key)
		}
	}
	for key := range t.keys {
		if len(t.keys) < t.maxKeys {
			return
		}
		delete(t.keys, key)
	}
}
