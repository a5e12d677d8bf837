package domain

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Store keeps carts. A customer without one has an empty cart.
type Store interface {
	Get(ctx context.Context, user string) (Cart, error)
	// Put sets the quantity of a product, or returns ErrFull.
	Put(ctx context.Context, user string, l Line, now time.Time) (Cart, error)
	// Delete takes a product out; one that is not in is no error.
	Delete(ctx context.Context, user, productID string, now time.Time) (Cart, error)
	SetCoupon(ctx context.Context, user, code string, now time.Time) (Cart, error)
}

// Catalog knows names and prices. Unknown products are left out of the answer.
type Catalog interface {
	Products(ctx context.Context, ids []string) (map[string]Product, error)
}

// Carts is what can be done with carts. The catalogue is another service: it is
// never asked inside a transaction.
type Carts struct {
	store   Store
	catalog Catalog
	now     func() time.Time
}

// New returns the carts in store at catalog's prices.
func New(store Store, catalog Catalog, now func() time.Time) *Carts {
	return &Carts{store: store, catalog: catalog, now: now}
}

// Get returns a customer's cart, priced.
func (s *Carts) Get(ctx context.Context, user string) (Priced, error) {
	c, err := s.store.Get(ctx, user)
	if err != nil {
		return Priced{}, err
	}
	return s.price(ctx, c)
}

// Put sets the quantity of a product that the catalogue has. A cart whose sum would not fit the shop's money
// is refused before it is kept: it could be neither shown nor ordered.
func (s *Carts) Put(ctx context.Context, user string, l Line) (Priced, error) {
	if l.Quantity < 1 || l.Quantity > MaxQuantity {
		return Priced{}, &FieldError{"quantity", fmt.Sprintf("must be 1 to %d", MaxQuantity)}
	}
	c, err := s.store.Get(ctx, user)
	if err != nil {
		return Priced{}, err
	}
	next := Cart{Coupon: c.Coupon, Lines: slices.DeleteFunc(slices.Clone(c.Lines), func(o Line) bool { return o.ProductID == l.ProductID })}
	next.Lines = append(next.Lines, l)
	known, err := s.catalog.Products(ctx, ProductIDs(next.Lines))
	if err != nil {
		return Priced{}, err
	}
	if _, ok := known[l.ProductID]; !ok {
		return Priced{}, ErrUnknownProduct
	}
	if _, err := Price(next, known); err != nil {
		return Priced{}, err
	}
	c, err = s.store.Put(ctx, user, l, s.now())
	if err != nil {
		return Priced{}, err
	}
	return s.price(ctx, c)
}

// Delete takes a product out.
func (s *Carts) Delete(ctx context.Context, user, productID string) (Priced, error) {
	c, err := s.store.Delete(ctx, user, productID, s.now())
	if err != nil {
		return Priced{}, err
	}
	return s.price(ctx, c)
}

// ApplyCoupon sets the coupon; an empty code removes it.
func (s *Carts) ApplyCoupon(ctx context.Context, user, code string) (Priced, error) {
	code, err := Coupon(code)
	if err != nil {
		return Priced{}, err
	}
	c, err := s.store.SetCoupon(ctx, user, code, s.now())
	if err != nil {
		return Priced{}, err
	}
	return s.price(ctx, c)
}

// Quote prices lines for an order, or the customer's cart, with its coupon, where
// there are none. Everything in a quote can be bought.
func (s *Carts) Quote(ctx context.Context, user string, lines []Line) (Priced, error) {
	c := Cart{}
	var err error
	if len(lines) > 0 {
		c.Lines, err = Merge(lines)
	} else {
		c, err = s.store.Get(ctx, user)
	}
	if err != nil {
		return Priced{}, err
	}
	if len(c.Lines) == 0 {
		return Priced{}, ErrEmpty
	}
	p, err := s.price(ctx, c)
	if err != nil {
		return Priced{}, err
	}
	for _, l := range p.Lines {
		switch {
		case l.Available:
		case len(lines) == 0:
			return Priced{}, ErrUnavailable
		default:
			for i := range lines { // the path as the caller wrote it, before lines were merged
				if lines[i].ProductID == l.ProductID {
					return Priced{}, &FieldError{fmt.Sprintf("items[%d].product_id", i), "there is no such product"}
				}
			}
		}
	}
	return p, nil
}

func (s *Carts) price(ctx context.Context, c Cart) (Priced, error) {
	var products map[string]Product
	if len(c.Lines) > 0 {
		var err error
		if products, err = s.catalog.Products(ctx, ProductIDs(c.Lines)); err != nil {
			return Priced{}, err
		}
	}
	return Price(c, products)
}
