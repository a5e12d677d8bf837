package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
)

var catalog = contracttest.Consumer{Name: "web", Provider: "catalog", Dir: "../contracts"}

func TestReadingAProduct(t *testing.T) {
	catalog.REST(t, contracttest.REST{
		Name:    "reading a product",
		Given:   contracttest.Given("a product", contracttest.Params{"id": "p-1"}),
		Request: contracttest.Request{Path: "/products/p-1", Headers: map[string]any{"Authorization": match.Bearer()}},
		Response: contracttest.Response{Body: match.Object{
			"id": "p-1", "name": match.Like("Napkin"), "price": match.Integer(499), "status": match.Enum("active", "retired"),
		}},
	}, func(ctx context.Context, url string) error {
		p, err := Catalog{URL: url, Token: "of-the-test"}.Product(ctx, "p-1")
		if err == nil && p != (Product{"p-1", "Napkin", 499, "active"}) {
			err = fmt.Errorf("read %+v", p)
		}
		return err
	})
}

func TestReadingWhatIsNotThere(t *testing.T) {
	catalog.REST(t, contracttest.REST{
		Name:     "reading a product that is not there",
		Request:  contracttest.Request{Path: "/products/p-0", Headers: map[string]any{"Authorization": match.Bearer()}},
		Response: contracttest.Response{Status: http.StatusNotFound},
	}, func(ctx context.Context, url string) error {
		_, err := Catalog{URL: url, Token: "of-the-test"}.Product(ctx, "p-0")
		if !errors.Is(err, ErrNoProduct) {
			return fmt.Errorf("expected ErrNoProduct, got %w", err)
		}
		return nil
	})
}
