package domain

import (
	"context"
	"fmt"
	"time"
)

// Store keeps the products. Each write commits with its event.
type Store interface {
	// Get returns one product, or ErrNotFound.
	Get(ctx context.Context, id string) (Product, error)
	// GetMany returns those of ids that exist, in no particular order.
	GetMany(ctx context.Context, ids []string) ([]Product, error)
	// Create adds p, or returns ErrExists.
	Create(ctx context.Context, p Product, initialStock int32) error
	// CreateMissing adds those of the products that do not exist, in one
	// transaction, and returns how many it added.
	CreateMissing(ctx context.Context, products []Stocked) (int, error)
	// Update changes a product under its lock and returns the result. change
	// reports whether anything differs.
	Update(ctx context.Context, id string, change func(Product) (Product, bool, error)) (Product, error)
}

// Stocked is a product and the stock it begins with.
type Stocked struct {
	Product      Product
	InitialStock int32
}

// Index finds products. It may be a moment behind the store.
type Index interface {
	Search(ctx context.Context, q Query) (Result, error)
}

// Event is what the catalogue tells the other services.
type Event interface{ event() }

// Created says that a product is for sale.
type Created struct {
	Product      Product
	InitialStock int32
}

// Updated says that a product's name, text, category or price changed.
type Updated struct{ Product Product }

func (Created) event() {}
func (Updated) event() {}

// Catalog is what can be done with the catalogue.
type Catalog struct {
	store Store
	index Index
	now   func() time.Time
}

// New returns a catalogue over store and index.
func New(store Store, index Index, now func() time.Time) *Catalog {
	return &Catalog{store: store, index: index, now: now}
}

// Get returns one product.
func (c *Catalog) Get(ctx context.Context, id string) (Product, error) { return c.store.Get(ctx, id) }

// GetMany returns the products of ids in that order, leaving out unknown ones.
func (c *Catalog) GetMany(ctx context.Context, ids []string) ([]Product, error) {
	found, err := c.store.GetMany(ctx, ids)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]Product, len(found))
	for _, p := range found {
		byID[p.ID] = p
	}
	out := make([]Product, 0, len(found))
	for _, id := range ids {
		if p, ok := byID[id]; ok {
			out = append(out, p)
			delete(byID, id) // an id asked for twice is answered once
		}
	}
	return out, nil
}

// Search returns one page of matches.
func (c *Catalog) Search(ctx context.Context, q Query) ([]Product, Result, error) {
	q, err := q.Normalize()
	if err != nil {
		return nil, Result{}, err
	}
	res, err := c.index.Search(ctx, q)
	if err != nil {
		return nil, Result{}, err
	}
	products, err := c.GetMany(ctx, res.IDs)
	return products, res, err
}

// Create puts a product on sale.
func (c *Catalog) Create(ctx context.Context, d Draft) (Product, error) {
	p, err := d.Product(c.now())
	if err != nil {
		return Product{}, err
	}
	return p, c.store.Create(ctx, p, d.InitialStock)
}

// Update edits a product. An edit that changes nothing is not an event.
func (c *Catalog) Update(ctx context.Context, id string, change Change) (Product, error) {
	return c.store.Update(ctx, id, func(p Product) (Product, bool, error) {
		return p.Apply(change, c.now())
	})
}

// Seed adds those of drafts that are not there yet and returns how many.
func (c *Catalog) Seed(ctx context.Context, drafts []Draft) (int, error) {
	products := make([]Stocked, 0, len(drafts))
	for _, d := range drafts {
		p, err := d.Product(c.now())
		if err != nil {
			return 0, fmt.Errorf("catalog: seed %q: %w", d.Name, err)
		}
		products = append(products, Stocked{p, d.InitialStock})
	}
	return c.store.CreateMissing(ctx, products)
}
