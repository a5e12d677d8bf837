package transport

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/store"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/idempotency/grpcidempotency"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// defaultPage is the page size where the caller names none.
const defaultPage = 20

// Server is the gRPC service for customers. Every method is the signed-in
// customer's: the policy lets nobody else through. All fields are required.
type Server struct {
	orderv1.UnimplementedOrderServiceServer

	DB        *sqldb.DB
	Orders    *store.Store
	Keys      idempotency.TxStore
	Cart      cartv1.CartServiceClient
	Payment   paymentv1.PaymentServiceClient
	Sagas     domain.Sagas
	Checkouts *saga.Handle[domain.Checkout]
	Changes   *Changes
	Intake    *Intake
	// WatchEvery is how often a watched order is read again, for changes that
	// other replicas made.
	WatchEvery time.Duration
}

// CreateOrder makes an order. What it needs of other services it asks first;
// then the order, its key, its saga and the event that tells of it commit
// together, or none of them does.
func (s *Server) CreateOrder(ctx context.Context, req *orderv1.CreateOrderRequest) (*orderv1.CreateOrderResponse, error) {
	key, err := idempotency.Request(ctx)
	if err != nil {
		return nil, err
	}
	// A key that was used answers at once: the cart behind it is empty by now.
	stored, err := s.Keys.Peek(ctx, s.DB, key)
	if err != nil {
		return nil, err
	}
	if stored != nil {
		if err := grpcidempotency.SetReplayed(ctx); err != nil {
			return nil, err
		}
		return grpcidempotency.Replay[*orderv1.CreateOrderResponse](stored)
	}
	if err := s.Intake.Admit(); err != nil {
		return nil, err
	}
	o, err := s.price(ctx, req)
	if err != nil {
		return nil, err
	}
	return grpcidempotency.Do(ctx, s.Keys, sqldb.Std(s.DB), func(ctx context.Context, std *sql.Tx) (*orderv1.CreateOrderResponse, error) {
		tx := sqldb.StdTx(std)
		if err := s.Checkouts.Start(ctx, tx, domain.CheckoutID(o.ID), domain.NewCheckout(o, s.Sagas.Deadline)); err != nil {
			return nil, err
		}
		if err := s.Orders.In(tx).Insert(ctx, o); err != nil {
			return nil, err
		}
		return &orderv1.CreateOrderResponse{Order: message(o)}, nil
	})
}

// price makes the order out of what the cart and payment services say: nothing
// that costs or belongs to somebody is taken from the request.
func (s *Server) price(ctx context.Context, req *orderv1.CreateOrderRequest) (domain.Order, error) {
	p, _ := authn.PrincipalFrom(ctx)
	quote, err := s.Cart.Quote(ctx, &cartv1.QuoteRequest{Items: req.GetItems()})
	if err != nil {
		return domain.Order{}, peerError(err)
	}
	now := time.Now().Truncate(time.Microsecond).UTC()
	o := domain.Order{
		ID: "ord_" + strings.ToLower(rand.Text()), UserID: p.Subject, MethodID: req.GetPaymentMethodId(),
		Status: domain.Pending, Total: quote.GetTotal().GetAmountMinor(), Discount: quote.GetDiscount().GetAmountMinor(),
		Currency: quote.GetTotal().GetCurrency(), FromCart: len(req.GetItems()) == 0,
		Revision: 1, CreatedAt: now, UpdatedAt: now,
	}
	for _, it := range quote.GetItems() {
		if !it.GetAvailable() {
			if o.FromCart {
				continue // it left the catalogue, and counts nothing
			}
			return domain.Order{}, problem.Invalid(problem.Field{
				Field: "items", Message: "the product " + it.GetProductId() + " is not on sale", Rule: "on_sale",
			})
		}
		o.Items = append(o.Items, domain.Item{
			ProductID: it.GetProductId(), Name: it.GetName(), Quantity: it.GetQuantity(), UnitPrice: it.GetUnitPrice().GetAmountMinor(),
		})
	}
	if len(o.Items) == 0 || o.Total <= 0 {
		return domain.Order{}, problem.New(http.StatusUnprocessableEntity, "nothing_to_order", "there is nothing to order: the cart is empty")
	}
	if _, err := s.Payment.GetPaymentMethod(ctx, &paymentv1.GetPaymentMethodRequest{Id: req.GetPaymentMethodId()}); err != nil {
		if isNotFound(err) {
			return domain.Order{}, problem.Invalid(problem.Field{
				Field: "payment_method_id", Message: "there is no such payment method", Rule: "exists",
			}).Because(err)
		}
		return domain.Order{}, peerError(err)
	}
	return o, nil
}

// GetOrder returns one of the customer's orders.
func (s *Server) GetOrder(ctx context.Context, req *orderv1.GetOrderRequest) (*orderv1.GetOrderResponse, error) {
	o, err := s.own(ctx, req.GetId())
	if err != nil {
		return nil, answer(err)
	}
	return &orderv1.GetOrderResponse{Order: message(o)}, nil
}

// own reads an order that has to be the caller's.
func (s *Server) own(ctx context.Context, id string) (domain.Order, error) {
	p, _ := authn.PrincipalFrom(ctx)
	o, err := s.Orders.Get(ctx, id)
	if err == nil && o.UserID != p.Subject {
		return domain.Order{}, domain.ErrNotFound
	}
	return o, err
}

// ListOrders lists the customer's orders, the newest first.
func (s *Server) ListOrders(ctx context.Context, req *orderv1.ListOrdersRequest) (*orderv1.ListOrdersResponse, error) {
	p, _ := authn.PrincipalFrom(ctx)
	orders, next, err := page(ctx, s.Orders, store.Filter{UserID: p.Subject}, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	out := &orderv1.ListOrdersResponse{NextPageToken: next}
	for _, o := range orders {
		out.Orders = append(out.Orders, message(o))
	}
	return out, nil
}

// CancelOrder takes an order back.
func (s *Server) CancelOrder(ctx context.Context, req *orderv1.CancelOrderRequest) (*orderv1.CancelOrderResponse, error) {
	p, _ := authn.PrincipalFrom(ctx)
	reason := req.GetReason()
	if reason == "" {
		reason = "cancelled_by_customer"
	}
	var o domain.Order
	err := sqldb.InTx(ctx, s.DB, func(ctx context.Context, tx *sql.Tx) (err error) {
		o, err = s.Sagas.CancelOrder(ctx, sqldb.StdTx(tx), s.Checkouts, p.Subject, req.GetId(), reason)
		return err
	})
	if err != nil {
		return nil, answer(err)
	}
	return &orderv1.CancelOrderResponse{Order: message(o)}, nil
}

// answer makes of the domain's errors what the caller reads. Any other error
// stays as it is, and becomes "internal" with its text kept to the logs.
func answer(err error) error {
	switch {
	case errors.Is(err, domain.ErrNotFound), errors.Is(err, saga.ErrNotFound):
		return problem.New(http.StatusNotFound, "order_not_found", "there is no such order").Because(err)
	case errors.Is(err, domain.ErrNotCancellable):
		return problem.New(http.StatusConflict, "order_not_cancellable", "the order failed; there is nothing to cancel").Because(err)
	}
	return err
}
