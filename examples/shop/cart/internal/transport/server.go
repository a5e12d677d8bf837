// Package transport is the cart at its edges: gRPC in, the catalogue's gRPC out,
// events in.
package transport

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Server is the gRPC service. Whose cart it is comes from the verified token alone.
type Server struct {
	cartv1.UnimplementedCartServiceServer
	carts *domain.Carts
}

// NewServer returns the gRPC service over c.
func NewServer(c *domain.Carts) *Server { return &Server{carts: c} }

// user returns the customer who calls. The policy has required one already.
func user(ctx context.Context) (string, error) {
	p, ok := authn.PrincipalFrom(ctx)
	if !ok || !p.IsUser() {
		return "", authn.ErrTokenMissing
	}
	return p.Subject, nil
}

// GetCart returns the caller's cart.
func (s *Server) GetCart(ctx context.Context, _ *cartv1.GetCartRequest) (*cartv1.GetCartResponse, error) {
	c, err := s.priced(ctx, s.carts.Get)
	return &cartv1.GetCartResponse{Cart: c}, err
}

// PutItem sets a quantity.
func (s *Server) PutItem(ctx context.Context, req *cartv1.PutItemRequest) (*cartv1.PutItemResponse, error) {
	c, err := s.priced(ctx, func(ctx context.Context, user string) (domain.Priced, error) {
		return s.carts.Put(ctx, user, domain.Line{ProductID: req.GetProductId(), Quantity: req.GetQuantity()})
	})
	return &cartv1.PutItemResponse{Cart: c}, err
}

// DeleteItem takes a product out.
func (s *Server) DeleteItem(ctx context.Context, req *cartv1.DeleteItemRequest) (*cartv1.DeleteItemResponse, error) {
	c, err := s.priced(ctx, func(ctx context.Context, user string) (domain.Priced, error) {
		return s.carts.Delete(ctx, user, req.GetProductId())
	})
	return &cartv1.DeleteItemResponse{Cart: c}, err
}

// ApplyCoupon sets the coupon.
func (s *Server) ApplyCoupon(ctx context.Context, req *cartv1.ApplyCouponRequest) (*cartv1.ApplyCouponResponse, error) {
	c, err := s.priced(ctx, func(ctx context.Context, user string) (domain.Priced, error) {
		return s.carts.ApplyCoupon(ctx, user, req.GetCode())
	})
	return &cartv1.ApplyCouponResponse{Cart: c}, err
}

// Quote prices lines, or the caller's cart, for an order.
func (s *Server) Quote(ctx context.Context, req *cartv1.QuoteRequest) (*cartv1.QuoteResponse, error) {
	lines := make([]domain.Line, len(req.GetItems()))
	for i, l := range req.GetItems() {
		lines[i] = domain.Line{ProductID: l.GetProductId(), Quantity: l.GetQuantity()}
	}
	c, err := s.priced(ctx, func(ctx context.Context, user string) (domain.Priced, error) {
		return s.carts.Quote(ctx, user, lines)
	})
	if err != nil {
		return nil, err
	}
	return &cartv1.QuoteResponse{Items: c.GetItems(), Subtotal: c.GetSubtotal(), Discount: c.GetDiscount(), Total: c.GetTotal()}, nil
}

func (s *Server) priced(ctx context.Context, do func(ctx context.Context, user string) (domain.Priced, error)) (*cartv1.Cart, error) {
	id, err := user(ctx)
	if err != nil {
		return nil, err
	}
	p, err := do(ctx, id)
	if err != nil {
		return nil, answer(err)
	}
	return message(p), nil
}

// answer makes of the domain's errors what the caller reads.
func answer(err error) error {
	if field, ok := errors.AsType[*domain.FieldError](err); ok {
		return problem.Invalid(problem.Field{Field: field.Field, Message: field.Message}).Because(err)
	}
	for is, p := range map[error]*problem.Problem{
		domain.ErrUnknownProduct: problem.New(http.StatusNotFound, "product_not_found", "there is no such product"),
		domain.ErrFull:           problem.New(http.StatusUnprocessableEntity, "cart_full", "the cart holds as many different products as it can"),
		domain.ErrEmpty:          problem.New(http.StatusUnprocessableEntity, "cart_empty", "there is nothing to order: the cart is empty"),
		domain.ErrUnavailable:    problem.New(http.StatusUnprocessableEntity, "cart_item_unavailable", "something in the cart is no longer sold; take it out and try again"),
		domain.ErrTooMuch:        problem.New(http.StatusUnprocessableEntity, "total_too_high", "the total is higher than one order can be"),
	} {
		if errors.Is(err, is) {
			return p.Because(err)
		}
	}
	return err
}

func money(minor int32) *commonv1.Money {
	return &commonv1.Money{AmountMinor: minor, Currency: domain.Currency}
}

func message(p domain.Priced) *cartv1.Cart {
	out := &cartv1.Cart{Subtotal: money(p.Subtotal), Discount: money(p.Discount), Total: money(p.Total), Coupon: p.Coupon}
	if !p.UpdatedAt.IsZero() {
		out.UpdatedAt = timestamppb.New(p.UpdatedAt)
	}
	for _, l := range p.Lines {
		out.Items = append(out.Items, &cartv1.CartItem{
			ProductId: l.ProductID, Name: l.Name, Quantity: l.Quantity,
			UnitPrice: money(l.UnitPrice), LineTotal: money(l.Total), Available: l.Available,
		})
	}
	return out
}
