package web_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/napkin-kit/napkin/authn"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/kit/problem"
)

// backend is the services behind the pages, for one customer, in memory.
type backend struct {
	catalogv1.UnimplementedCatalogServiceServer
	cartv1.UnimplementedCartServiceServer
	orderv1.UnimplementedOrderServiceServer
	orderv1.UnimplementedOrderAdminServiceServer
	paymentv1.UnimplementedPaymentServiceServer
	userv1.UnimplementedUserServiceServer
	inventoryv1.UnimplementedInventoryServiceServer
	notificationv1.UnimplementedNotificationServiceServer
	deadletterv1.UnimplementedDeadLetterServiceServer

	mu       sync.Mutex
	down     error // of the catalogue and of new orders
	cart     map[string]int32
	coupon   string
	methods  []*paymentv1.PaymentMethod
	orders   map[string]*orderv1.Order
	keys     map[string]string // idempotency key → order
	owner    map[string]string
	profile  *userv1.Profile
	stock    int32
	adjusted int
	resolved []*orderv1.ResolveSagaRequest
	letters  []*deadletterv1.DeadLetter
	acts     []string // on letters: what, id and reason
	confirm  gate     // lets orders go through
}

func newBackend() *backend {
	return &backend{
		cart: map[string]int32{}, orders: map[string]*orderv1.Order{}, keys: map[string]string{}, owner: map[string]string{},
		stock: 7, confirm: gate{c: make(chan struct{})},
	}
}

func euros(minor int32) *commonv1.Money { return &commonv1.Money{AmountMinor: minor, Currency: "EUR"} }

var lamp = &catalogv1.Product{
	Id: "lamp", Name: `Lamp <"small">`, Description: "It shines.", Category: "Lighting", Price: euros(1999), InStock: true, ImageUrl: "/images/lamp.svg",
}

func notFound(what string) error {
	return problem.New(http.StatusNotFound, what+"_not_found", "there is no such "+what)
}

func caller(ctx context.Context) string {
	p, _ := authn.PrincipalFrom(ctx)
	return p.Subject
}

func (b *backend) ListProducts(_ context.Context, req *catalogv1.ListProductsRequest) (*catalogv1.ListProductsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return nil, b.down
	}
	if req.GetQ() == "nothing" {
		return &catalogv1.ListProductsResponse{}, nil
	}
	return &catalogv1.ListProductsResponse{Products: []*catalogv1.Product{lamp}, Total: 1, NextPageToken: "next/page", Facets: []*catalogv1.Facet{
		{Field: "category", Values: []*catalogv1.FacetValue{{Value: "Coffee & Tea", Count: 3}, {Value: "Lighting", Count: 1}}},
		{Field: "price", Values: []*catalogv1.FacetValue{{Value: "1500-3000", Count: 1}, {Value: "12000-", Count: 1}}},
	}}, nil
}

func (b *backend) GetProduct(_ context.Context, req *catalogv1.GetProductRequest) (*catalogv1.GetProductResponse, error) {
	if req.GetId() != "lamp" {
		return nil, notFound("product")
	}
	return &catalogv1.GetProductResponse{Product: lamp}, nil
}

func (b *backend) BatchGetProducts(context.Context, *catalogv1.BatchGetProductsRequest) (*catalogv1.BatchGetProductsResponse, error) {
	return &catalogv1.BatchGetProductsResponse{Products: []*catalogv1.Product{lamp}}, nil
}

// priced needs the lock.
func (b *backend) priced() *cartv1.Cart {
	c := &cartv1.Cart{Subtotal: euros(0), Discount: euros(0), Total: euros(0), Coupon: b.coupon}
	for id, n := range b.cart {
		c.Items = append(c.Items, &cartv1.CartItem{ProductId: id, Name: lamp.GetName(), Quantity: n, UnitPrice: euros(1999), LineTotal: euros(1999 * n), Available: true})
		c.Subtotal.AmountMinor += 1999 * n
	}
	if b.coupon != "" {
		c.Discount.AmountMinor = c.GetSubtotal().GetAmountMinor() / 10
	}
	c.Total.AmountMinor = c.GetSubtotal().GetAmountMinor() - c.GetDiscount().GetAmountMinor()
	return c
}

func (b *backend) GetCart(ctx context.Context, _ *cartv1.GetCartRequest) (*cartv1.GetCartResponse, error) {
	if caller(ctx) == "" {
		return nil, authn.ErrTokenMissing
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return &cartv1.GetCartResponse{Cart: b.priced()}, nil
}

func (b *backend) PutItem(_ context.Context, req *cartv1.PutItemRequest) (*cartv1.PutItemResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if req.GetProductId() != "lamp" {
		return nil, notFound("product")
	}
	b.cart[req.GetProductId()] = req.GetQuantity()
	return &cartv1.PutItemResponse{Cart: b.priced()}, nil
}

func (b *backend) DeleteItem(_ context.Context, req *cartv1.DeleteItemRequest) (*cartv1.DeleteItemResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.cart, req.GetProductId())
	return &cartv1.DeleteItemResponse{Cart: b.priced()}, nil
}

