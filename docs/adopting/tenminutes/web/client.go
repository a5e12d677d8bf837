// Package web is the consumer of docs/adopting/contracts.md: a client of the
// catalogue's API, as any service has one.
package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

// Product is what the web reads of a product.
type Product struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Price  int    `json:"price"`
	Status string `json:"status"`
}

// ErrNoProduct says that there is no product of that ID.
var ErrNoProduct = errors.New("web: no such product")

// Catalog is a client of the catalogue.
type Catalog struct{ URL, Token string }

// Product reads a product.
func (c Catalog) Product(ctx context.Context, id string) (Product, error) {
	var p Product
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/products/"+id, nil)
	if err != nil {
		return p, err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return p, json.NewDecoder(resp.Body).Decode(&p)
	case http.StatusNotFound:
		return p, ErrNoProduct
	}
	return p, fmt.Errorf("web: the catalogue answered %s", resp.Status)
}
