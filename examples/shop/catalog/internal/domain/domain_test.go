package domain_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
)

func TestSlug(t *testing.T) {
	for name, want := range map[string]string{
		"Linen napkins, set of 4":   "linen-napkins-set-of-4",
		"  Ünïcode & co.  ":         "n-code-co",
		"Chef's knife, 20 cm":       "chef-s-knife-20-cm",
		"!!!":                       "",
		strings.Repeat("long ", 40): "long-long-long-long-long-long-long-long-long-long-long-long-l",
	} {
		if got := domain.Slug(name); got != want {
			t.Errorf("Slug(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestDraftRules(t *testing.T) {
	good := domain.Draft{Name: "Pan", Category: "Kitchen", PriceMinor: 1, Currency: "EUR"}
	if p, err := good.Product(time.Unix(1, 0)); err != nil || p.ID != "pan" || p.Revision != 1 || p.InStock {
		t.Errorf("product %+v, %v", p, err)
	}
	for field, spoil := range map[string]func(*domain.Draft){
		"name":               func(d *domain.Draft) { d.Name = "  " },
		"id":                 func(d *domain.Draft) { d.ID = "-x" },
		"category":           func(d *domain.Draft) { d.Category = "" },
		"price.amount_minor": func(d *domain.Draft) { d.PriceMinor = 0 },
		"price.currency":     func(d *domain.Draft) { d.Currency = "USD" },
		"initial_stock":      func(d *domain.Draft) { d.InitialStock = -1 },
	} {
		d := good
		spoil(&d)
		_, err := d.Product(time.Unix(1, 0))
		fieldErr, ok := errors.AsType[*domain.FieldError](err)
		if !ok || fieldErr.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestApply(t *testing.T) {
	p := domain.Product{ID: "pan", Name: "Pan", Category: "Kitchen", PriceMinor: 100, Revision: 3}
	name, price := "Pan, big", int32(200)
	got, differs, err := p.Apply(domain.Change{Name: &name, PriceMinor: &price, Currency: "EUR"}, time.Unix(9, 0))
	if err != nil || !differs || got.Name != name || got.PriceMinor != 200 || got.Revision != 4 || !got.UpdatedAt.Equal(time.Unix(9, 0)) {
		t.Errorf("changed to %+v, %v, %v", got, differs, err)
	}
	if got, differs, err := p.Apply(domain.Change{}, time.Unix(9, 0)); err != nil || differs || got != p {
		t.Errorf("nothing changed to %+v, %v, %v", got, differs, err)
	}
	if _, _, err := p.Apply(domain.Change{PriceMinor: &price, Currency: "USD"}, time.Unix(9, 0)); err == nil {
		t.Error("a price in another currency was taken")
	}
}

func TestNormalize(t *testing.T) {
	q, err := domain.Query{}.Normalize()
	if err != nil || q.PageSize != domain.DefaultPageSize || q.Sort != domain.ByName {
		t.Errorf("normal form %+v, %v", q, err)
	}
	for field, q := range map[string]domain.Query{
		"page_size": {PageSize: 101}, "sort": {Sort: "colour"}, "min_price": {MinPrice: -1},
		"max_price": {MinPrice: 10, MaxPrice: 5},
	} {
		_, err := q.Normalize()
		if fieldErr, ok := errors.AsType[*domain.FieldError](err); !ok || fieldErr.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}
