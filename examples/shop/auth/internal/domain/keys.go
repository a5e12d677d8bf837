package domain

import (
	"crypto/ecdsa"
	"time"
)

// Key is a signing key for ES256.
type Key struct {
	ID string
	// Generation counts the keys, from 1. Replicas that make a key at the same time
	// make the same generation, and only one of them is kept.
	Generation int64
	Private    *ecdsa.PrivateKey
	CreatedAt  time.Time
}

const (
	// KeyLife is how long a key signs.
	KeyLife = 30 * 24 * time.Hour
	// KeyLead is how long a key is published before it signs, so that every
	// verifier has it by then.
	KeyLead = time.Hour
	// keyTrail is how long a key is published after it last signed.
	keyTrail = RefreshLeeway + AccessLife + time.Hour
)

// NextDue reports whether a new key should be made now. keys are in order of
// generation.
func NextDue(keys []Key, now time.Time) bool {
	return len(keys) == 0 || now.Sub(keys[len(keys)-1].CreatedAt) >= KeyLife-KeyLead
}

// Signing returns the key that signs now: the newest that has been published for
// long enough, or the first one there is.
func Signing(keys []Key, now time.Time) (Key, bool) {
	if len(keys) == 0 {
		return Key{}, false
	}
	for i := len(keys) - 1; i > 0; i-- {
		if now.Sub(keys[i].CreatedAt) >= KeyLead {
			return keys[i], true
		}
	}
	return keys[0], true
}

// Published returns the keys that a verifier may still meet or will.
func Published(keys []Key, now time.Time) []Key {
	var out []Key
	for i, k := range keys {
		// A key is succeeded KeyLead after the next one was made.
		if i+1 < len(keys) && now.Sub(keys[i+1].CreatedAt) > KeyLead+keyTrail {
			continue
		}
		out = append(out, k)
	}
	return out
}
