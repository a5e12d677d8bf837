package store

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// sealer encrypts personal data with AES-256-GCM. The row's id is authenticated along, so that a sealed
// value is of no use in another row.
type sealer struct{ aead cipher.AEAD }

func newSealer(key []byte) (sealer, error) {
	if len(key) != 32 {
		return sealer{}, fmt.Errorf("notification store: the key has %d bytes; give 32 random ones", len(key))
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return sealer{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return sealer{aead}, err
}

func (s sealer) seal(id string, v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(s.aead.Seal(nil, nil, plain, []byte(id))), nil
}

func (s sealer) open(id, sealed string, v any) error {
	raw, err := base64.StdEncoding.DecodeString(sealed)
	if err != nil {
		return errors.New("notification store: sealed data is damaged")
	}
	plain, err := s.aead.Open(nil, nil, raw, []byte(id))
	if err != nil {
		return errors.New("notification store: sealed data does not open: is this the key that sealed it?")
	}
	return json.Unmarshal(plain, v)
}
