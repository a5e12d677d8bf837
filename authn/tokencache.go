package authn

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"sync"
)

var strictBase64 = base64.RawURLEncoding.Strict()

type tokenDigest [sha256.Size]byte

func digestOf(raw string) tokenDigest { return sha256.Sum256([]byte(raw)) }

// tokenCache remembers verified tokens by digest in two halves: when the young
// half is full it becomes the old one and the old one is dropped, which bounds
// memory and keeps what is in use without a list to maintain.
type tokenCache struct {
	half int // capacity of each half; 0 means no caching

	mu         sync.Mutex
	generation uint64 // of the keys that all entries were verified by
	young, old map[tokenDigest]Principal
}

func newTokenCache(size int) *tokenCache {
	return &tokenCache{half: (max(size, 0) + 1) / 2}
}

// get returns the principal verified from a token, if that was by the keys of
// this generation: a key the issuer has withdrawn must not live on here.
func (c *tokenCache) get(d tokenDigest, generation uint64) (Principal, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.generation != generation {
		return Principal{}, false
	}
	p, ok := c.young[d]
	if !ok {
		if p, ok = c.old[d]; ok {
			c.insert(d, p)
		}
	}
	p.Scopes = slices.Clone(p.Scopes) // a caller's change must not reach the next one
	return p, ok
}

func (c *tokenCache) put(d tokenDigest, generation uint64, p Principal) {
	if c.half == 0 || generation == 0 {
		return
	}
	p.Scopes = slices.Clone(p.Scopes)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case generation < c.generation:
		return
	case generation > c.generation:
		c.generation, c.young, c.old = generation, nil, nil
	}
	c.insert(d, p)
}

// insert is called with the lock held.
func (c *tokenCache) insert(d tokenDigest, p Principal) {
	if c.young == nil {
		c.young = make(map[tokenDigest]Principal)
	}
	if len(c.young) >= c.half {
		c.old, c.young = c.young, make(map[tokenDigest]Principal)
	}
	c.young[d] = p
}
