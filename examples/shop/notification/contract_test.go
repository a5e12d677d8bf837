package notification_test

import (
	"bytes"
	"context"
	"net"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/notification"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A profile says whom to write to; how an order ended is what is written.
func TestContracts(t *testing.T) {
	contracttest.Need(t)
	world, broker, db := servicetest.New(t), memevents.New(nil), servicetest.DB(t, "notification")
	mail, err := sink.New(t.Context(), servicetest.DB(t, "sink"), nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	smtp, done := mail.SMTP(), make(chan struct{})
	go func() { defer close(done); _ = smtp.Serve(l) }()
	t.Cleanup(func() { _ = smtp.Close(); <-done })
	world.Start(t, notification.Name, nil, notification.Policy, func(ctx context.Context, svc *kit.Service) error {
		return notification.New(ctx, svc, notification.Config{DB: db, Broker: broker, Key: bytes.Repeat([]byte{7}, 32), SMTPAddr: l.Addr().String()})
	})
	client := notificationv1.NewNotificationServiceClient(world.Conn(t, "gateway", notification.Name))
	operator := world.As(t.Context(), t, "op", "shop:admin")
	tell := func(ctx context.Context, msg contracttest.Message) error {
		e, err := msg.Event()
		if err != nil {
			return err
		}
		return servicetest.Tell(ctx, broker, e)
	}

	contracttest.Consumer{Name: notification.Name, Provider: "user", Dir: "../contracts/pacts"}.Event(t, contracttest.Event{
		Name: "a profile changed", Topic: "user", Attributes: map[string]any{"partitionkey": match.Like("usr_1")},
		Data: &userv1.ProfileChanged{
			UserId: "usr_1", Email: "ann@example.com", Name: "Ann", Phone: "+4930123456",
			Preferences: &userv1.Preferences{Email: true, Sms: true, Push: true},
		},
	}, tell) // whom the order's outcome below is told

	orders := contracttest.Consumer{Name: notification.Name, Provider: "order", Dir: "../contracts/pacts"}
	for _, c := range []struct {
		name, order, kind string
		m                 proto.Message
	}{
		{"an order was confirmed", "ord_1", "order-confirmed", &orderv1.OrderConfirmed{OrderId: "ord_1", UserId: "usr_1", Total: &commonv1.Money{AmountMinor: 2580, Currency: "EUR"}}},
		{"an order failed", "ord_2", "order-failed", &orderv1.OrderFailed{OrderId: "ord_2", UserId: "usr_1", Reason: "card_declined"}},
		{"an order was cancelled", "ord_3", "order-cancelled", &orderv1.OrderCancelled{OrderId: "ord_3", UserId: "usr_1", Reason: "cancelled_by_customer"}},
		{"an order was refunded", "ord_4", "order-refunded", &orderv1.OrderRefunded{OrderId: "ord_4", UserId: "usr_1", Total: &commonv1.Money{AmountMinor: 2580, Currency: "EUR"}}},
	} {
		orders.Event(t, contracttest.Event{
			Name: c.name, Topic: "order", Attributes: map[string]any{"partitionkey": match.Like(c.order)}, Data: c.m,
		}, func(ctx context.Context, msg contracttest.Message) error {
			if err := tell(ctx, msg); err != nil {
				return err
			}
			return servicetest.Await(ctx, "the customer is told", func() bool {
				list, err := client.ListNotifications(operator, &notificationv1.ListNotificationsRequest{OrderId: c.order})
				return err == nil && len(list.GetNotifications()) > 0 && list.GetNotifications()[0].GetKind() == c.kind
			})
		})
	}
}
