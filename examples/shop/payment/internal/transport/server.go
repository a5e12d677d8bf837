package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/authn"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Server is the gRPC service. Every method is the signed-in customer's: the
// policy lets nobody else through.
type Server struct {
	paymentv1.UnimplementedPaymentServiceServer
	vault *store.Vault
}

// NewServer returns the gRPC service over v.
func NewServer(v *store.Vault) *Server { return &Server{vault: v} }

// CreatePaymentMethod takes a card and gives a token for it. The CVC is checked
// for its form and dropped.
func (s *Server) CreatePaymentMethod(ctx context.Context, req *paymentv1.CreatePaymentMethodRequest) (*paymentv1.CreatePaymentMethodResponse, error) {
	number, now := req.GetCardNumber(), time.Now()
	if !domain.ValidNumber(number) {
		return nil, problem.Invalid(problem.Field{Field: "card_number", Message: "is not a card number", Rule: "luhn"})
	}
	p, _ := authn.PrincipalFrom(ctx)
	m := domain.Method{
		ID: "pm_" + strings.ToLower(rand.Text()), UserID: p.Subject,
		Brand: domain.Brand(number), Last4: number[len(number)-4:],
		ExpMonth: int(req.GetExpMonth()), ExpYear: int(req.GetExpYear()), CreatedAt: now,
	}
	if m.Expired(now) {
		return nil, problem.Invalid(problem.Field{Field: "exp_year", Message: "the card has expired", Rule: "not_expired"})
	}
	if err := s.vault.Add(ctx, m, number); err != nil {
		return nil, err
	}
	return &paymentv1.CreatePaymentMethodResponse{PaymentMethod: message(m)}, nil
}

// ListPaymentMethods lists the customer's methods.
func (s *Server) ListPaymentMethods(ctx context.Context, _ *paymentv1.ListPaymentMethodsRequest) (*paymentv1.ListPaymentMethodsResponse, error) {
	p, _ := authn.PrincipalFrom(ctx)
	methods, err := s.vault.List(ctx, p.Subject)
	if err != nil {
		return nil, err
	}
	out := &paymentv1.ListPaymentMethodsResponse{}
	for _, m := range methods {
		out.PaymentMethods = append(out.PaymentMethods, message(m))
	}
	return out, nil
}

// GetPaymentMethod returns one of the customer's methods.
func (s *Server) GetPaymentMethod(ctx context.Context, req *paymentv1.GetPaymentMethodRequest) (*paymentv1.GetPaymentMethodResponse, error) {
	p, _ := authn.PrincipalFrom(ctx)
	m, err := s.vault.Get(ctx, p.Subject, req.GetId())
	if errors.Is(err, domain.ErrNoMethod) {
		return nil, problem.New(http.StatusNotFound, "payment_method_not_found", "there is no such payment method").Because(err)
	}
	if err != nil {
		return nil, err
	}
	return &paymentv1.GetPaymentMethodResponse{PaymentMethod: message(m)}, nil
}

func message(m domain.Method) *paymentv1.PaymentMethod {
	return &paymentv1.PaymentMethod{Id: m.ID, Brand: m.Brand, Last4: m.Last4}
}
