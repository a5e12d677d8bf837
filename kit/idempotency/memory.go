package idempotency

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"sync"
	"time"
)

// MemoryConfig tunes [NewMemory]. The zero value is ready to use.
type MemoryConfig struct {
	// TTL is how long a result is kept. Defaults to 24 h.
	TTL time.Duration
	// MaxEntries bounds the keys held. Above it new ones are refused with
	// ErrFull: forgetting a live one would run its request twice. Defaults to
	// 100,000.
	MaxEntries int
	// Now replaces the clock, for tests.
	Now func() time.Time
}

// Memory is a [Store] in the process's memory: for tests, and for a single
// process whose restart may forget. It is safe for concurrent use.
type Memory struct {
	cfg MemoryConfig

	mu      sync.Mutex
	entries map[entryID]*entry
	byAge   []aged // in order of expiry, since every entry has the same TTL
}

type entryID struct{ scope, operation, value string }

type entry struct {
	fingerprint []byte
	token       string
	until       time.Time // of the lease
	expires     time.Time
	done        *Response
}

type aged struct {
	id entryID
	e  *entry
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory(cfg *MemoryConfig) (*Memory, error) {
	var c MemoryConfig
	if cfg != nil {
		c = *cfg
	}
	if c.TTL < 0 {
		return nil, fmt.Errorf("idempotency: MemoryConfig.TTL %v: must not be negative", c.TTL)
	}
	if c.MaxEntries < 0 {
		return nil, fmt.Errorf("idempotency: MemoryConfig.MaxEntries %d: must not be negative", c.MaxEntries)
	}
	if c.TTL == 0 {
		c.TTL = 24 * time.Hour
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = 100_000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Memory{cfg: c, entries: map[entryID]*entry{}}, nil
}

func id(k Key) entryID { return entryID{k.Scope, k.Operation, k.Value} }

// Claim implements [Store].
func (m *Memory) Claim(_ context.Context, k Key, ttl time.Duration) (Claim, *Response, error) {
	if err := k.Validate(); err != nil {
		return Claim{}, nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	m.sweep(now)
	if e := m.entries[id(k)]; e != nil {
		switch {
		case !bytes.Equal(e.fingerprint, k.Fingerprint):
			return Claim{}, nil, ErrMismatch
		case e.done != nil:
			return Claim{}, clone(e.done), nil
		case now.Before(e.until):
			return Claim{}, nil, ErrInProgress
		}
		e.token, e.until = rand.Text(), now.Add(ttl)
		return Claim{Key: k, Token: e.token}, nil, nil
	}
	if len(m.entries) >= m.cfg.MaxEntries {
		return Claim{}, nil, ErrFull
	}
	e := &entry{fingerprint: slices.Clone(k.Fingerprint), token: rand.Text(), until: now.Add(ttl), expires: now.Add(m.cfg.TTL)}
	m.entries[id(k)] = e
	m.byAge = append(m.byAge, aged{id(k), e})
	return Claim{Key: k, Token: e.token}, nil, nil
}

// sweep forgets what has expired; of the expired, running claims stay until
// their lease ends. m.mu is held.
func (m *Memory) sweep(now time.Time) {
	for len(m.byAge) > 0 {
		a := m.byAge[0]
		if m.entries[a.id] == a.e { // not released since
			if now.Before(a.e.expires) || (a.e.done == nil && now.Before(a.e.until)) {
				return
			}
			delete(m.entries, a.id)
		}
		m.byAge[0] = aged{}
		m.byAge = m.byAge[1:]
	}
}

// held returns the entry of a claim that still stands. m.mu is held.
func (m *Memory) held(c Claim) (*entry, error) {
	e := m.entries[id(c.Key)]
	if e == nil || e.done != nil || e.token != c.Token {
		return nil, ErrLeaseLost
	}
	return e, nil
}

// Renew implements [Store].
func (m *Memory) Renew(_ context.Context, c Claim, ttl time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, err := m.held(c)
	if err != nil {
		return err
	}
	e.until = m.cfg.Now().Add(ttl)
	return nil
}

// Complete implements [Store].
func (m *Memory) Complete(_ context.Context, c Claim, r Response) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, err := m.held(c)
	if err != nil {
		return err
	}
	e.done = clone(&r)
	return nil
}

// Release implements [Store].
func (m *Memory) Release(_ context.Context, c Claim) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.held(c); err != nil {
		return err
	}
	delete(m.entries, id(c.Key))
	return nil
}

// clone keeps the store's copy apart from the callers'.
func clone(r *Response) *Response {
	c := *r
	c.Body = slices.Clone(r.Body)
	if r.Header != nil {
		c.Header = make(map[string][]string, len(r.Header))
		for name, values := range r.Header {
			c.Header[name] = slices.Clone(values)
		}
	}
	return &c
}
