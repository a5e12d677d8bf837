package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
)

// Keys seal personal data with AES-256-GCM. The first one seals, all of them open.
// A key's id, which stands beside what it sealed, is made of the key itself, so
// nobody has to number them.
type Keys struct {
	current string
	all     map[string]cipher.AEAD
}

// NewKeys returns the keys current and, for data not yet sealed anew, former. Each
// has 32 random bytes.
func NewKeys(current []byte, former ...[]byte) (*Keys, error) {
	k := &Keys{all: map[string]cipher.AEAD{}}
	for i, key := range append([][]byte{current}, former...) {
		if len(key) != 32 {
			return nil, fmt.Errorf("user: a key for personal data has %d bytes; give 32 random ones", len(key))
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("user: key: %w", err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, fmt.Errorf("user: key: %w", err)
		}
		sum := sha256.Sum256(append([]byte("shop user: key id"), key...))
		id := hex.EncodeToString(sum[:6])
		k.all[id] = aead
		if i == 0 {
			k.current = id
		}
	}
	return k, nil
}

// seal binds the data to its owner and key, so that rows cannot be exchanged.
func (k *Keys) seal(owner string, p domain.Personal) (keyID, sealed string, err error) {
	plain, err := json.Marshal(p)
	if err != nil {
		return "", "", fmt.Errorf("user store: encode personal data: %w", err)
	}
	aead := k.all[k.current]
	nonce := make([]byte, aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return k.current, base64.StdEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, bound(k.current, owner))), nil
}

func (k *Keys) open(owner, keyID, sealed string) (domain.Personal, error) {
	aead, ok := k.all[keyID]
	if !ok {
		return domain.Personal{}, fmt.Errorf("user store: personal data was sealed with the key %s, which the service was not given", keyID)
	}
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil || len(raw) < aead.NonceSize() {
		return domain.Personal{}, fmt.Errorf("user store: the personal data of %s is malformed", owner)
	}
	plain, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], bound(keyID, owner))
	if err != nil {
		return domain.Personal{}, fmt.Errorf("user store: the personal data of %s was altered or belongs to another row", owner)
	}
	var p domain.Personal
	if err := json.Unmarshal(plain, &p); err != nil {
		return domain.Personal{}, fmt.Errorf("user store: the personal data of %s does not decode", owner)
	}
	return p, nil
}

func bound(keyID, owner string) []byte { return []byte("profile/" + keyID + "/" + owner) }
