package check

import (
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/examples/shop/notification"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
)

// sound are the facts of a store with an order in each of its last states.
func sound() Facts {
	f := Facts{
		Order: order.Facts{Orders: []order.OrderFacts{
			{ID: "o1", Status: "confirmed", TotalMinor: 1000},
			{ID: "o2", Status: "failed", TotalMinor: 2000},
			{ID: "o3", Status: "cancelled", TotalMinor: 3000},
			{ID: "o4", Status: "refunded", TotalMinor: 4000},
		}},
		Payment: payment.Facts{Orders: map[string]payment.OrderFacts{
			"o1": {Authorised: 1000, Captured: 1000},
			"o3": {Authorised: 3000, Voided: 3000},
			"o4": {Authorised: 4000, Captured: 4000, Refunded: 4000},
		}},
		Inventory: inventory.Facts{
			Products: map[string]inventory.ProductFacts{
				"p": {OnHand: 8, Committed: 2, Received: 9, Restocked: 1, LedgerAgrees: true},
			},
			Reservations: map[string]string{"o1": "committed", "o2": "released", "o4": "restocked"},
		},
		Provider: []provider.Account{
			{Reference: "o1", Authorized: 1000, Captured: 1000, Authorizations: 1},
			{Reference: "o3", Authorized: 3000, Voided: 3000, Authorizations: 1},
			{Reference: "o4", Authorized: 4000, Captured: 4000, Refunded: 4000, Authorizations: 1},
		},
		Sent: []Sent{
			{ID: "e1", Type: "shop.order.v1.OrderCreated", Topic: "order", Key: "o1", KeySeq: 1},
			{ID: "e2", Type: "shop.order.v1.OrderConfirmed", Topic: "order", Key: "o1", KeySeq: 2},
			{ID: "e3", Type: "shop.payment.v1.PaymentAuthorized", Topic: "payment", Key: "o1", KeySeq: 1},
			{ID: "e4", Type: "shop.payment.v1.PaymentCaptured", Topic: "payment", Key: "o1", KeySeq: 2},
		},
		Handled: map[string]map[string]int64{"cart": {"e1": 10}, "notification": {"e2": 20}, "order": {"e3": 12, "e4": 15}},
	}
	for _, n := range []notification.Told{
		{ID: "n1", OrderID: "o1", Kind: "order-confirmed"}, {ID: "n2", OrderID: "o2", Kind: "order-failed"},
		{ID: "n3", OrderID: "o3", Kind: "order-cancelled"}, {ID: "n4", OrderID: "o4", Kind: "order-confirmed"},
		{ID: "n5", OrderID: "o4", Kind: "order-refunded"},
	} {
		n.Channel, n.Status = "email", "sent"
		f.Notification.Notifications = append(f.Notification.Notifications, n)
		f.Notification.Outcomes = append(f.Notification.Outcomes, n.OrderID+" "+n.Kind)
		f.Messages = append(f.Messages, sink.Message{ID: n.ID + "@shop.test"})
	}
	return f
}

func TestASoundStore(t *testing.T) {
	r := Compare(sound())
	if r.Breaches() > 0 || !r.Quiescent() {
		var text strings.Builder
		r.Print(&text)
		t.Error(text.String())
	}
	for _, l := range r.Lines {
		if l.Checked == 0 {
			t.Errorf("%q looked at nothing", l.Name)
		}
	}
}

