package catalog

import (
	"context"
	"net/http"
	"testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

func TestContracts(t *testing.T) {
	store := &Store{}
	contracttest.Verify(t, contracttest.Provider{
		Name:  "catalog",
		Pacts: pact.Dir("../contracts"),
		REST:  Handler(store, func(authorization string) bool { return authorization == "Bearer good" }),
		States: map[string]contracttest.StateFunc{
			"a product": func(_ context.Context, s *contracttest.State) error {
				store.Put(Product{ID: s.String("id"), Name: "Serviette", Price: 250, Status: "retired"})
				s.Cleanup(func(context.Context) error { store.Delete(s.String("id")); return nil })
				return nil
			},
		},
		Filter: func(r *http.Request, _ contracttest.Interaction) error {
			r.Header.Set("Authorization", "Bearer good")
			return nil
		},
	})
}
