package transport

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
)

// Catalog is the catalogue service as the domain sees it.
type Catalog struct {
	client catalogv1.CatalogServiceClient
}

var _ domain.Catalog = (*Catalog)(nil)

// NewCatalog returns the catalogue behind conn.
func NewCatalog(conn grpc.ClientConnInterface) *Catalog {
	return &Catalog{catalogv1.NewCatalogServiceClient(conn)}
}

// Products implements domain.Catalog.
func (c *Catalog) Products(ctx context.Context, ids []string) (map[string]domain.Product, error) {
	resp, err := c.client.BatchGetProducts(ctx, &catalogv1.BatchGetProductsRequest{Ids: ids})
	if err != nil {
		return nil, fmt.Errorf("cart: ask the catalogue: %w", err)
	}
	out := make(map[string]domain.Product, len(resp.GetProducts()))
	for _, p := range resp.GetProducts() {
		if got := p.GetPrice().GetCurrency(); got != domain.Currency {
			return nil, fmt.Errorf("cart: the catalogue prices %s in %q, not in %s", p.GetId(), got, domain.Currency)
		}
		out[p.GetId()] = domain.Product{Name: p.GetName(), Price: p.GetPrice().GetAmountMinor()}
	}
	return out, nil
}
