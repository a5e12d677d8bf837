package idempotency

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
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
	// MaxBytes bounds what keys and results take together, in bytes. Above it new
	// keys are refused with ErrFull; requests that run already still store their
	// results. Defaults to 64 MiB.
	MaxBytes int
	// Now replaces the clock, for tests.
	Now func() time.Time
}

// Memory is a [Store] in the process's memory: for tests, and for a single
// process whose restart may forget. It is safe for concurrent use.
type Memory struct {
	cfg MemoryConfig

	mu      sync.Mutex
	entries map[entryID]*entry
	oldest  entry // ring of the entries in order of expiry, since all have the same TTL; itself none
	bytes   int
	tokens  uint64
}

type entryID struct{ scope, operation, value string }

type entry struct {
	id           entryID
	fingerprint  [sha256.Size]byte
	token        string
	until        time.Time // of the lease
	expires      time.Time
	done         bool
	result       stored
	size         int
	older, newer *entry
}

// stored is a response, as compact as it may be.
type stored struct {
	code        int
	header      []storedHeader
	contentType string
	body        []byte
	omitted     bool
}

type storedHeader struct {
	name   string
	values []string
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory(cfg *MemoryConfig) (*Memory, error) {
	var c MemoryConfig
	if cfg != nil {
		c = *cfg
	}
	switch {
	case c.TTL < 0:
		return nil, fmt.Errorf("idempotency: MemoryConfig.TTL %v: must not be negative", c.TTL)
	case c.MaxEntries < 0:
		return nil, fmt.Errorf("idempotency: MemoryConfig.MaxEntries %d: must not be negative", c.MaxEntries)
	case c.MaxBytes < 0:
		return nil, fmt.Errorf("idempotency: MemoryConfig.MaxBytes %d: must not be negative", c.MaxBytes)
	}
	if c.TTL == 0 {
		c.TTL = 24 * time.Hour
	}
	if c.MaxEntries == 0 {
		c.MaxEntries = 100_000
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 64 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	m := &Memory{cfg: c, entries: map[entryID]*entry{}}
	m.oldest.older, m.oldest.newer = &m.oldest, &m.oldest
	return m, nil
}

// printOf is a fingerprint at its usual size.
func printOf(fingerprint []byte) [sha256.Size]byte {
	if len(fingerprint) == sha256.Size {
		return [sha256.Size]byte(fingerprint)
	}
	return sha256.Sum256(fingerprint)
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
		case e.fingerprint != printOf(k.Fingerprint):
			return Claim{}, nil, ErrMismatch
		case e.done:
			return Claim{}, e.result.response(), nil
		case now.Before(e.until):
			return Claim{}, nil, ErrInProgress
		}
		e.token, e.until = m.token(), now.Add(ttl)
		return Claim{Key: k, Token: e.token}, nil, nil
	}
	if len(m.entries) >= m.cfg.MaxEntries || m.bytes >= m.cfg.MaxBytes {
		return Claim{}, nil, ErrFull
	}
	e := &entry{id: id(k), fingerprint: printOf(k.Fingerprint), token: m.token(), until: now.Add(ttl)}
	m.entries[e.id] = e
	m.append(e, now)
	m.grow(e, entrySize+len(k.Scope)+len(k.Operation)+len(k.Value))
	return Claim{Key: k, Token: e.token}, nil, nil
}

// entrySize is about what an entry takes beside its strings and bodies.
const entrySize = 300

// token tells the claims of this store apart, and no claim outlives it. m.mu is held.
func (m *Memory) token() string {
	m.tokens++
	return strconv.FormatUint(m.tokens, 36)
}

func (m *Memory) append(e *entry, now time.Time) {
	e.expires = now.Add(m.cfg.TTL)
	e.older, e.newer = m.oldest.older, &m.oldest
	e.older.newer, e.newer.older = e, e
}

func (e *entry) unlink() { e.older.newer, e.newer.older = e.newer, e.older }

func (m *Memory) grow(e *entry, by int) {
	e.size += by
	m.bytes += by
}

func (m *Memory) remove(e *entry) {
	e.unlink()
	delete(m.entries, e.id)
	m.bytes -= e.size
}

// sweep forgets what has expired. A claim that runs is kept for another TTL,
// however old. m.mu is held.
func (m *Memory) sweep(now time.Time) {
	for e := m.oldest.newer; e != &m.oldest && !now.Before(e.expires); e = m.oldest.newer {
		if !e.done && now.Before(e.until) {
			e.unlink()
			m.append(e, now)
			continue
		}
		m.remove(e)
	}
}

// held returns the entry of a claim that still stands. m.mu is held.
func (m *Memory) held(c Claim) (*entry, error) {
	e := m.entries[id(c.Key)]
	if e == nil || e.done || e.token != c.Token {
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
	e.done = true
	m.grow(e, e.result.keep(r))
	return nil
}

// Release implements [Store].
func (m *Memory) Release(_ context.Context, c Claim) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, err := m.held(c)
	if err != nil {
		return err
	}
	m.remove(e)
	return nil
}

// keep makes s the store's own copy of r, and says about how many bytes it takes.
func (s *stored) keep(r Response) int {
	*s = stored{code: r.Code, contentType: r.ContentType, body: slices.Clone(r.Body), omitted: r.BodyOmitted}
	size := len(r.Body) + len(r.ContentType)
	if len(r.Header) > 0 {
		s.header = make([]storedHeader, 0, len(r.Header))
	}
	for name, values := range r.Header {
		s.header = append(s.header, storedHeader{name, slices.Clone(values)})
		size += len(name)
		for _, v := range values {
			size += len(v) + 16
		}
	}
	return size
}

func (s *stored) response() *Response {
	r := &Response{Code: s.code, ContentType: s.contentType, Body: slices.Clone(s.body), BodyOmitted: s.omitted}
	if s.header != nil {
		r.Header = make(map[string][]string, len(s.header))
	}
	for _, h := range s.header {
		r.Header[h.name] = slices.Clone(h.values)
	}
	return r
}
