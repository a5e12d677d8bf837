package payment_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/saga"
)

// Order's commands, one after the other, against the service and a provider.
func TestContractWithOrder(t *testing.T) {
	contracttest.Need(t)
	broker := memevents.New(nil)
	sim, err := provider.New(t.Context(), provider.Config{DB: servicetest.DB(t, "provider"), Key: "sk_test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sim.Handler())
	t.Cleanup(func() { sim.Close(); server.Close() })
	d := &desk{t: t, world: servicetest.New(t), db: servicetest.DB(t, "payment")}
	d.world.Start(t, payment.Name, nil, payment.Policy, func(ctx context.Context, svc *kit.Service) error {
		return payment.New(ctx, svc, payment.Config{
			DB: d.db, Broker: broker, ProviderURL: server.URL, ProviderKey: "sk_test", ProviderTimeout: 2 * time.Second,
			VaultKey: make([]byte, payment.VaultKeySize),
		})
	})
	d.cards = paymentv1.NewPaymentServiceClient(d.world.Conn(t, "gateway", payment.Name))
	card := d.card("4242424242424242")
	amount := match.Object{"amount_minor": match.Integer(2580), "currency": match.Regex("EUR", "[A-Z]{3}")}

	consumer := contracttest.Consumer{Name: payment.Name, Provider: "order", Dir: "../contracts/pacts"}
	command := func(name, order string, phase saga.Phase, step string, m proto.Message, data match.Object, answer string) {
		t.Helper()
		data["order_id"] = match.Like(order)
		consumer.Event(t, contracttest.Event{
			Name: name, Topic: "payment-commands", Data: data, Schema: protoevents.Type(m),
			Attributes: map[string]any{
				"partitionkey": match.Like(order), saga.ExtID: match.Like(order), saga.ExtPhase: string(phase),
				saga.ExtStep: match.Regex("checkout/"+order+"/"+step, ".+/.+/"+step),
			},
		}, func(ctx context.Context, msg contracttest.Message) error {
			e, err := msg.Event()
			if err != nil {
				return err
			}
			if a, ok := m.(*paymentv1.AuthorizePayment); ok {
				if err := protoevents.Decode(e, a); err != nil {
					return err
				}
				a.PaymentMethodId = card // which one is ours to know
				if e.Data, err = proto.Marshal(a); err != nil {
					return err
				}
			}
			if err := servicetest.Tell(ctx, broker, e); err != nil {
				return err
			}
			return servicetest.Await(ctx, fmt.Sprintf("%s is answered by %s", name, answer), func() bool {
				for _, r := range broker.Events("payment") {
					if r.Type == answer && r.Key == e.Key && r.Extension(saga.ExtOutcome) == saga.OutcomeOKValue {
						return true
					}
				}
				return false
			})
		})
	}
	authorize := func(order string) {
		t.Helper()
		command("authorize the payment of an order", order, saga.PhaseDo, "authorize-payment", &paymentv1.AuthorizePayment{}, match.Object{
			"user_id": match.Like("ann"), "payment_method_id": match.Like("pm_1"), "amount": amount,
		}, authorized)
	}
	authorize("ord_1")
	command("capture the payment of an order", "ord_1", saga.PhaseDo, "capture-payment", &paymentv1.CapturePayment{}, match.Object{"amount": amount}, captured)
	command("refund the payment of an order", "ord_1", saga.PhaseDo, "refund-payment", &paymentv1.RefundPayment{}, match.Object{"amount": amount}, refunded)
	command("void the payment of an order", "ord_2", saga.PhaseUndo, "authorize-payment", &paymentv1.VoidPayment{}, match.Object{}, saga.ReplyType)
}
