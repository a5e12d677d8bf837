package domain

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/crypto/argon2"
)

// Parameters of new hashes: OWASP's second choice for Argon2id (19 MiB, two
// passes). A hash names its own, so that they can be raised without a migration.
const (
	argonMemory  = 19 * 1024 // KiB
	argonPasses  = 2
	argonThreads = 1
	argonKey     = 32
	argonSalt    = 16
)

// Hasher makes and checks password hashes, a few at a time: each takes memory and
// a processor, and a flood of sign-ins must not take all of both.
type Hasher struct {
	slots chan struct{}
	// decoy is verified where there is no account, so that this takes as long.
	decoy string
}

// NewHasher returns a Hasher that works on as many passwords at once as there are
// processors.
func NewHasher() *Hasher {
	h := &Hasher{slots: make(chan struct{}, runtime.GOMAXPROCS(0))}
	h.decoy = encode(params{argonMemory, argonPasses, argonThreads}, make([]byte, argonSalt), make([]byte, argonKey))
	return h
}

func (h *Hasher) acquire(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("auth: too many passwords to check: %w", ctx.Err())
	}
}

// Hash returns the Argon2id hash of password (RFC 9106) as a PHC string.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer func() { <-h.slots }()
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	p := params{argonMemory, argonPasses, argonThreads}
	return encode(p, salt, p.key(password, salt, argonKey)), nil
}

// Verify reports whether password is the one that hash was made of. An empty hash
// is nobody's.
func (h *Hasher) Verify(ctx context.Context, hash, password string) (bool, error) {
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer func() { <-h.slots }()
	nobody := hash == ""
	if nobody {
		hash = h.decoy
	}
	p, salt, want, err := decode(hash)
	if err != nil {
		return false, err
	}
	got := p.key(password, salt, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && !nobody, nil
}

type params struct {
	memory, passes uint32
	threads        uint8
}

func (p params) key(password string, salt []byte, size uint32) []byte {
	return argon2.IDKey([]byte(password), salt, p.passes, p.memory, p.threads, size)
}

func encode(p params, salt, key []byte) string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.threads,
		b64.EncodeToString(salt), b64.EncodeToString(key))
}

var errHash = errors.New("auth: a stored password hash is malformed")

func decode(hash string) (p params, salt, key []byte, err error) {
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, errHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.threads); err != nil {
		return p, nil, nil, errHash
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	key, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(salt) == 0 || len(key) < 16 || p.memory == 0 || p.passes == 0 || p.threads == 0 {
		return p, nil, nil, errHash
	}
	return p, salt, key, nil
}
