package order_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/saga"
)

// pacts is where the shop keeps its contracts.
const pacts = "../contracts/pacts"

// contractor is the service alone, before services that do as their contracts say.
type contractor struct {
	*servicetest.World
	t      *testing.T
	broker *memevents.Broker
	peers  *servicetest.StandIn
	orders orderv1.OrderServiceClient
}

var (
	mugs  = []*commonv1.Line{{ProductId: "mug", Quantity: 2}}
	quote = &cartv1.QuoteResponse{
		Items:    []*cartv1.CartItem{{ProductId: "mug", Name: "A mug", Quantity: 2, UnitPrice: eur(1290), LineTotal: eur(2580), Available: true}},
		Subtotal: eur(2580), Discount: eur(0), Total: eur(2580),
	}
	card = &paymentv1.GetPaymentMethodResponse{PaymentMethod: &paymentv1.PaymentMethod{Id: "pm_1", Brand: "visa", Last4: "4242"}}
)

func contracting(t *testing.T) *contractor {
	t.Helper()
	contracttest.Need(t)
	c := &contractor{World: servicetest.New(t), t: t, broker: memevents.New(nil)}
	c.peers = c.StandIn(t, "cart", "payment")
	c.peers.Answer(cartv1.CartService_Quote_FullMethodName, quote)
	c.peers.Answer(paymentv1.PaymentService_GetPaymentMethod_FullMethodName, card)
	db := servicetest.DB(t, "order")
	c.Start(t, order.Name, order.Idempotency(), order.Policy, func(ctx context.Context, svc *kit.Service) error {
		return order.New(ctx, svc, order.Config{DB: db, Broker: c.broker})
	})
	c.orders = orderv1.NewOrderServiceClient(c.Conn(t, "gateway", order.Name))
	return c
}

// buy places Ann's order with a payment method; no lines means the cart.
func (c *contractor) buy(ctx context.Context, method string, lines ...*commonv1.Line) (*orderv1.Order, error) {
	resp, err := c.orders.CreateOrder(servicetest.WithKey(c.As(ctx, c.t, "ann", "shop"), correlation.NewID()),
		&orderv1.CreateOrderRequest{PaymentMethodId: method, Items: lines})
	return resp.GetOrder(), err
}

var onBehalfOfAnn = map[string]any{"authorization": match.Bearer()}

