package transport

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
)

var errPageToken = errors.New("not a page token of this search")

const tokenSum = 8

// pageToken packs a place for the caller to send back. The sum ties it to the
// search it belongs to: with other filters, or altered, it is refused. It is no
// secret and no proof; a forged one only names another place in public results.
func pageToken(q domain.Query, p *domain.Place) string {
	if p == nil {
		return ""
	}
	payload, err := json.Marshal(p)
	if err != nil { // two strings always marshal
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(append(tokenSumOf(q, payload), payload...))
}

func parsePageToken(q domain.Query, token string) (*domain.Place, error) {
	if token == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) <= tokenSum || !bytes.Equal(raw[:tokenSum], tokenSumOf(q, raw[tokenSum:])) {
		return nil, errPageToken
	}
	var p domain.Place
	if err := json.Unmarshal(raw[tokenSum:], &p); err != nil {
		return nil, errPageToken
	}
	return &p, nil
}

func tokenSumOf(q domain.Query, payload []byte) []byte {
	q.PageSize, q.After = 0, nil // the size may change from page to page
	search, err := json.Marshal(q)
	if err != nil { // strings and numbers always marshal
		panic(err)
	}
	h := sha256.New()
	h.Write(search)
	h.Write(payload)
	return h.Sum(nil)[:tokenSum]
}
