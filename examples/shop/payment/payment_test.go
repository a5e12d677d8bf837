package payment_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// desk is the service on a real broker, before a provider that is asked over
// HTTP.
type desk struct {
	*servicetest.Commander
	t     *testing.T
	world *servicetest.World
	db    *sqldb.DB
	cards paymentv1.PaymentServiceClient
}

func open(t *testing.T, sim provider.Config, hooks payment.Hooks) *desk {
	t.Helper()
	broker, err := natsevents.Connect(t.Context(), natstest.Start(t).Conn(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	sim.DB, sim.Key, sim.Logger = servicetest.DB(t, "provider"), "sk_test", slog.New(slog.DiscardHandler)
	p, err := provider.New(t.Context(), sim)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(p.Handler())
	t.Cleanup(func() { p.Close(); server.Close() })
	d := &desk{t: t, world: servicetest.New(t), db: servicetest.DB(t, "payment")}
	d.world.Start(t, payment.Name, nil, payment.Policy, func(ctx context.Context, svc *kit.Service) error {
		return payment.New(ctx, svc, payment.Config{
			DB: d.db, Broker: broker, ProviderURL: server.URL, ProviderKey: "sk_test",
			ProviderTimeout: 300 * time.Millisecond, VaultKey: make([]byte, payment.VaultKeySize), Hooks: hooks,
		})
	})
	d.Commander = servicetest.NewCommander(t, broker, "payment-commands", "payment")
	d.cards = paymentv1.NewPaymentServiceClient(d.world.Conn(t, "gateway", payment.Name))
	return d
}

func (d *desk) card(number string) string {
	d.t.Helper()
	resp, err := d.cards.CreatePaymentMethod(d.world.As(d.t.Context(), d.t, "ann", "shop"), &paymentv1.CreatePaymentMethodRequest{
		CardNumber: number, ExpMonth: 12, ExpYear: int32(time.Now().Year() + 2), Cvc: "123",
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return resp.GetPaymentMethod().GetId()
}

func (d *desk) answered(s servicetest.Step, n int, wantType, wantOutcome, wantReason string) {
	d.t.Helper()
	typ, outcome, reason := d.Await(s, n)
	if typ != wantType || outcome != wantOutcome || reason != wantReason {
		d.t.Errorf("%s answered %s %s %q, want %s %s %q", s.Name, typ, outcome, reason, wantType, wantOutcome, wantReason)
	}
}

func (d *desk) facts(order string) payment.OrderFacts {
	d.t.Helper()
	f, err := payment.Audit(d.t.Context(), d.db)
	if err != nil {
		d.t.Fatal(err)
	}
	return f.Orders[order]
}

var (
	authorized = protoevents.Type(&paymentv1.PaymentAuthorized{})
	declined   = protoevents.Type(&paymentv1.PaymentDeclined{})
	captured   = protoevents.Type(&paymentv1.PaymentCaptured{})
	noCapture  = protoevents.Type(&paymentv1.PaymentCaptureRefused{})
	voided     = protoevents.Type(&paymentv1.PaymentVoided{})
	refunded   = protoevents.Type(&paymentv1.RefundIssued{})
)

func do(order, step string) servicetest.Step {
	return servicetest.Step{Order: order, Name: step, Phase: saga.PhaseDo}
}

func undo(order, step string) servicetest.Step {
	return servicetest.Step{Order: order, Name: step, Phase: saga.PhaseUndo}
}

func eur(minor int32) *commonv1.Money {
	return &commonv1.Money{AmountMinor: minor, Currency: "EUR"}
}

func authorize(order, card string) *paymentv1.AuthorizePayment {
	return &paymentv1.AuthorizePayment{OrderId: order, UserId: "ann", PaymentMethodId: card, Amount: eur(1999)}
}

func TestCommandsAreAnsweredOnce(t *testing.T) {
	var calls atomic.Int64
	d := open(t, provider.Config{Fault: func(provider.Kind, string) provider.Fault { calls.Add(1); return provider.NoFault }}, payment.Hooks{})
	hold := do("o1", "authorize-payment")
	d.Send(do("o1", "capture-payment-early"), &paymentv1.CapturePayment{OrderId: "o1", Amount: eur(1999)})
	d.answered(do("o1", "capture-payment-early"), 1, noCapture, "refused", "not_authorized")
	card := d.card("4242424242424242")
	d.Send(hold, authorize("o1", card))
	d.answered(hold, 1, authorized, "ok", "")
	d.Send(hold, authorize("o1", card)) // the stored answer, no second call
	d.answered(hold, 2, authorized, "ok", "")
	take := do("o1", "capture-payment")
	d.Send(take, &paymentv1.CapturePayment{OrderId: "o1", Amount: eur(1999)})
	d.Send(take, &paymentv1.CapturePayment{OrderId: "o1", Amount: eur(1999)}) // perhaps while the first is under way
	d.answered(take, 1, captured, "ok", "")
	back := do("o1", "refund-payment")
	d.Send(back, &paymentv1.RefundPayment{OrderId: "o1", Amount: eur(1999)})
	d.answered(back, 1, refunded, "ok", "")
	if n := calls.Load(); n != 3 {
		t.Errorf("the provider was called %d times, want 3", n)
	}
	if f := d.facts("o1"); f.Authorised != 1999 || f.Captured != 1999 || f.Refunded != 1999 || f.OpenIntents != 0 {
		t.Errorf("%+v", f)
	}
	d.Send(do("o2", "authorize-payment"), authorize("o2", "pm_of_nobody"))
	d.answered(do("o2", "authorize-payment"), 1, declined, "refused", "unknown_payment_method")
	d.Send(do("o3", "authorize-payment"), authorize("o3", d.card("4000000000009995")))
	d.answered(do("o3", "authorize-payment"), 1, declined, "refused", "insufficient_funds")
}

func TestUndo(t *testing.T) {
	var lose atomic.Bool
	called := make(chan struct{}, 16)
	d := open(t, provider.Config{Fault: func(kind provider.Kind, _ string) provider.Fault {
		if kind == provider.Authorize && lose.Load() {
			return provider.LoseAnswer
		}
		return provider.NoFault
	}}, payment.Hooks{Point: func(_ context.Context, name string) {
		if name == "payment.authorize.called" {
			called <- struct{}{}
		}
	}})
	card := d.card("4242424242424242")

	// Before its Do: there is nothing to undo, and never will be.
	d.Send(undo("o1", "authorize-payment"), &paymentv1.VoidPayment{OrderId: "o1"})
	d.answered(undo("o1", "authorize-payment"), 1, saga.ReplyType, "ok", "")
	d.Send(do("o1", "authorize-payment"), authorize("o1", card))
	if _, outcome, _ := d.Await(do("o1", "authorize-payment"), 1); outcome != "refused" {
		t.Errorf("a Do after its Undo was answered %s", outcome)
	}

	// Of a hold that is known.
	d.Send(do("o2", "authorize-payment"), authorize("o2", card))
	d.answered(do("o2", "authorize-payment"), 1, authorized, "ok", "")
	<-called
	d.Send(undo("o2", "authorize-payment"), &paymentv1.VoidPayment{OrderId: "o2"})
	d.answered(undo("o2", "authorize-payment"), 1, voided, "ok", "")

	// Of one whose answer never came: the reply waits until it is known to be gone.
	lose.Store(true)
	d.Send(do("o3", "authorize-payment"), authorize("o3", card))
	<-called
	d.Send(undo("o3", "authorize-payment"), &paymentv1.VoidPayment{OrderId: "o3"})
	if _, outcome, _ := d.Await(undo("o3", "authorize-payment"), 1); outcome != "ok" {
		t.Errorf("the undo was answered %s", outcome)
	}
	for _, order := range []string{"o1", "o2", "o3"} {
		if f := d.facts(order); f.Authorised != f.Voided || f.Captured != 0 || f.OpenIntents != 0 {
			t.Errorf("%s: %+v", order, f)
		}
	}
}

func TestCards(t *testing.T) {
	d := open(t, provider.Config{}, payment.Hooks{})
	ann := d.world.As(t.Context(), t, "ann", "shop")
	good := func() *paymentv1.CreatePaymentMethodRequest {
		return &paymentv1.CreatePaymentMethodRequest{CardNumber: "4242424242424242", ExpMonth: 12, ExpYear: int32(time.Now().Year() + 2), Cvc: "123"}
	}
	for field, spoil := range map[string]func(*paymentv1.CreatePaymentMethodRequest){
		"card_number": func(r *paymentv1.CreatePaymentMethodRequest) { r.CardNumber = "4242424242424241" },
		"exp_month":   func(r *paymentv1.CreatePaymentMethodRequest) { r.ExpMonth = 13 },
		"exp_year":    func(r *paymentv1.CreatePaymentMethodRequest) { r.ExpYear = 2020 },
		"cvc":         func(r *paymentv1.CreatePaymentMethodRequest) { r.Cvc = "12" },
	} {
		rq := good()
		spoil(rq)
		_, err := d.cards.CreatePaymentMethod(ann, rq)
		if p := grpcproblem.Of(err); len(p.Fields) != 1 || p.Fields[0].Field != field {
			t.Errorf("a bad %s: %v, fields %v", field, err, p.Fields)
		}
	}
	made, err := d.cards.CreatePaymentMethod(ann, good())
	if err != nil || made.GetPaymentMethod().GetBrand() != "visa" || made.GetPaymentMethod().GetLast4() != "4242" {
		t.Fatalf("%v %v", made, err)
	}
	list, err := d.cards.ListPaymentMethods(ann, &paymentv1.ListPaymentMethodsRequest{})
	if err != nil || len(list.GetPaymentMethods()) != 1 {
		t.Errorf("%v %v", list, err)
	}
	get := &paymentv1.GetPaymentMethodRequest{Id: made.GetPaymentMethod().GetId()}
	asOrder := paymentv1.NewPaymentServiceClient(d.world.Conn(t, "order", payment.Name))
	if _, err := asOrder.GetPaymentMethod(ann, get); err != nil {
		t.Errorf("order on ann's behalf: %v", err)
	}
	if _, err := asOrder.GetPaymentMethod(d.world.As(t.Context(), t, "bob", "shop"), get); status.Code(err) != codes.NotFound {
		t.Errorf("order on bob's behalf: %v", err)
	}
	if _, err := d.cards.GetPaymentMethod(ann, get); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the gateway, which has no business with it: %v", err)
	}
}