func (b *backend) ApplyCoupon(_ context.Context, req *cartv1.ApplyCouponRequest) (*cartv1.ApplyCouponResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if req.GetCode() != "" && req.GetCode() != "NAPKIN10" {
		return nil, problem.Invalid(problem.Field{Field: "code", Message: "is not a coupon of ours"})
	}
	b.coupon = req.GetCode()
	return &cartv1.ApplyCouponResponse{Cart: b.priced()}, nil
}

func (b *backend) ListPaymentMethods(context.Context, *paymentv1.ListPaymentMethodsRequest) (*paymentv1.ListPaymentMethodsResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &paymentv1.ListPaymentMethodsResponse{PaymentMethods: b.methods}, nil
}

func (b *backend) CreatePaymentMethod(_ context.Context, req *paymentv1.CreatePaymentMethodRequest) (*paymentv1.CreatePaymentMethodResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := req.GetCardNumber()
	b.methods = append(b.methods, &paymentv1.PaymentMethod{Id: id("pm", len(b.methods)), Brand: "visa", Last4: n[len(n)-4:]})
	return &paymentv1.CreatePaymentMethodResponse{PaymentMethod: b.methods[len(b.methods)-1]}, nil
}

func (b *backend) CreateOrder(ctx context.Context, req *orderv1.CreateOrderRequest) (*orderv1.CreateOrderResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return nil, b.down
	}
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md["idempotency-key"]) != 1 {
		return nil, problem.New(http.StatusBadRequest, "idempotency_key_missing", "send a key")
	}
	key := md["idempotency-key"][0]
	if known, ok := b.keys[key]; ok {
		return &orderv1.CreateOrderResponse{Order: b.orders[known]}, nil
	}
	if len(b.cart) == 0 || req.GetPaymentMethodId() == "" {
		return nil, problem.New(http.StatusUnprocessableEntity, "nothing_to_order", "there is nothing to order: the cart is empty")
	}
	o := &orderv1.Order{
		Id: id("ord", len(b.orders)), Status: "pending", Total: b.priced().GetTotal(), Discount: b.priced().GetDiscount(),
		CreatedAt: timestamppb.Now(), UpdatedAt: timestamppb.Now(), Items: []*orderv1.OrderItem{{ProductId: "lamp", Name: lamp.GetName(), Quantity: b.cart["lamp"], UnitPrice: euros(1999)}},
	}
	b.orders[o.GetId()], b.keys[key], b.owner[o.GetId()] = o, o.GetId(), caller(ctx)
	clear(b.cart)
	return &orderv1.CreateOrderResponse{Order: o}, nil
}

// order is a copy of the caller's order, nil where there is none.
func (b *backend) order(ctx context.Context, id string) *orderv1.Order {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.owner[id] != caller(ctx) {
		return nil
	}
	return proto.CloneOf(b.orders[id])
}

func (b *backend) setStatus(id, status string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders[id].Status = status
}

func (b *backend) GetOrder(ctx context.Context, req *orderv1.GetOrderRequest) (*orderv1.GetOrderResponse, error) {
	o := b.order(ctx, req.GetId())
	if o == nil {
		return nil, notFound("order")
	}
	return &orderv1.GetOrderResponse{Order: o}, nil
}

func (b *backend) ListOrders(ctx context.Context, _ *orderv1.ListOrdersRequest) (*orderv1.ListOrdersResponse, error) {
	out := &orderv1.ListOrdersResponse{}
	for n := range 100 {
		if o := b.order(ctx, id("ord", n)); o != nil {
			out.Orders = append(out.Orders, o)
		}
	}
	return out, nil
}

// CancelOrder refunds, in its own time.
func (b *backend) CancelOrder(ctx context.Context, req *orderv1.CancelOrderRequest) (*orderv1.CancelOrderResponse, error) {
	o := b.order(ctx, req.GetId())
	switch {
	case o == nil:
		return nil, notFound("order")
	case o.GetStatus() == "failed":
		return nil, problem.New(http.StatusConflict, "order_not_cancellable", "the order failed; there is nothing to cancel")
	}
	return &orderv1.CancelOrderResponse{Order: o}, nil
}