func TestContractWithCart(t *testing.T) {
	c := contracting(t)
	c.peers.Answer(cartv1.CartService_Quote_FullMethodName, nil)
	consumer := contracttest.Consumer{Name: order.Name, Provider: "cart", Dir: pacts}
	total := match.Object{"amount_minor": match.Integer(2580), "currency": match.Regex("EUR", "[A-Z]{3}")}
	item := match.Object{
		"product_id": match.Like("mug"), "name": match.Like("A mug"), "quantity": match.Integer(2), "available": true,
		"unit_price": match.Object{"amount_minor": match.Integer(1290), "currency": match.Regex("EUR", "[A-Z]{3}")},
	}
	customer := contracttest.Given("a customer", contracttest.Params{"id": "ann"})
	onSale := customer.And("a product on sale", contracttest.Params{"id": "mug"})
	taken := func(lines ...*commonv1.Line) func(context.Context, *grpc.ClientConn) error {
		return func(ctx context.Context, conn *grpc.ClientConn) error {
			defer c.peers.Contract(conn)()
			o, err := c.buy(ctx, "pm_1", lines...)
			if err != nil {
				return err
			}
			if o.GetTotal().GetAmountMinor() != 2580 || o.GetTotal().GetCurrency() != "EUR" || o.GetItems()[0].GetUnitPrice().GetAmountMinor() != 1290 {
				return fmt.Errorf("the order is %v", o)
			}
			return nil
		}
	}
	refused := func(want codes.Code, lines ...*commonv1.Line) func(context.Context, *grpc.ClientConn) error {
		return func(ctx context.Context, conn *grpc.ClientConn) error {
			defer c.peers.Contract(conn)()
			if _, err := c.buy(ctx, "pm_1", lines...); status.Code(err) != want {
				return fmt.Errorf("got %w, want %v", err, want)
			}
			return nil
		}
	}
	consumer.GRPC(t, contracttest.GRPC{
		Name: "pricing named products", Given: onSale, Method: cartv1.CartService_Quote_FullMethodName, Metadata: onBehalfOfAnn,
		Request: &cartv1.QuoteRequest{Items: mugs}, Response: match.Object{"items": match.Array{item}, "discount": match.Object{"amount_minor": match.Integer(0)}, "total": total},
	}, taken(mugs...))
	consumer.GRPC(t, contracttest.GRPC{
		Name: "pricing the cart", Given: onSale.And("a cart", contracttest.Params{"product": "mug", "quantity": 2}),
		Method: cartv1.CartService_Quote_FullMethodName, Metadata: onBehalfOfAnn,
		Request: &cartv1.QuoteRequest{}, Response: match.Object{"items": match.EachLike(item), "total": total},
	}, taken())
	// order passes these on to its customers, by their codes.
	consumer.GRPC(t, contracttest.GRPC{
		Name: "pricing a product that is not there", Given: customer, Method: cartv1.CartService_Quote_FullMethodName, Metadata: onBehalfOfAnn,
		Request: &cartv1.QuoteRequest{Items: []*commonv1.Line{{ProductId: "ghost", Quantity: 1}}},
		Refusal: refusal(codes.InvalidArgument, 400, "invalid_argument", "items[0].product_id"),
	}, refused(codes.InvalidArgument, &commonv1.Line{ProductId: "ghost", Quantity: 1}))
	consumer.GRPC(t, contracttest.GRPC{
		Name: "pricing an empty cart", Given: customer.And("an empty cart"), Method: cartv1.CartService_Quote_FullMethodName, Metadata: onBehalfOfAnn,
		Request: &cartv1.QuoteRequest{}, Refusal: refusal(codes.FailedPrecondition, 422, "cart_empty"),
	}, refused(codes.FailedPrecondition))
}

