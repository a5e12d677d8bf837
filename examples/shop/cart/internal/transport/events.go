package transport

import (
	"context"
	"database/sql"
	"time"

	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/cart/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// OrderTopic is what the cart listens to, OrderCreatedType the event on it.
const OrderTopic = "order"

// OrderCreatedType is the event that takes things out of a cart.
var OrderCreatedType = protoevents.Type(&orderv1.OrderCreated{})

// Shelf is where carts are changed by events.
type Shelf interface {
	TakeOut(ctx context.Context, tx sqldb.Execer, user string, bought []domain.Line, now time.Time) error
}

// OrderCreated takes what was ordered out of the cart that it was ordered from: one
// transaction with the inbox's mark, so a redelivery takes nothing out twice.
func OrderCreated(shelf Shelf, now func() time.Time) inbox.Handler[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		var order orderv1.OrderCreated
		if err := protoevents.Decode(e, &order); err != nil {
			return inbox.Permanent(err) // the same bytes will never decode
		}
		if !order.GetFromCart() {
			return nil
		}
		bought := make([]domain.Line, len(order.GetItems()))
		for i, l := range order.GetItems() {
			bought[i] = domain.Line{ProductID: l.GetProductId(), Quantity: l.GetQuantity()}
		}
		return shelf.TakeOut(ctx, tx, order.GetUserId(), bought, now())
	}
}
