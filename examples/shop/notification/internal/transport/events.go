// Package transport is the service at its edges: events in, messages out, gRPC for operators.
package transport

import (
	"context"
	"database/sql"

	"google.golang.org/protobuf/proto"

	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/store"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

// The topics the service listens to.
const (
	OrderTopic = "order"
	UserTopic  = "user"
)

// Subscribe registers a handler for every event that concerns customers.
func Subscribe(c *inbox.Consumer[*sql.Tx], st *store.Store) {
	on(c, UserTopic, func(ctx context.Context, tx *sql.Tx, m *userv1.ProfileChanged) error {
		p := m.GetPreferences()
		return st.PutContact(ctx, tx, domain.Contact{
			UserID: m.GetUserId(), Email: m.GetEmail(), Name: m.GetName(), Phone: m.GetPhone(),
			WantEmail: p.GetEmail(), WantSMS: p.GetSms(), WantPush: p.GetPush(),
		})
	})
	on(c, OrderTopic, func(ctx context.Context, tx *sql.Tx, m *orderv1.OrderConfirmed) error {
		return st.PutOutcome(ctx, tx, domain.Outcome{
			OrderID: m.GetOrderId(), UserID: m.GetUserId(), Kind: domain.Confirmed,
			TotalMinor: int64(m.GetTotal().GetAmountMinor()), Currency: m.GetTotal().GetCurrency(),
		})
	})
	on(c, OrderTopic, func(ctx context.Context, tx *sql.Tx, m *orderv1.OrderFailed) error {
		return st.PutOutcome(ctx, tx, domain.Outcome{OrderID: m.GetOrderId(), UserID: m.GetUserId(), Kind: domain.Failed, Reason: m.GetReason()})
	})
	on(c, OrderTopic, func(ctx context.Context, tx *sql.Tx, m *orderv1.OrderCancelled) error {
		return st.PutOutcome(ctx, tx, domain.Outcome{OrderID: m.GetOrderId(), UserID: m.GetUserId(), Kind: domain.Cancelled, Reason: m.GetReason()})
	})
	on(c, OrderTopic, func(ctx context.Context, tx *sql.Tx, m *orderv1.OrderRefunded) error {
		return st.PutOutcome(ctx, tx, domain.Outcome{
			OrderID: m.GetOrderId(), UserID: m.GetUserId(), Kind: domain.Refunded,
			TotalMinor: int64(m.GetTotal().GetAmountMinor()), Currency: m.GetTotal().GetCurrency(),
		})
	})
}

// on decodes an event by its message's type.
func on[M any, P interface {
	*M
	proto.Message
}](c *inbox.Consumer[*sql.Tx], topic string, handle func(context.Context, *sql.Tx, P) error) {
	c.Handle(topic, protoevents.Type(P(new(M))), func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		m := P(new(M))
		if err := protoevents.Decode(e, m); err != nil {
			return inbox.Permanent(err) // the same bytes will never decode
		}
		return handle(ctx, tx, m)
	})
}