// faults are what must not pass, by the line that has to notice it.
var faults = []struct {
	line, name string
	plant      func(*Facts)
}{
	{"every order ended", "an order is pending", func(f *Facts) { f.Order.Orders[1].Status = "pending" }},
	{"every order ended", "a refund never comes", func(f *Facts) { f.Order.Orders[0].Refunding = true }},
	{"captured - refunded", "a failed order was paid", func(f *Facts) { f.Payment.Orders["o2"] = payment.OrderFacts{Captured: 2000} }},
	{"captured - refunded", "a confirmed order was not paid", func(f *Facts) { f.Payment.Orders["o1"] = payment.OrderFacts{Authorised: 1000} }},
	{"captured - refunded", "half of the money came back", func(f *Facts) { f.Payment.Orders["o4"] = payment.OrderFacts{Captured: 4000, Refunded: 2000} }},
	{"no charge without an order", "payment has an order that order has not", func(f *Facts) { f.Payment.Orders["o9"] = payment.OrderFacts{} }},
	{"no charge without an order", "the provider charged for no order", func(f *Facts) { f.Provider = append(f.Provider, provider.Account{Reference: "o9"}) }},
	{"no charge without an order", "the provider authorised twice", func(f *Facts) { f.Provider[0].Authorizations = 2 }},
	{"the provider's ledger", "they captured, we did not notice", func(f *Facts) { f.Provider[1].Captured = 3000 }},
	{"the provider's ledger", "we refunded, they did not", func(f *Facts) { f.Provider[2].Refunded = 0 }},
	{"the provider's ledger", "a card still holds", func(f *Facts) { f.Provider[1].Voided = 0 }},
	{"on hand + committed", "an item is gone", func(f *Facts) { level(f, func(p *inventory.ProductFacts) { p.OnHand-- }) }},
	{"on hand + committed", "more is reserved than there is", func(f *Facts) { level(f, func(p *inventory.ProductFacts) { p.Reserved = 9 }) }},
	{"on hand + committed", "oversold", func(f *Facts) { level(f, func(p *inventory.ProductFacts) { p.OnHand, p.Committed = -1, 11 }) }},
	{"on hand + committed", "the movements say otherwise", func(f *Facts) { level(f, func(p *inventory.ProductFacts) { p.LedgerAgrees = false }) }},
	{"every order's reservation", "sold without a reservation", func(f *Facts) { delete(f.Inventory.Reservations, "o1") }},
	{"every order's reservation", "a failed order keeps its goods", func(f *Facts) { f.Inventory.Reservations["o2"] = "committed" }},
	{"every order's reservation", "a refunded order's goods did not come back", func(f *Facts) { f.Inventory.Reservations["o4"] = "committed" }},
	{"each customer's notification", "an outcome was not heard of", func(f *Facts) { f.Notification.Outcomes = f.Notification.Outcomes[1:] }},
	{"each customer's notification", "a customer was told two endings", func(f *Facts) { f.Notification.Outcomes = append(f.Notification.Outcomes, "o1 order-failed") }},
	{"each customer's notification", "recorded twice", func(f *Facts) {
		n := f.Notification.Notifications[0]
		n.ID = "n9"
		f.Notification.Notifications = append(f.Notification.Notifications, n)
		f.Messages = append(f.Messages, sink.Message{ID: "n9@shop.test"})
	}},
	{"the sink has each", "sent, and not received", func(f *Facts) { f.Messages = f.Messages[1:] }},
	{"the sink has each", "received, and never decided", func(f *Facts) { f.Messages = append(f.Messages, sink.Message{ID: "n9@shop.test"}) }},
	{"no event is given up", "a dead letter", func(f *Facts) { f.Payment.DeadLetters = 1 }},
	{"each event is handled", "an event was lost", func(f *Facts) { delete(f.Handled["cart"], "e1") }},
	{"each event is handled", "an event from nowhere", func(f *Facts) { f.Handled["order"]["e9"] = 30 }},
	{"each service handled", "one overtook another", func(f *Facts) { f.Handled["order"]["e4"] = 11 }},
}

func level(f *Facts, change func(*inventory.ProductFacts)) {
	p := f.Inventory.Products["p"]
	change(&p)
	f.Inventory.Products["p"] = p
}

func TestEachFaultIsNoticed(t *testing.T) {
	planted := map[string]bool{}
	for _, fault := range faults {
		t.Run(fault.name, func(t *testing.T) {
			f := sound()
			fault.plant(&f)
			found := false
			for _, l := range Compare(f).Lines {
				if strings.HasPrefix(l.Name, fault.line) {
					planted[l.Name] = true
					found = len(l.Breaches) > 0
				}
			}
			if !found {
				t.Errorf("the line %q… does not notice it", fault.line)
			}
		})
	}
	for _, l := range Compare(sound()).Lines {
		if !planted[l.Name] {
			t.Errorf("no fault is planted for %q", l.Name)
		}
	}
}

func TestWhatIsUnderWay(t *testing.T) {
	for name, plant := range map[string]func(*Facts){
		"unfinished sagas":             func(f *Facts) { f.Order.SagasUnfinished = 1 },
		"active reservations":          func(f *Facts) { f.Inventory.ActiveReservations = 1 },
		"unresolved provider calls":    func(f *Facts) { f.Payment.OpenIntents = 1 },
		"contact has not arrived":      func(f *Facts) { f.Notification.Waiting = 1 },
		"notifications to send":        func(f *Facts) { f.Notification.Notifications[0].Status = "pending" },
		"events in the outbox of user": func(f *Facts) { f.User.Outbox.Unpublished = 1 },
		"events in the outbox of auth": func(f *Facts) { f.Auth.Outbox.OpenHoles = 1 },
		"consumer order has not":       func(f *Facts) { f.Pending = map[string]int{"order": 1} },
	} {
		f := sound()
		plant(&f)
		if r := Compare(f); len(r.Waiting) != 1 || !strings.Contains(r.Waiting[0], name) {
			t.Errorf("%s: waiting for %q", name, r.Waiting)
		}
	}
	f := sound()
	f.Order.SagasUnfinished, f.Order.SagasStuck = 1, 1
	f.Order.Orders[1].Status = "pending"
	if r := Compare(f); !r.Quiescent() || r.Stuck != 1 {
		t.Errorf("a stuck saga is waited for: %q", r.Waiting)
	}
}
