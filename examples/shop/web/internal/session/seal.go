package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// errSeal says that a sealed value is not one of ours, or no longer holds. Which of the two is nobody's
// business but the log's.
var errSeal = errors.New("session: the sealed value is not valid")

// sealer encrypts and authenticates small values that travel through the browser: AES-256-GCM with a
// random nonce. The cookie's name is authenticated along, so that one cookie's value is of no use as
// another's, and so is the end of its life.
type sealer struct {
	aead cipher.AEAD
	now  func() time.Time
}

// newSealer derives its key from secret for one purpose (RFC 5869): the storefront's cookies are nothing
// to the console, though both are given the same secret and, on one host, each other's cookies.
func newSealer(secret []byte, purpose string, now func() time.Time) (*sealer, error) {
	if len(secret) != 32 {
		return nil, fmt.Errorf("session: the key has %d bytes; give 32 random ones", len(secret))
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "shop web: "+purpose, 32)
	if err != nil {
		return nil, fmt.Errorf("session: derive the key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead, now}, nil
}

// envelope is what is sealed.
type envelope struct {
	Until int64           `json:"u"` // unix seconds
	Value json.RawMessage `json:"v"`
}

func (s *sealer) seal(name string, v any, life time.Duration) (string, error) {
	value, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	plain, err := json.Marshal(envelope{s.now().Add(life).Unix(), value})
	if err != nil {
		return "", fmt.Errorf("session: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(name))), nil
}

func (s *sealer) open(name, sealed string, v any) error {
	raw, err := base64.RawURLEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return errSeal
	}
	plain, err := s.aead.Open(nil, nil, raw, []byte(name))
	if err != nil {
		return errSeal
	}
	var e envelope
	if err := json.Unmarshal(plain, &e); err != nil || s.now().Unix() >= e.Until {
		return errSeal
	}
	if err := json.Unmarshal(e.Value, v); err != nil {
		return errSeal
	}
	return nil
}

// token returns 128 random bits as text.
func token() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b)
}
