package domain

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// KeySize is the size of a vault key in bytes (AES-256).
const KeySize = 32

// ErrSealed is returned where a sealed number cannot be opened: its key is not
// among those configured, or it was altered.
var ErrSealed = errors.New("payment: the card cannot be opened; is its vault key among those configured?")

// Vault encrypts card numbers with AES-256-GCM (NIST SP 800-38D). The newest
// key seals, older ones still open. It is safe for concurrent use.
type Vault struct {
	current string
	keys    map[string]cipher.AEAD
}

// NewVault returns a vault that seals with key and also opens what the old keys
// sealed. Each is [KeySize] random bytes.
func NewVault(key []byte, old ...[]byte) (*Vault, error) {
	v := &Vault{keys: map[string]cipher.AEAD{}}
	for n, k := range append([][]byte{key}, old...) {
		if len(k) != KeySize {
			return nil, fmt.Errorf("payment: a vault key has %d bytes, it must have %d", len(k), KeySize)
		}
		block, err := aes.NewCipher(k)
		if err != nil {
			return nil, fmt.Errorf("payment: vault key: %w", err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("payment: vault key: %w", err)
		}
		id := keyID(k)
		if n == 0 {
			v.current = id
		}
		v.keys[id] = aead
	}
	return v, nil
}

// keyID names a key without giving it away.
func keyID(key []byte) string {
	sum := sha256.Sum256(append([]byte("vault key id\x00"), key...))
	return hex.EncodeToString(sum[:4])
}

// Seal encrypts a card number for one payment method, whose id is bound to it:
// a row's number cannot be moved to another row.
func (v *Vault) Seal(methodID, number string) (keyID string, sealed []byte, err error) {
	aead := v.keys[v.current]
	nonce := make([]byte, aead.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return "", nil, fmt.Errorf("payment: seal card: %w", err)
	}
	return v.current, aead.Seal(nonce, nonce, []byte(number), []byte(methodID)), nil
}

// Open is the inverse of Seal. It fails with ErrSealed.
func (v *Vault) Open(methodID, keyID string, sealed []byte) (number string, err error) {
	aead, ok := v.keys[keyID]
	if !ok || len(sealed) < aead.NonceSize() {
		return "", ErrSealed
	}
	n := aead.NonceSize()
	plain, err := aead.Open(nil, sealed[:n], sealed[n:], []byte(methodID))
	if err != nil {
		return "", ErrSealed
	}
	return string(plain), nil
}