func TestContractWithPayment(t *testing.T) {
	c := contracting(t)
	c.peers.Answer(paymentv1.PaymentService_GetPaymentMethod_FullMethodName, nil)
	consumer := contracttest.Consumer{Name: order.Name, Provider: "payment", Dir: pacts}
	customer := contracttest.Given("a customer", contracttest.Params{"id": "ann"})
	consumer.GRPC(t, contracttest.GRPC{
		Name: "looking for a customer's payment method", Given: customer.And("a card", contracttest.Params{"number": "4242424242424242"}),
		Method: paymentv1.PaymentService_GetPaymentMethod_FullMethodName, Metadata: onBehalfOfAnn,
		Request: match.Object{"id": match.FromState("${card}", "pm_1")}, Response: match.Object{"payment_method": match.Object{"id": match.Like("pm_1")}},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		defer c.peers.Contract(conn)()
		_, err := c.buy(ctx, "pm_1", mugs...)
		return err
	})
	consumer.GRPC(t, contracttest.GRPC{
		Name: "looking for a payment method that is not the customer's", Given: customer, Metadata: onBehalfOfAnn,
		Method: paymentv1.PaymentService_GetPaymentMethod_FullMethodName, Request: &paymentv1.GetPaymentMethodRequest{Id: "pm_bobs"},
		Refusal: refusal(codes.NotFound, 404, "payment_method_not_found"),
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		defer c.peers.Contract(conn)()
		if _, err := c.buy(ctx, "pm_bobs", mugs...); status.Code(err) != codes.InvalidArgument { // the customer's mistake
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	c.peers.Answer(paymentv1.PaymentService_GetPaymentMethod_FullMethodName, card)
	reply(c, consumer, "payment", "a payment was authorized", &paymentv1.PaymentAuthorized{OrderId: "ord_1"}, "", script{}, "confirmed")
	reply(c, consumer, "payment", "a payment was declined by the bank", &paymentv1.PaymentDeclined{OrderId: "ord_1"}, "card_declined", script{}, "failed")
	reply(c, consumer, "payment", "a payment was declined for want of funds", &paymentv1.PaymentDeclined{OrderId: "ord_1"}, "insufficient_funds", script{}, "failed")
	reply(c, consumer, "payment", "a payment was voided", &paymentv1.PaymentVoided{OrderId: "ord_1"}, "", script{refuse: &inventoryv1.ReserveStock{}}, "failed")
	reply(c, consumer, "payment", "a payment was captured", &paymentv1.PaymentCaptured{OrderId: "ord_1"}, "", script{}, "confirmed")
	reply(c, consumer, "payment", "a capture was refused", &paymentv1.PaymentCaptureRefused{OrderId: "ord_1"}, "not_authorized", script{}, "failed")
	reply(c, consumer, "payment", "a refund was issued", &paymentv1.RefundIssued{OrderId: "ord_1"}, "", script{cancel: true}, "refunded")
}

func TestContractWithInventory(t *testing.T) {
	c := contracting(t)
	consumer := contracttest.Consumer{Name: order.Name, Provider: "inventory", Dir: pacts}
	reply(c, consumer, "inventory", "stock was reserved", &inventoryv1.StockReserved{OrderId: "ord_1"}, "", script{}, "confirmed")
	reply(c, consumer, "inventory", "stock could not be reserved", &inventoryv1.StockRejected{OrderId: "ord_1"}, "out_of_stock", script{}, "failed")
	reply(c, consumer, "inventory", "a reservation was released", &inventoryv1.StockReleased{OrderId: "ord_1"}, "", script{refuse: &paymentv1.AuthorizePayment{}}, "failed")
	reply(c, consumer, "inventory", "stock was committed", &inventoryv1.StockCommitted{OrderId: "ord_1"}, "", script{}, "confirmed")
	reply(c, consumer, "inventory", "goods were restocked", &inventoryv1.StockRestocked{OrderId: "ord_1"}, "", script{cancel: true}, "refunded")
}

// refusal is a problem of the shop's, as it travels over gRPC.
func refusal(code codes.Code, status int, reason string, fields ...string) *contracttest.Refusal {
	details := []proto.Message{&errdetails.ErrorInfo{
		Reason: strings.ToUpper(reason), Domain: grpcproblem.Domain, Metadata: map[string]string{"http_status": fmt.Sprint(status)},
	}}
	for _, f := range fields {
		details = append(details, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: f, Description: "is wrong"}}})
	}
	return &contracttest.Refusal{Code: code, Details: details}
}

// commandOf are the commands that a reply answers.
var commandOf = map[string]string{
	protoevents.Type(&paymentv1.PaymentAuthorized{}):     protoevents.Type(&paymentv1.AuthorizePayment{}),
	protoevents.Type(&paymentv1.PaymentDeclined{}):       protoevents.Type(&paymentv1.AuthorizePayment{}),
	protoevents.Type(&paymentv1.PaymentVoided{}):         protoevents.Type(&paymentv1.VoidPayment{}),
	protoevents.Type(&paymentv1.PaymentCaptured{}):       protoevents.Type(&paymentv1.CapturePayment{}),
	protoevents.Type(&paymentv1.PaymentCaptureRefused{}): protoevents.Type(&paymentv1.CapturePayment{}),
	protoevents.Type(&paymentv1.RefundIssued{}):          protoevents.Type(&paymentv1.RefundPayment{}),
	protoevents.Type(&inventoryv1.StockReserved{}):       protoevents.Type(&inventoryv1.ReserveStock{}),
	protoevents.Type(&inventoryv1.StockRejected{}):       protoevents.Type(&inventoryv1.ReserveStock{}),
	protoevents.Type(&inventoryv1.StockReleased{}):       protoevents.Type(&inventoryv1.ReleaseStock{}),
	protoevents.Type(&inventoryv1.StockCommitted{}):      protoevents.Type(&inventoryv1.CommitStock{}),
	protoevents.Type(&inventoryv1.StockRestocked{}):      protoevents.Type(&inventoryv1.RestockItems{}),
}

