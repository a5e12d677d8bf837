package domain_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
)

func TestPrice(t *testing.T) {
	products := map[string]domain.Product{"pan": {Name: "Pan", Price: 5490}, "cup": {Name: "Cup", Price: 333}}
	for _, c := range []struct {
		name                      string
		cart                      domain.Cart
		subtotal, discount, total int32
	}{
		{"empty", domain.Cart{}, 0, 0, 0},
		{"sums", domain.Cart{Lines: []domain.Line{{"pan", 2}, {"cup", 3}}}, 11979, 0, 11979},
		{"gone product counts nothing", domain.Cart{Lines: []domain.Line{{"pan", 1}, {"gone", 9}}}, 5490, 0, 5490},
		{"percentage rounds down", domain.Cart{Lines: []domain.Line{{"cup", 1}}, Coupon: "NAPKIN10"}, 333, 33, 300},
		{"amount", domain.Cart{Lines: []domain.Line{{"pan", 1}}, Coupon: "SKETCH5"}, 5490, 500, 4990},
		{"amount below its minimum", domain.Cart{Lines: []domain.Line{{"cup", 1}}, Coupon: "SKETCH5"}, 333, 0, 333},
		{"a coupon that has ended", domain.Cart{Lines: []domain.Line{{"cup", 1}}, Coupon: "SUMMER99"}, 333, 0, 333},
	} {
		p, err := domain.Price(c.cart, products)
		if err != nil || p.Subtotal != c.subtotal || p.Discount != c.discount || p.Total != c.total {
			t.Errorf("%s: %d - %d = %d, %v; want %d - %d = %d", c.name, p.Subtotal, p.Discount, p.Total, err, c.subtotal, c.discount, c.total)
		}
		for _, l := range p.Lines {
			if _, known := products[l.ProductID]; l.Available != known {
				t.Errorf("%s: %s available %v", c.name, l.ProductID, l.Available)
			}
		}
	}
}

func TestPriceDoesNotOverflow(t *testing.T) {
	products := map[string]domain.Product{"gold": {Price: math.MaxInt32}, "silver": {Price: math.MaxInt32 / 2}}
	for _, lines := range [][]domain.Line{{{"gold", 2}}, {{"silver", 2}, {"silver", 1}}} {
		if p, err := domain.Price(domain.Cart{Lines: lines}, products); !errors.Is(err, domain.ErrTooMuch) {
			t.Errorf("%v: %+v, %v", lines, p, err)
		}
	}
}

// What would be too much to show is not put in, so that the customer can still see the cart as it was.
func TestPutRefusesWhatCouldNotBeShown(t *testing.T) {
	store := &oneCart{}
	carts := domain.New(store, prices{"gold": {Price: math.MaxInt32}, "cup": {Price: 333}}, time.Now)
	put := func(id string, n int32) error {
		_, err := carts.Put(t.Context(), "ann", domain.Line{ProductID: id, Quantity: n})
		return err
	}
	if err := put("cup", 2); err != nil {
		t.Fatal(err)
	}
	if err := put("gold", 1); !errors.Is(err, domain.ErrTooMuch) {
		t.Errorf("a sum beyond the shop's money: %v", err)
	}
	if err := put("nothing", 1); !errors.Is(err, domain.ErrUnknownProduct) {
		t.Errorf("an unknown product: %v", err)
	}
	if err := put("cup", 3); err != nil { // sets, does not add
		t.Error(err)
	}
	if c, err := carts.Get(t.Context(), "ann"); err != nil || len(c.Lines) != 1 || c.Total != 999 {
		t.Errorf("the cart is now %+v, %v", c, err)
	}
}

type prices map[string]domain.Product

func (p prices) Products(_ context.Context, ids []string) (map[string]domain.Product, error) {
	out := map[string]domain.Product{}
	for _, id := range ids {
		if product, ok := p[id]; ok {
			out[id] = product
		}
	}
	return out, nil
}

// oneCart is a domain.Store of one customer's cart.
type oneCart struct{ cart domain.Cart }

func (s *oneCart) Get(context.Context, string) (domain.Cart, error) { return s.cart, nil }

func (s *oneCart) Put(_ context.Context, _ string, l domain.Line, _ time.Time) (domain.Cart, error) {
	for i := range s.cart.Lines {
		if s.cart.Lines[i].ProductID == l.ProductID {
			s.cart.Lines[i] = l
			return s.cart, nil
		}
	}
	s.cart.Lines = append(s.cart.Lines, l)
	return s.cart, nil
}

func (s *oneCart) Delete(context.Context, string, string, time.Time) (domain.Cart, error) {
	return s.cart, nil
}

func (s *oneCart) SetCoupon(context.Context, string, string, time.Time) (domain.Cart, error) {
	return s.cart, nil
}

func TestMerge(t *testing.T) {
	got, err := domain.Merge([]domain.Line{{"a", 1}, {"b", 2}, {"a", 98}})
	if err != nil || len(got) != 2 || got[0] != (domain.Line{ProductID: "a", Quantity: 99}) {
		t.Errorf("merged %v, %v", got, err)
	}
	for field, lines := range map[string][]domain.Line{
		"items[1].quantity": {{"a", 99}, {"a", 1}},
		"items[0].quantity": {{"a", -5}, {"a", 6}},
	} {
		_, err := domain.Merge(lines)
		if f, ok := errors.AsType[*domain.FieldError](err); !ok || f.Field != field {
			t.Errorf("%v: %v, want a fault of %s", lines, err, field)
		}
	}
}

func TestCoupon(t *testing.T) {
	for code, want := range map[string]string{"": "", " napkin10 ": "NAPKIN10"} {
		if got, err := domain.Coupon(code); err != nil || got != want {
			t.Errorf("Coupon(%q) = %q, %v", code, got, err)
		}
	}
	if _, err := domain.Coupon("FREE"); err == nil {
		t.Error("an unknown coupon was taken")
	}
}
