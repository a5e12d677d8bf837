// Package domain holds the catalogue's rules: what a product is, how it changes,
// what a search may ask. It knows neither SQL nor gRPC.
package domain

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
)

// Currency is the one that the shop sells in.
const Currency = "EUR"

// MaxStock bounds the stock that a product can be created with.
const MaxStock = 1_000_000

var (
	// ErrNotFound says that no product has the id.
	ErrNotFound = errors.New("catalog: no such product")
	// ErrExists says that a product with the id exists already.
	ErrExists = errors.New("catalog: a product with this id exists")
)

// FieldError is a value that breaks a rule of the catalogue.
type FieldError struct {
	// Field is the path as callers spell it, such as "price.amount_minor".
	Field   string
	Message string
}

func (e *FieldError) Error() string { return fmt.Sprintf("catalog: %s: %s", e.Field, e.Message) }

// Product is one thing for sale.
type Product struct {
	ID          string
	Name        string
	Description string
	Category    string
	// PriceMinor is in the smallest unit of Currency.
	PriceMinor int32
	// InStock follows the inventory service's events. It is false until the first of them: before inventory
	// knows a product, nobody can have it.
	InStock bool
	// Revision counts the changes, from 1.
	Revision  int32
	UpdatedAt time.Time
}

// ImagePath is where the product's illustration is served.
func (p Product) ImagePath() string { return "/images/" + p.ID + ".svg" }

// Draft is a product to be created.
type Draft struct {
	ID           string // made of Name where empty
	Name         string
	Description  string
	Category     string
	PriceMinor   int32
	Currency     string
	InitialStock int32
}

// Product checks the draft and makes its product. The error is a *FieldError.
func (d Draft) Product(now time.Time) (Product, error) {
	p := Product{
		ID: d.ID, Name: strings.TrimSpace(d.Name), Description: strings.TrimSpace(d.Description),
		Category: strings.TrimSpace(d.Category), PriceMinor: d.PriceMinor,
		Revision: 1, UpdatedAt: now,
	}
	if p.ID == "" {
		p.ID = Slug(p.Name)
	}
	if d.InitialStock < 0 || d.InitialStock > MaxStock {
		return Product{}, &FieldError{"initial_stock", fmt.Sprintf("must be 0 to %d", MaxStock)}
	}
	if err := checkCurrency(d.Currency); err != nil {
		return Product{}, err
	}
	return p, p.check()
}

// Change is an edit: nil leaves a field as it is.
type Change struct {
	Name, Description, Category *string
	PriceMinor                  *int32
	Currency                    string // of PriceMinor
}

// Apply returns p changed by c, and whether anything differs. The error is a
// *FieldError.
func (p Product) Apply(c Change, now time.Time) (Product, bool, error) {
	was := p
	if c.Name != nil {
		p.Name = strings.TrimSpace(*c.Name)
	}
	if c.Description != nil {
		p.Description = strings.TrimSpace(*c.Description)
	}
	if c.Category != nil {
		p.Category = strings.TrimSpace(*c.Category)
	}
	if c.PriceMinor != nil {
		if err := checkCurrency(c.Currency); err != nil {
			return was, false, err
		}
		p.PriceMinor = *c.PriceMinor
	}
	if err := p.check(); err != nil {
		return was, false, err
	}
	if p == was {
		return was, false, nil
	}
	p.Revision++
	p.UpdatedAt = now
	return p, true, nil
}

var idPattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`)

func (p Product) check() error {
	switch {
	case p.Name == "":
		return &FieldError{"name", "must not be blank"}
	case !idPattern.MatchString(p.ID):
		return &FieldError{"id", "must be 1 to 64 lower-case letters, digits and inner dashes"}
	case p.Category == "":
		return &FieldError{"category", "must not be blank"}
	case p.PriceMinor <= 0:
		return &FieldError{"price.amount_minor", "must be more than 0"}
	}
	return nil
}

func checkCurrency(c string) error {
	if c != Currency {
		return &FieldError{"price.currency", "the shop sells in " + Currency}
	}
	return nil
}

// Slug makes an id of a name: "Linen napkins, set of 4" → "linen-napkins-set-of-4".
func Slug(name string) string {
	var b strings.Builder
	dash := false
	for _, r := range strings.ToLower(name) {
		switch {
		case r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)):
			if dash && b.Len() > 0 {
				b.WriteByte('-')
			}
			dash = false
			b.WriteRune(r)
		default:
			dash = true
		}
		if b.Len() >= 60 {
			break
		}
	}
	return b.String()
}
