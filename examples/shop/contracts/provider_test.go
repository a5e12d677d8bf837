package contracts_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/pact"
	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/saga"
)

// patience bounds each state, request and event. It is for a loaded machine: what
// does not come at all is told apart from what is slow.
const patience = 30 * time.Second

// provider is one service as the other side of its contracts.
func (s *store) provider(name string) contracttest.Provider {
	p := contracttest.Provider{
		Name: name, Pacts: pact.Dir("pacts"), States: s.states(name), Events: s.events(name), Timeout: patience,
		Filter: func(r *http.Request, i contracttest.Interaction) error {
			s.mu.Lock()
			s.consumer = i.Consumer
			s.mu.Unlock()
			if r.Header.Get("Authorization") != "" {
				r.Header.Set("Authorization", "Bearer "+s.token())
			}
			return nil
		},
	}
	if name == "gateway" {
		p.URL = s.public
	} else {
		p.GRPC = caller{s, name}
	}
	return p
}

// states bring about what contracts are given, by the services' own APIs. Whoever
// calls is somebody new in every exchange, so that none finds what another left.
func (s *store) states(provider string) map[string]contracttest.StateFunc {
	return map[string]contracttest.StateFunc{
		"a customer": func(_ context.Context, st *contracttest.State) error {
			s.signIn(s.named(st.String("id")), "shop")
			st.Set("key", correlation.NewID())
			return nil
		},
		"an operator": func(_ context.Context, st *contracttest.State) error {
			s.signIn("op", "shop:admin")
			st.Set("name", s.named("A jug")) // of something new
			return nil
		},
		"a product on sale": func(ctx context.Context, st *contracttest.State) error {
			return s.onSale(ctx, st.String("id"), 100_000)
		},
		"stock": func(ctx context.Context, st *contracttest.State) error {
			return s.onSale(ctx, st.String("product"), 100_000)
		},
		"an empty cart": func(context.Context, *contracttest.State) error { return nil },
		"a cart": func(ctx context.Context, st *contracttest.State) error {
			_, err := s.carts.PutItem(s.as(ctx, s.who()), &cartv1.PutItemRequest{ProductId: st.String("product"), Quantity: int32(st.Int("quantity"))}) //nolint:gosec // a few
			return err
		},
		"a card": func(ctx context.Context, st *contracttest.State) error {
			id, err := s.card(ctx, s.who(), st.String("number"))
			st.Set("card", id)
			return err
		},
		"an order": func(ctx context.Context, st *contracttest.State) error {
			id, err := s.buy(ctx, s.who(), "4242424242424242", mugs)
			st.Set("order", id)
			return err
		},
		"an order that failed": func(ctx context.Context, st *contracttest.State) error {
			id, err := s.buy(ctx, s.who(), "4000000000000002", mugs)
			if err != nil {
				return err
			}
			st.Set("order", id)
			return s.ends(ctx, s.who(), id, "failed")
		},
		"a customer's order": func(ctx context.Context, st *contracttest.State) error {
			customer := s.named("ann")
			id, err := s.buy(ctx, customer, "4242424242424242", mugs)
			if err != nil {
				return err
			}
			st.Set("order", id)
			return s.ends(ctx, customer, id, "confirmed")
		},
		"an e-mail address without an account": func(_ context.Context, st *contracttest.State) error {
			st.Set("email", s.named("ann")+"@example.com")
			return nil
		},
		"a profile": func(ctx context.Context, _ *contracttest.State) error { return s.profile(ctx, s.who()) },
		"a customer who was told": func(ctx context.Context, _ *contracttest.State) error {
			notifications := notificationv1.NewNotificationServiceClient(s.callers["notification"]["gateway"])
			told := func() bool {
				list, err := notifications.ListNotifications(s.operator(ctx), &notificationv1.ListNotificationsRequest{})
				return err == nil && len(list.GetNotifications()) > 0
			}
			if told() {
				return nil
			}
			customer := s.named("ann")
			if err := s.profile(ctx, customer); err != nil {
				return err
			}
			if _, err := s.buy(ctx, customer, "4242424242424242", mugs); err != nil {
				return err
			}
			return servicetest.Await(ctx, "a customer is told", told)
		},
		"an event that was given up": func(ctx context.Context, st *contracttest.State) error { return s.givenUp(ctx, provider, st) },
	}
}

// profile gives a user a profile: auth tells of an account.
func (s *store) profile(ctx context.Context, user string) error {
	e, err := protoevents.New("", "auth", user, &authv1.UserRegistered{UserId: user, Email: user + "@example.com", Name: "Ann"})
	if err != nil {
		return err
	}
	e.Source = "auth"
	if err := servicetest.Tell(ctx, s.broker, e); err != nil {
		return err
	}
	users := userv1.NewUserServiceClient(s.callers["user"]["gateway"])
	return servicetest.Await(ctx, user+" has a profile", func() bool {
		_, err := users.GetMe(s.as(ctx, user), &userv1.GetMeRequest{})
		return err == nil
	})
}