// script is how a saga comes to the command whose reply is under contract.
type script struct {
	refuse proto.Message // the command that is refused before
	cancel bool          // the customer cancels the order once it is confirmed
}

// reply is the contract of one reply. The service takes an order, every command of
// its sagas is answered by a plain reply, and the one in question by the contract's:
// the order ends as that says.
func reply(c *contractor, consumer contracttest.Consumer, topic, name string, m proto.Message, reason string, s script, want string) {
	c.t.Helper()
	outcome, phase := saga.OutcomeOKValue, match.Regex(string(saga.PhaseDo), string(saga.PhaseDo))
	switch m.(type) {
	case *paymentv1.PaymentVoided, *inventoryv1.StockReleased:
		phase = match.Regex(string(saga.PhaseUndo), string(saga.PhaseUndo))
	case *inventoryv1.StockRestocked: // a step of a refund, or the undo of one of a checkout
		phase = match.Enum(string(saga.PhaseDo), string(saga.PhaseUndo))
	}
	attributes := map[string]any{
		"partitionkey": match.Like("ord_1"), saga.ExtID: match.Like("ord_1"), saga.ExtStep: match.Regex("checkout/ord_1/step", ".+/.+/.+"), saga.ExtPhase: phase,
	}
	if reason != "" {
		outcome = saga.OutcomeRefusedValue
		attributes[saga.ExtReason] = reason // customers read it
	}
	attributes[saga.ExtOutcome] = outcome
	consumer.Event(c.t, contracttest.Event{Name: name, Topic: topic, Attributes: attributes, Data: m}, func(ctx context.Context, msg contracttest.Message) error {
		e, err := msg.Event()
		if err != nil {
			return err
		}
		o, err := c.buy(ctx, "pm_1", mugs...)
		if err != nil {
			return err
		}
		ann := c.As(ctx, c.t, "ann", "shop")
		answered, cancelled, used := map[string]bool{}, false, false
		var now *orderv1.Order
		err = servicetest.Await(ctx, "the order is "+want, func() bool {
			for _, cmd := range append(c.broker.Events("payment-commands"), c.broker.Events("inventory-commands")...) {
				if cmd.Key != o.GetId() || answered[cmd.ID] {
					continue
				}
				answered[cmd.ID] = true
				r := plain(cmd, s.refuse != nil && cmd.Type == protoevents.Type(s.refuse))
				if cmd.Type == commandOf[e.Type] {
					r, used = answering(e, cmd), true
				}
				if err = servicetest.Tell(ctx, c.broker, r); err != nil {
					return true
				}
			}
			var resp *orderv1.GetOrderResponse
			if resp, err = c.orders.GetOrder(ann, &orderv1.GetOrderRequest{Id: o.GetId()}); err != nil {
				return true
			}
			now = resp.GetOrder()
			if s.cancel && !cancelled && now.GetStatus() == "confirmed" {
				cancelled = true
				if _, err = c.orders.CancelOrder(ann, &orderv1.CancelOrderRequest{Id: o.GetId()}); err != nil {
					return true
				}
			}
			return now.GetStatus() == want && used
		})
		if err == nil && reason != "" && now.GetFailureReason() != reason {
			err = fmt.Errorf("the order failed for the reason %q, not %q", now.GetFailureReason(), reason)
		}
		return err
	})
}

// answering is e as the answer to cmd: its partner echoes what names the step.
func answering(e, cmd events.Event) events.Event {
	e.Key = cmd.Key
	for _, name := range []string{saga.ExtID, saga.ExtStep, saga.ExtPhase} {
		e = e.WithExtension(name, cmd.Extension(name))
	}
	return e
}

// plain is a reply that says nothing but the outcome.
func plain(cmd events.Event, refused bool) events.Event {
	e := events.Event{Topic: "inventory", Type: saga.ReplyType, Source: "inventory", Extensions: map[string]string{saga.ExtOutcome: saga.OutcomeOKValue}}
	if refused {
		e.Extensions[saga.ExtOutcome], e.Extensions[saga.ExtReason] = saga.OutcomeRefusedValue, "refused"
	}
	return answering(e, cmd)
}
