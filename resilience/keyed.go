package resilience

import (
	"container/list"
	"crypto/sha256"
	"hash/maphash"
	"strings"
	"sync"

	"golang.org/x/time/rate"
)

// KeyedLimiterConfig sets up a [KeyedLimiter].
type KeyedLimiterConfig struct {
	// Limit is each key's.
	Limit LimiterConfig
	// MaxKeys bounds how many keys are remembered; beyond it the one unused for
	// longest is forgotten, and would start with a full bucket. Keys of more than
	// 64 bytes are kept as their SHA-256, so that a caller who chooses the key
	// does not choose the memory. Defaults to 65536, about 20 MiB.
	MaxKeys int
}

// KeyedLimiter is a token bucket per key, such as a user or an address. Its
// memory is bounded. It is safe for concurrent use.
type KeyedLimiter struct {
	name   string
	cfg    KeyedLimiterConfig
	seed   maphash.Seed
	shards [keyShards]keyShard
}

const keyShards = 16

type keyShard struct {
	mu   sync.Mutex
	keys map[string]*list.Element
	lru  list.List // of *keyedBucket, most recent first
}

type keyedBucket struct {
	key     string
	limiter *rate.Limiter
}

// NewKeyedLimiter returns a limiter; cfg.Limit.PerSecond is required.
func NewKeyedLimiter(name string, cfg *KeyedLimiterConfig) (*KeyedLimiter, error) {
	var c KeyedLimiterConfig
	if cfg != nil {
		c = *cfg
	}
	if err := c.Limit.fill(); err != nil {
		return nil, err
	}
	c.MaxKeys = orDefault(c.MaxKeys, 65536)
	if c.MaxKeys < keyShards || c.MaxKeys > 10_000_000 {
		return nil, fieldError("KeyedLimiter.MaxKeys", c.MaxKeys, "a number between 16 and 10000000")
	}
	l := &KeyedLimiter{name: name, cfg: c, seed: maphash.MakeSeed()}
	for i := range l.shards {
		l.shards[i].keys = make(map[string]*list.Element)
	}
	return l, nil
}

// Allow takes a token of a key and returns the key's quota after it. Without a
// token the error is a [*Rejection] that is [ErrLimited].
func (l *KeyedLimiter) Allow(key string) (Quota, error) {
	one := Limiter{name: l.name, cfg: l.cfg.Limit, l: l.bucket(key)}
	err := one.Allow()
	return one.Quota(), err
}

// Keys returns how many keys are remembered.
func (l *KeyedLimiter) Keys() int {
	n := 0
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		n += len(s.keys)
		s.mu.Unlock()
	}
	return n
}

// maxKey bounds the keys that are kept as they are.
const maxKey = 64

func (l *KeyedLimiter) bucket(key string) *rate.Limiter {
	if len(key) > maxKey {
		sum := sha256.Sum256([]byte(key))
		key = "sha256:" + string(sum[:])
	}
	s := &l.shards[maphash.String(l.seed, key)%keyShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if at, ok := s.keys[key]; ok {
		s.lru.MoveToFront(at)
		return at.Value.(*keyedBucket).limiter
	}
	if len(s.keys) >= l.cfg.MaxKeys/keyShards {
		oldest := s.lru.Remove(s.lru.Back()).(*keyedBucket)
		delete(s.keys, oldest.key)
	}
	key = strings.Clone(key) // it may be a piece of a large header
	b := &keyedBucket{key: key, limiter: rate.NewLimiter(rate.Limit(l.cfg.Limit.PerSecond), l.cfg.Limit.Burst)}
	s.keys[key] = s.lru.PushFront(b)
	return b.limiter
}
