// Package transport is the catalogue at its edges: gRPC, HTTP for illustrations,
// events in and out.
package transport

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/search"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Server is the gRPC service.
type Server struct {
	catalogv1.UnimplementedCatalogServiceServer
	catalog *domain.Catalog
}

// NewServer returns the gRPC service over c.
func NewServer(c *domain.Catalog) *Server { return &Server{catalog: c} }

// ListProducts searches.
func (s *Server) ListProducts(ctx context.Context, req *catalogv1.ListProductsRequest) (*catalogv1.ListProductsResponse, error) {
	q := domain.Query{
		Text: req.GetQ(), Category: req.GetCategory(), MinPrice: req.GetMinPrice(), MaxPrice: req.GetMaxPrice(),
		InStock: req.GetInStock(), Sort: req.GetSort(), PageSize: int(req.GetPageSize()),
	}
	q, err := q.Normalize() // before the token, which is tied to the normal form
	if err != nil {
		return nil, answer(err)
	}
	q.After, err = parsePageToken(q, req.GetPageToken())
	if err == nil && q.After != nil && !search.CheckPlace(q.Sort, q.After.Value) {
		err = errPageToken
	}
	if err != nil {
		return nil, problem.Invalid(problem.Field{Field: "page_token", Message: err.Error(), Rule: "page_token"})
	}
	products, res, err := s.catalog.Search(ctx, q)
	if err != nil {
		return nil, answer(err)
	}
	out := &catalogv1.ListProductsResponse{
		Products: messages(products), NextPageToken: pageToken(q, res.Next), Total: int32(res.Total),
	}
	for _, f := range res.Facets {
		facet := &catalogv1.Facet{Field: f.Field}
		for _, v := range f.Values {
			facet.Values = append(facet.Values, &catalogv1.FacetValue{Value: v.Value, Count: int32(v.Count)})
		}
		out.Facets = append(out.Facets, facet)
	}
	return out, nil
}

// GetProduct returns one product.
func (s *Server) GetProduct(ctx context.Context, req *catalogv1.GetProductRequest) (*catalogv1.GetProductResponse, error) {
	p, err := s.catalog.Get(ctx, req.GetId())
	if err != nil {
		return nil, answer(err)
	}
	return &catalogv1.GetProductResponse{Product: message(p)}, nil
}

// BatchGetProducts returns those that exist, in the order asked for.
func (s *Server) BatchGetProducts(ctx context.Context, req *catalogv1.BatchGetProductsRequest) (*catalogv1.BatchGetProductsResponse, error) {
	products, err := s.catalog.GetMany(ctx, req.GetIds())
	if err != nil {
		return nil, answer(err)
	}
	return &catalogv1.BatchGetProductsResponse{Products: messages(products)}, nil
}

// CreateProduct puts a product on sale.
func (s *Server) CreateProduct(ctx context.Context, req *catalogv1.CreateProductRequest) (*catalogv1.CreateProductResponse, error) {
	p, err := s.catalog.Create(ctx, domain.Draft{
		ID: req.GetId(), Name: req.GetName(), Description: req.GetDescription(), Category: req.GetCategory(),
		PriceMinor: req.GetPrice().GetAmountMinor(), Currency: req.GetPrice().GetCurrency(), InitialStock: req.GetInitialStock(),
	})
	if err != nil {
		return nil, answer(err)
	}
	return &catalogv1.CreateProductResponse{Product: message(p)}, nil
}

// UpdateProduct edits a product.
func (s *Server) UpdateProduct(ctx context.Context, req *catalogv1.UpdateProductRequest) (*catalogv1.UpdateProductResponse, error) {
	c := domain.Change{Name: req.Name, Description: req.Description, Category: req.Category}
	if m := req.GetPrice(); m != nil {
		c.PriceMinor, c.Currency = &m.AmountMinor, m.GetCurrency()
	}
	p, err := s.catalog.Update(ctx, req.GetId(), c)
	if err != nil {
		return nil, answer(err)
	}
	return &catalogv1.UpdateProductResponse{Product: message(p)}, nil
}

// answer makes of the domain's errors what the caller reads. Any other error
// stays as it is, and becomes "internal" with its text kept to the logs.
func answer(err error) error {
	if field, ok := errors.AsType[*domain.FieldError](err); ok {
		return problem.Invalid(problem.Field{Field: field.Field, Message: field.Message}).Because(err)
	}
	switch {
	case errors.Is(err, domain.ErrNotFound):
		return problem.New(http.StatusNotFound, "product_not_found", "there is no such product").Because(err)
	case errors.Is(err, domain.ErrExists):
		return status.Error(codes.AlreadyExists, "a product with this id exists already")
	}
	return err
}

func message(p domain.Product) *catalogv1.Product {
	return &catalogv1.Product{
		Id: p.ID, Name: p.Name, Description: p.Description, Category: p.Category,
		Price:   &commonv1.Money{AmountMinor: p.PriceMinor, Currency: domain.Currency},
		InStock: p.InStock, ImageUrl: p.ImagePath(), UpdatedAt: timestamppb.New(p.UpdatedAt), Revision: p.Revision,
	}
}

func messages(products []domain.Product) []*catalogv1.Product {
	out := make([]*catalogv1.Product, 0, len(products))
	for _, p := range products {
		out = append(out, message(p))
	}
	return out
}