// hears is an event that a service handles, by service.
var hears = map[string]struct {
	topic string
	m     proto.Message
}{
	"cart": {"order", &orderv1.OrderCreated{}}, "catalog": {"stock", &inventoryv1.StockLevelChanged{}}, "inventory": {"catalog", &catalogv1.ProductCreated{}},
	"notification": {"order", &orderv1.OrderConfirmed{}}, "order": {"payment", &paymentv1.PaymentVoided{}}, "payment": {"payment-commands", &paymentv1.VoidPayment{}},
	"user": {"auth", &authv1.UserRegistered{}},
}

// givenUp has a service give up an event that it cannot read.
func (s *store) givenUp(ctx context.Context, service string, st *contracttest.State) error {
	h, key := hears[service], s.named("spoilt-"+service)
	e, err := protoevents.New("", h.topic, key, h.m)
	if err != nil {
		return err
	}
	e.Source = "elsewhere"
	if err := servicetest.Tell(ctx, s.broker, e); err != nil {
		return err
	}
	letters := deadletterv1.NewDeadLetterServiceClient(s.callers[service]["gateway"])
	return servicetest.Await(ctx, service+" has given up "+key, func() bool {
		list, err := letters.ListDeadLetters(s.operator(ctx), &deadletterv1.ListDeadLettersRequest{})
		if err != nil {
			return false
		}
		for _, l := range list.GetDeadLetters() {
			if l.GetKey() == key {
				st.Set("letter", fmt.Sprint(l.GetId()))
				return true
			}
		}
		return false
	})
}

// scenario brings something about and names the event that tells of it.
type scenario struct {
	provider string
	topic    string
	m        proto.Message
	run      func(ctx context.Context) (key string, err error)
}

