package transport

import (
	"testing"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
)

func FuzzPageToken(f *testing.F) {
	q := domain.Query{Text: "pan", Sort: domain.ByPrice, PageSize: 24}
	f.Add(pageToken(q, &domain.Place{Value: "1299", ID: "pan"}))
	f.Add("")
	f.Add("AAAAAAAAAAAAAAAA")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := parsePageToken(q, token)
		if err != nil || p == nil {
			return
		}
		// What is taken was made by pageToken, or stands for the same place.
		again, err := parsePageToken(q, pageToken(q, p))
		if err != nil || *again != *p {
			t.Errorf("%q: %+v became %+v, %v", token, p, again, err)
		}
	})
}
