// Package catalog is the provider of docs/adopting/contracts.md: a service with a
// store, of no framework.
package catalog

import (
	"encoding/json"
	"net/http"
	"sync"
)

// Product is one of the catalogue's.
type Product struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Price    int    `json:"price"`
	Status   string `json:"status"`
	Supplier string `json:"supplier"`
}

// Store keeps products. It is safe for concurrent use.
type Store struct{ products sync.Map }

// Put adds or replaces a product.
func (s *Store) Put(p Product) { s.products.Store(p.ID, p) }

// Delete takes a product away.
func (s *Store) Delete(id string) { s.products.Delete(id) }

// Handler is the service, as main composes it; valid says which tokens are good.
func Handler(s *Store, valid func(authorization string) bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /products/{id}", func(w http.ResponseWriter, r *http.Request) {
		if !valid(r.Header.Get("Authorization")) {
			http.Error(w, "no valid token", http.StatusUnauthorized)
			return
		}
		p, ok := s.products.Load(r.PathValue("id"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(p) // the client has gone
	})
	return mux
}
