// Package transport is order's edge: gRPC calls, and commands, replies and
// events over the broker.
package transport

import (
	"context"
	"database/sql"
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// Topics: Topic is what this service tells, the others are those of the services
// that it commands.
const (
	Topic               = "order"
	paymentCommandTopic = "payment-commands"
	stockCommandTopic   = "inventory-commands"
	paymentEventTopic   = "payment"
	inventoryEventTopic = "inventory"
)

// Topics are all topics that this service writes or reads.
func Topics() []string {
	return []string{Topic, paymentCommandTopic, stockCommandTopic, paymentEventTopic, inventoryEventTopic}
}

// Messages implements domain.Messages in Protobuf. Commands are keyed by the
// order, so that those of one order are handled in turn.
type Messages struct{}

// ReserveStock implements domain.Messages.
func (Messages) ReserveStock(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", stockCommandTopic, c.OrderID, &inventoryv1.ReserveStock{
		OrderId: c.OrderID, Items: lines(c.Items), ExpiresAt: timestamppb.New(c.ReservedUntil),
	})
}

// ReleaseStock implements domain.Messages.
func (Messages) ReleaseStock(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", stockCommandTopic, c.OrderID, &inventoryv1.ReleaseStock{OrderId: c.OrderID})
}

// CommitStock implements domain.Messages.
func (Messages) CommitStock(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", stockCommandTopic, c.OrderID, &inventoryv1.CommitStock{OrderId: c.OrderID})
}

// RestockItems implements domain.Messages.
func (Messages) RestockItems(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", stockCommandTopic, c.OrderID, &inventoryv1.RestockItems{OrderId: c.OrderID})
}

// AuthorizePayment implements domain.Messages.
func (Messages) AuthorizePayment(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", paymentCommandTopic, c.OrderID, &paymentv1.AuthorizePayment{
		OrderId: c.OrderID, UserId: c.UserID, PaymentMethodId: c.MethodID, Amount: money(c.Amount, c.Currency),
	})
}

// VoidPayment implements domain.Messages.
func (Messages) VoidPayment(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", paymentCommandTopic, c.OrderID, &paymentv1.VoidPayment{OrderId: c.OrderID})
}

// CapturePayment implements domain.Messages.
func (Messages) CapturePayment(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", paymentCommandTopic, c.OrderID, &paymentv1.CapturePayment{
		OrderId: c.OrderID, Amount: money(c.Amount, c.Currency),
	})
}

// RefundPayment implements domain.Messages.
func (Messages) RefundPayment(c domain.Checkout) (events.Event, error) {
	return protoevents.New("", paymentCommandTopic, c.OrderID, &paymentv1.RefundPayment{
		OrderId: c.OrderID, Amount: money(c.Amount, c.Currency),
	})
}

// Encode makes the event of what happened to an order, keyed by the order.
func Encode(o domain.Order, what domain.Happening) (events.Event, error) {
	var m proto.Message
	switch what {
	case domain.HappenedCreated:
		m = &orderv1.OrderCreated{
			OrderId: o.ID, UserId: o.UserID, Items: lines(o.Items), Total: money(o.Total, o.Currency), FromCart: o.FromCart,
		}
	case domain.HappenedConfirmed:
		m = &orderv1.OrderConfirmed{OrderId: o.ID, UserId: o.UserID, Total: money(o.Total, o.Currency)}
	case domain.HappenedFailed:
		m = &orderv1.OrderFailed{OrderId: o.ID, UserId: o.UserID, Reason: o.FailureReason}
	case domain.HappenedCancelled:
		m = &orderv1.OrderCancelled{OrderId: o.ID, UserId: o.UserID, Reason: o.FailureReason}
	case domain.HappenedRefunded:
		m = &orderv1.OrderRefunded{OrderId: o.ID, UserId: o.UserID, Total: money(o.Total, o.Currency)}
	default:
		return events.Event{}, fmt.Errorf("order: no encoding for %q", what)
	}
	return protoevents.New("", Topic, o.ID, m)
}

// Replies are what other services answer to commands.
type Replies interface {
	HandleReply(ctx context.Context, tx sqldb.Tx, e events.Event) error
}

// RegisterReplies hands every event that may be a reply to the coordinator.
func RegisterReplies(c *inbox.Consumer[*sql.Tx], r Replies) {
	handle := func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		return r.HandleReply(ctx, sqldb.StdTx(tx), e)
	}
	for topic, messages := range map[string][]proto.Message{
		paymentEventTopic: {
			&paymentv1.PaymentAuthorized{}, &paymentv1.PaymentDeclined{}, &paymentv1.PaymentVoided{},
			&paymentv1.PaymentCaptured{}, &paymentv1.PaymentCaptureRefused{},
			&paymentv1.RefundIssued{}, &paymentv1.RefundRefused{},
		},
		inventoryEventTopic: {
			&inventoryv1.StockReserved{}, &inventoryv1.StockRejected{}, &inventoryv1.StockReleased{},
			&inventoryv1.StockCommitted{}, &inventoryv1.StockRestocked{},
		},
	} {
		for _, m := range messages {
			c.Handle(topic, protoevents.Type(m), handle)
		}
		c.Handle(topic, saga.ReplyType, handle)
	}
}

func lines(items []domain.Item) []*commonv1.Line {
	out := make([]*commonv1.Line, len(items))
	for i, it := range items {
		out[i] = &commonv1.Line{ProductId: it.ProductID, Quantity: it.Quantity}
	}
	return out
}

func money(minor int32, currency string) *commonv1.Money {
	return &commonv1.Money{AmountMinor: minor, Currency: currency}
}

func message(o domain.Order) *orderv1.Order {
	out := &orderv1.Order{
		Id: o.ID, Status: string(o.Status), Total: money(o.Total, o.Currency), Discount: money(o.Discount, o.Currency),
		FailureReason: o.FailureReason, CreatedAt: timestamppb.New(o.CreatedAt), UpdatedAt: timestamppb.New(o.UpdatedAt),
		CancelRequested: o.CancelRequested,
	}
	for _, it := range o.Items {
		out.Items = append(out.Items, &orderv1.OrderItem{
			ProductId: it.ProductID, Name: it.Name, Quantity: it.Quantity, UnitPrice: money(it.UnitPrice, o.Currency),
		})
	}
	return out
}