// WatchOrder sends the order, and again once it is confirmed; that is its end, as the real one's.
func (b *backend) WatchOrder(req *orderv1.WatchOrderRequest, stream grpc.ServerStreamingServer[orderv1.WatchOrderResponse]) error {
	o := b.order(stream.Context(), req.GetId())
	if o == nil {
		return notFound("order")
	}
	if err := stream.Send(&orderv1.WatchOrderResponse{Order: o}); err != nil || o.GetStatus() != "pending" {
		return err
	}
	select {
	case <-b.confirm.c:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	b.setStatus(req.GetId(), "confirmed")
	return stream.Send(&orderv1.WatchOrderResponse{Order: b.order(stream.Context(), req.GetId())})
}

func (b *backend) GetMe(context.Context, *userv1.GetMeRequest) (*userv1.GetMeResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.profile == nil {
		return nil, notFound("profile")
	}
	return &userv1.GetMeResponse{Profile: proto.CloneOf(b.profile)}, nil
}

func (b *backend) UpdateMe(_ context.Context, req *userv1.UpdateMeRequest) (*userv1.UpdateMeResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.profile.Name, b.profile.Phone, b.profile.Address = req.GetName(), req.GetPhone(), req.GetAddress()
	return &userv1.UpdateMeResponse{Profile: b.profile}, nil
}

func (b *backend) GetPreferences(context.Context, *userv1.GetPreferencesRequest) (*userv1.GetPreferencesResponse, error) {
	return &userv1.GetPreferencesResponse{Preferences: &userv1.Preferences{Email: true}}, nil
}

func (b *backend) AdminListOrders(_ context.Context, req *orderv1.AdminListOrdersRequest) (*orderv1.AdminListOrdersResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := &orderv1.AdminListOrdersResponse{Counts: map[string]int32{}}
	for id, o := range b.orders {
		out.Counts[o.GetStatus()]++
		if req.GetStatus() == "" || req.GetStatus() == o.GetStatus() {
			out.Orders = append(out.Orders, &orderv1.AdminOrder{Order: proto.CloneOf(o), UserId: b.owner[id], SagaState: "running", SagaStep: "authorize-payment"})
		}
	}
	return out, nil
}

func (b *backend) GetTimeline(_ context.Context, req *orderv1.GetTimelineRequest) (*orderv1.GetTimelineResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	o := b.orders[req.GetOrderId()]
	if o == nil {
		return nil, notFound("order")
	}
	refund := o.GetId() + ".refund"
	return &orderv1.GetTimelineResponse{
		Order:   &orderv1.AdminOrder{Order: proto.CloneOf(o), UserId: b.owner[o.GetId()], SagaState: "stuck", SagaStep: "refund-payment"},
		TraceId: "4bf92f3577b34da6a3ce929d0e0e4736", CorrelationId: "corr-1",
		Entries: []*orderv1.TimelineEntry{
			{At: timestamppb.Now(), SagaId: o.GetId(), What: "stuck", Step: "capture-payment"},
			{At: timestamppb.Now(), SagaId: o.GetId(), What: "retried", Step: "capture-payment"},
			{At: timestamppb.Now(), SagaId: o.GetId(), What: "completed"},
			{At: timestamppb.Now(), SagaId: refund, What: "stuck", Step: "refund-payment", Attempt: 3, Detail: "the provider says no"},
		},
	}, nil
}

func (b *backend) ResolveSaga(_ context.Context, req *orderv1.ResolveSagaRequest) (*orderv1.ResolveSagaResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.resolved = append(b.resolved, req)
	return &orderv1.ResolveSagaResponse{}, nil
}

func (b *backend) ListStock(context.Context, *inventoryv1.ListStockRequest) (*inventoryv1.ListStockResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &inventoryv1.ListStockResponse{Stock: []*inventoryv1.Stock{{ProductId: "lamp", OnHand: b.stock, Available: b.stock}}}, nil
}

func (b *backend) AdjustStock(_ context.Context, req *inventoryv1.AdjustStockRequest) (*inventoryv1.AdjustStockResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stock+req.GetDelta() < 0 {
		return nil, problem.New(http.StatusConflict, "stock_promised", "that would take away stock that is promised to orders")
	}
	b.stock += req.GetDelta()
	b.adjusted++
	return &inventoryv1.AdjustStockResponse{}, nil
}

func (b *backend) ListNotifications(_ context.Context, req *notificationv1.ListNotificationsRequest) (*notificationv1.ListNotificationsResponse, error) {
	return &notificationv1.ListNotificationsResponse{Notifications: []*notificationv1.Notification{
		{Id: "ntf_1", OrderId: req.GetOrderId(), Channel: "email", Kind: "order-confirmed", Status: "sent", Subject: "Your order is confirmed", CreatedAt: timestamppb.Now()},
	}}, nil
}

func (b *backend) ListDeadLetters(context.Context, *deadletterv1.ListDeadLettersRequest) (*deadletterv1.ListDeadLettersResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return &deadletterv1.ListDeadLettersResponse{DeadLetters: b.letters, Total: int32(len(b.letters))}, nil
}

func (b *backend) actOnLetter(what string, id int64, reason string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, l := range b.letters {
		if l.GetId() == id && l.GetState() == "dead" {
			b.letters = slices.Delete(slices.Clone(b.letters), i, i+1)
			b.acts = append(b.acts, fmt.Sprintf("%s %d: %s", what, id, reason))
			return nil
		}
	}
	return problem.New(http.StatusConflict, "not_dead", "The event is no longer there to act on.")
}

func (b *backend) RedriveDeadLetter(_ context.Context, req *deadletterv1.RedriveDeadLetterRequest) (*deadletterv1.RedriveDeadLetterResponse, error) {
	return &deadletterv1.RedriveDeadLetterResponse{}, b.actOnLetter("redrive", req.GetId(), req.GetReason())
}

func (b *backend) DropDeadLetter(_ context.Context, req *deadletterv1.DropDeadLetterRequest) (*deadletterv1.DropDeadLetterResponse, error) {
	return &deadletterv1.DropDeadLetterResponse{}, b.actOnLetter("drop", req.GetId(), req.GetReason())
}