// scenarios are the events of all services, by the name that contracts give them.
func (s *store) scenarios() map[string]scenario {
	order := func(number string, lines ...*commonv1.Line) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) { return s.buy(ctx, s.named("ann"), number, lines...) }
	}
	good, declined, poor := order("4242424242424242", mugs), order("4000000000000002", mugs), order("4000000000009995", mugs)
	refund := func(ctx context.Context) (string, error) {
		customer := s.named("ann")
		id, err := s.buy(ctx, customer, "4242424242424242", mugs)
		if err != nil {
			return id, err
		}
		if err := s.ends(ctx, customer, id, "confirmed"); err != nil {
			return id, err
		}
		_, err = s.orders.CancelOrder(s.as(ctx, customer), &orderv1.CancelOrderRequest{Id: id})
		return id, err
	}
	soldOut := func(ctx context.Context) (string, error) {
		if err := s.onSale(ctx, "unicorn", 1); err != nil {
			return "", err
		}
		return s.buy(ctx, s.named("ann"), "4242424242424242", &commonv1.Line{ProductId: "unicorn", Quantity: 2})
	}
	fromCart := func(ctx context.Context) (string, error) {
		customer := s.named("ann")
		if err := s.onSale(ctx, "mug", 100_000); err != nil {
			return "", err
		}
		if _, err := s.carts.PutItem(s.as(ctx, customer), &cartv1.PutItemRequest{ProductId: "mug", Quantity: 2}); err != nil {
			return "", err
		}
		return s.buy(ctx, customer, "4242424242424242")
	}
	cancelled := func(ctx context.Context) (string, error) {
		s.silent.Store(true) // the customer is faster than the bank
		defer s.silent.Store(false)
		customer := s.named("ann")
		id, err := s.buy(ctx, customer, "4242424242424242", mugs)
		if err != nil {
			return id, err
		}
		_, err = s.orders.CancelOrder(s.as(ctx, customer), &orderv1.CancelOrderRequest{Id: id})
		return id, err
	}
	unpaid := func(ctx context.Context) (string, error) { // a capture of what nobody has authorized
		id := s.named("ord")
		e, err := protoevents.New("", "payment-commands", id, &paymentv1.CapturePayment{OrderId: id, Amount: &commonv1.Money{AmountMinor: 1290, Currency: "EUR"}})
		if err != nil {
			return id, err
		}
		e.Source = "order"
		e.Extensions = map[string]string{saga.ExtID: id, saga.ExtStep: "checkout/" + id + "/capture-payment", saga.ExtPhase: string(saga.PhaseDo)}
		return id, servicetest.Tell(ctx, s.broker, e)
	}
	product := func(ctx context.Context) (string, error) {
		id := s.named("jug")
		return id, s.onSale(ctx, id, 9)
	}
	account := func(ctx context.Context) (string, error) {
		resp, err := s.auth.Register(ctx, &authv1.RegisterRequest{Email: s.named("ann") + "@example.com", Password: "correct horse", Name: "Ann"})
		return resp.GetUser().GetId(), err
	}
	return map[string]scenario{
		"an order was made of the cart":     {"order", "order", &orderv1.OrderCreated{}, fromCart},
		"an order was confirmed":            {"order", "order", &orderv1.OrderConfirmed{}, good},
		"an order failed":                   {"order", "order", &orderv1.OrderFailed{}, declined},
		"an order was cancelled":            {"order", "order", &orderv1.OrderCancelled{}, cancelled},
		"an order was refunded":             {"order", "order", &orderv1.OrderRefunded{}, refund},
		"authorize the payment of an order": {"order", "payment-commands", &paymentv1.AuthorizePayment{}, good},
		"capture the payment of an order":   {"order", "payment-commands", &paymentv1.CapturePayment{}, good},
		"refund the payment of an order":    {"order", "payment-commands", &paymentv1.RefundPayment{}, refund},
		"void the payment of an order":      {"order", "payment-commands", &paymentv1.VoidPayment{}, soldOut},
		"reserve the stock of an order":     {"order", "inventory-commands", &inventoryv1.ReserveStock{}, good},
		"commit the stock of an order":      {"order", "inventory-commands", &inventoryv1.CommitStock{}, good},
		"release the stock of an order":     {"order", "inventory-commands", &inventoryv1.ReleaseStock{}, declined},
		"take the goods of an order back":   {"order", "inventory-commands", &inventoryv1.RestockItems{}, refund},

		"a payment was authorized":                 {"payment", "payment", &paymentv1.PaymentAuthorized{}, good},
		"a payment was declined by the bank":       {"payment", "payment", &paymentv1.PaymentDeclined{}, declined},
		"a payment was declined for want of funds": {"payment", "payment", &paymentv1.PaymentDeclined{}, poor},
		"a payment was voided":                     {"payment", "payment", &paymentv1.PaymentVoided{}, soldOut},
		"a payment was captured":                   {"payment", "payment", &paymentv1.PaymentCaptured{}, good},
		"a capture was refused":                    {"payment", "payment", &paymentv1.PaymentCaptureRefused{}, unpaid},
		"a refund was issued":                      {"payment", "payment", &paymentv1.RefundIssued{}, refund},

		"stock was reserved":          {"inventory", "inventory", &inventoryv1.StockReserved{}, good},
		"stock could not be reserved": {"inventory", "inventory", &inventoryv1.StockRejected{}, soldOut},
		"a reservation was released":  {"inventory", "inventory", &inventoryv1.StockReleased{}, declined},
		"stock was committed":         {"inventory", "inventory", &inventoryv1.StockCommitted{}, good},
		"goods were restocked":        {"inventory", "inventory", &inventoryv1.StockRestocked{}, refund},
		"a product came into stock":   {"inventory", "stock", &inventoryv1.StockLevelChanged{}, product},

		"a product was put on sale": {"catalog", "catalog", &catalogv1.ProductCreated{}, product},
		"an account was registered": {"auth", "auth", &authv1.UserRegistered{}, account},
		"a profile changed":         {"user", "user", &userv1.ProfileChanged{}, account},
	}
}

// events are those of one provider. What a scenario left behind serves every
// verification: a mutation changes it at the provider's edge.
func (s *store) events(provider string) map[string]contracttest.EventFunc {
	out := map[string]contracttest.EventFunc{}
	for name, sc := range s.scenarios() {
		if sc.provider != provider {
			continue
		}
		out[name] = func(ctx context.Context, _ contracttest.Interaction) (contracttest.Message, error) {
			e, ok := s.samples[name]
			if !ok {
				var err error
				if e, err = s.sample(ctx, name, sc); err != nil {
					return contracttest.Message{}, err
				}
				s.samples[name] = e
			}
			return contracttest.Of(e), nil
		}
	}
	return out
}

// sample runs a scenario and waits for its event. Steps that run side by side may
// settle in an order that leaves the event out (what was not reserved yet is not
// released): then it is run again.
func (s *store) sample(ctx context.Context, name string, sc scenario) (e events.Event, err error) {
	for range 3 {
		key, err := sc.run(ctx)
		if err != nil {
			return e, fmt.Errorf("%s: %w", name, err)
		}
		soon, cancel := context.WithTimeout(ctx, patience/3)
		err = servicetest.Await(soon, name, func() bool {
			for _, have := range s.broker.Events(sc.topic) {
				if have.Key == key && have.Type == protoevents.Type(sc.m) {
					e = have
					return true
				}
			}
			return false
		})
		cancel()
		if err == nil {
			return e, nil
		}
	}
	return e, fmt.Errorf("%s: no %s on the topic %s", name, strings.TrimPrefix(protoevents.Type(sc.m), "shop."), sc.topic)
}
