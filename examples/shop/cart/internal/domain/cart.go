// Package domain holds the rules of carts and of their price. It knows neither SQL
// nor gRPC.
package domain

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Currency is the one that the shop sells in.
const Currency = "EUR"

// Bounds of a cart.
const (
	MaxQuantity = 99 // of one product
	MaxProducts = 50 // different ones
)

var (
	// ErrUnknownProduct says that the catalogue has no such product.
	ErrUnknownProduct = errors.New("cart: the catalogue has no such product")
	// ErrFull says that a cart holds MaxProducts different products.
	ErrFull = errors.New("cart: the cart is full")
	// ErrEmpty says that there is nothing to price.
	ErrEmpty = errors.New("cart: the cart is empty")
	// ErrUnavailable says that something in the cart is no longer sold.
	ErrUnavailable = errors.New("cart: something in the cart is no longer sold")
	// ErrTooMuch says that the sum does not fit the shop's money.
	ErrTooMuch = errors.New("cart: the total is too high")
)

// FieldError is a value of the caller's that breaks a rule.
type FieldError struct{ Field, Message string }

func (e *FieldError) Error() string { return fmt.Sprintf("cart: %s: %s", e.Field, e.Message) }

// Line is a product and how many of it.
type Line struct {
	ProductID string
	Quantity  int32
}

// Cart is what a customer has put in.
type Cart struct {
	Lines     []Line // in the order they were added
	Coupon    string
	UpdatedAt time.Time
}

// ProductIDs are those of lines.
func ProductIDs(lines []Line) []string {
	ids := make([]string, len(lines))
	for i, l := range lines {
		ids[i] = l.ProductID
	}
	return ids
}

// Merge makes one line of those that name the same product, so that a caller gains
// nothing by splitting. The error is a *FieldError.
func Merge(lines []Line) ([]Line, error) {
	out := make([]Line, 0, len(lines))
	for i, l := range lines {
		if l.Quantity < 1 {
			return nil, &FieldError{fmt.Sprintf("items[%d].quantity", i), "must be at least 1"}
		}
		j := slices.IndexFunc(out, func(o Line) bool { return o.ProductID == l.ProductID })
		if j < 0 {
			out, j = append(out, Line{ProductID: l.ProductID}), len(out)
		}
		if out[j].Quantity += l.Quantity; out[j].Quantity > MaxQuantity {
			return nil, &FieldError{fmt.Sprintf("items[%d].quantity", i), fmt.Sprintf("must be at most %d of one product", MaxQuantity)}
		}
	}
	return out, nil
}

// Product is what the catalogue says of a product.
type Product struct {
	Name  string
	Price int32 // minor units
}

// PricedLine is a line with its price.
type PricedLine struct {
	Line
	Name      string
	UnitPrice int32
	Total     int32
	// Available is false once the catalogue has no such product; the line then
	// counts nothing.
	Available bool
}

// Priced is a cart with its sums, in minor units.
type Priced struct {
	Lines                     []PricedLine
	Subtotal, Discount, Total int32
	Coupon                    string
	UpdatedAt                 time.Time
}

// Price adds a cart up at the catalogue's prices. The error is ErrTooMuch.
func Price(c Cart, products map[string]Product) (Priced, error) {
	p := Priced{Coupon: c.Coupon, UpdatedAt: c.UpdatedAt}
	subtotal := int64(0)
	for _, l := range c.Lines {
		product, ok := products[l.ProductID]
		total := int64(product.Price) * int64(l.Quantity)
		if total > math.MaxInt32 {
			return Priced{}, ErrTooMuch
		}
		subtotal += total
		p.Lines = append(p.Lines, PricedLine{Line: l, Name: product.Name, UnitPrice: product.Price, Total: int32(total), Available: ok})
	}
	if subtotal > math.MaxInt32 {
		return Priced{}, ErrTooMuch
	}
	discount := coupons[c.Coupon].off(subtotal)
	p.Subtotal, p.Discount, p.Total = int32(subtotal), int32(discount), int32(subtotal-discount)
	return p, nil
}

// coupon takes a percentage or an amount off.
type coupon struct {
	percent int64
	amount  int64 // minor units
	from    int64 // the least subtotal it is good for
}

// coupons are the shop's campaigns.
var coupons = map[string]coupon{
	"NAPKIN10": {percent: 10},
	"SKETCH5":  {amount: 500, from: 5000},
}

// off never exceeds the subtotal. A fraction of a cent is the shop's.
func (c coupon) off(subtotal int64) int64 {
	if subtotal < c.from {
		return 0
	}
	return min(subtotal, subtotal*c.percent/100+c.amount)
}

// Coupon returns a code as it is kept. Empty is none. The error is a *FieldError.
func Coupon(code string) (string, error) {
	code = strings.ToUpper(strings.TrimSpace(code))
	if _, ok := coupons[code]; !ok && code != "" {
		return "", &FieldError{"code", "there is no such coupon"}
	}
	return code, nil
}
