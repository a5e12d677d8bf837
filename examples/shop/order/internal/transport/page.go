package transport

import (
	"context"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/store"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// page reads one page of a list, and the token of the next one.
func page(ctx context.Context, s *store.Store, f store.Filter, size int32, token string) ([]domain.Order, string, error) {
	if size == 0 {
		size = defaultPage
	}
	var err error
	if f.Before, err = parsePlace(token); err != nil {
		return nil, "", problem.Invalid(problem.Field{Field: "page_token", Message: err.Error(), Rule: "page_token"})
	}
	f.Limit = int(size) + 1 // one more tells whether there is a next page
	orders, err := s.List(ctx, f)
	if err != nil || len(orders) <= int(size) {
		return orders, "", err
	}
	orders = orders[:size]
	last := orders[size-1]
	return orders, formatPlace(store.Place{At: last.CreatedAt, ID: last.ID}), nil
}

// formatPlace packs a place for the caller to send back. It is no secret: a
// forged one only names another place in the caller's own list.
func formatPlace(p store.Place) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strconv.FormatInt(sqldb.Micros(p.At), 10) + " " + p.ID))
}

var errPageToken = errors.New("is not a page token of this list")

func parsePlace(token string) (store.Place, error) {
	if token == "" {
		return store.Place{}, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return store.Place{}, errPageToken
	}
	at, id, ok := strings.Cut(string(raw), " ")
	us, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil || id == "" || len(id) > 64 {
		return store.Place{}, errPageToken
	}
	return store.Place{At: sqldb.FromMicros(us), ID: id}, nil
}
