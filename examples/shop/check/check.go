// Package check compares what every service's own database says with what the others say, and with the
// ledgers of the outsiders that nothing in the store can roll back: the payment provider and the mail sink.
package check

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/napkin-kit/napkin/examples/shop/auth"
	"github.com/napkin-kit/napkin/examples/shop/cart"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/examples/shop/notification"
	"github.com/napkin-kit/napkin/examples/shop/order"
	"github.com/napkin-kit/napkin/examples/shop/payment"
	"github.com/napkin-kit/napkin/examples/shop/provider"
	"github.com/napkin-kit/napkin/examples/shop/sink"
	"github.com/napkin-kit/napkin/examples/shop/user"
	"github.com/napkin-kit/napkin/kit/events/outbox"
)

// Facts are everything that is compared.
type Facts struct {
	Auth         auth.Facts
	User         user.Facts
	Catalog      catalog.Facts
	Cart         cart.Facts
	Order        order.Facts
	Payment      payment.Facts
	Inventory    inventory.Facts
	Notification notification.Facts
	// Provider and Messages are what the outsiders say.
	Provider []provider.Account
	Messages []sink.Message
	// Pending are the undelivered and unacknowledged events by consumer; nil where the broker cannot be asked.
	Pending map[string]int
	// Sent is what the outboxes keep, Handled what the inboxes remember: by service, the event's id and
	// when it was handled, in microseconds. Trimmed says that an outbox has let go of old events.
	Sent    []Sent
	Handled map[string]map[string]int64
	Trimmed bool
}

// Report is the outcome of a comparison.
type Report struct {
	// Waiting says what is still under way: until it is empty, a line below may be short of its end.
	Waiting []string
	Lines   []Line
	// Orders counts the orders by status.
	Orders map[string]int
	// Stuck counts the sagas that wait for an operator.
	Stuck int
	// Duplicates counts messages that were handed over more than once, under one id.
	Duplicates int
}

// Line is one invariant.
type Line struct {
	Name string
	// Checked counts what was looked at.
	Checked  int
	Breaches []string
}

// Quiescent reports whether nothing is under way.
func (r Report) Quiescent() bool { return len(r.Waiting) == 0 }

// Breaches counts the breaches of all lines.
func (r Report) Breaches() int {
	n := 0
	for _, l := range r.Lines {
		n += len(l.Breaches)
	}
	return n
}

// Print writes the report for a person.
func (r Report) Print(w io.Writer) {
	for _, l := range r.Lines {
		verdict := "ok"
		if len(l.Breaches) > 0 {
			verdict = fmt.Sprintf("%d BREACHED", len(l.Breaches))
		}
		fmt.Fprintf(w, "%-72s %6d checked  %s\n", l.Name, l.Checked, verdict)
		for _, b := range l.Breaches[:min(len(l.Breaches), 10)] {
			fmt.Fprintf(w, "    %s\n", b)
		}
	}
	var orders []string
	for _, s := range []string{"pending", "confirmed", "failed", "cancelled", "refunded"} {
		orders = append(orders, fmt.Sprintf("%d %s", r.Orders[s], s))
	}
	fmt.Fprintf(w, "orders: %s; stuck sagas: %d; messages handed over twice: %d\n", strings.Join(orders, ", "), r.Stuck, r.Duplicates)
	for _, what := range r.Waiting {
		fmt.Fprintf(w, "still under way: %s\n", what)
	}
}

// Compare makes the report.
func Compare(f Facts) Report {
	r := Report{Orders: map[string]int{}, Stuck: f.Order.SagasStuck}
	for _, o := range f.Order.Orders {
		r.Orders[o.Status]++
	}
	r.Waiting = waiting(f)
	r.Lines = []Line{
		ended(f), money(f), charges(f), providerAgrees(f), stock(f), reservations(f), told(f), handedOver(f, &r), deadLetters(f),
		delivered(f), inOrder(f),
	}
	return r
}

func waiting(f Facts) []string {
	var out []string
	add := func(n int, what string) {
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(f.Order.SagasUnfinished-f.Order.SagasStuck, "unfinished sagas")
	add(f.Inventory.ActiveReservations, "active reservations")
	add(f.Payment.OpenIntents, "unresolved provider calls")
	add(f.Notification.Waiting, "outcomes whose customer's contact has not arrived")
	pending := 0
	for _, n := range f.Notification.Notifications {
		if n.Status == "pending" {
			pending++
		}
	}
	add(pending, "notifications to send")
	for name, b := range map[string]outbox.Backlog{
		"auth": f.Auth.Outbox, "user": f.User.Outbox, "catalog": f.Catalog.Outbox,
		"order": f.Order.Outbox, "payment": f.Payment.Outbox, "inventory": f.Inventory.Outbox,
	} {
		add(b.Unpublished+b.OpenHoles, "events in the outbox of "+name)
	}
	for name, n := range f.Pending {
		add(n, "events that consumer "+name+" has not acknowledged")
	}
	slices.Sort(out)
	return out
}

func ended(f Facts) Line {
	l := Line{Name: "every order ended, or its saga is listed as stuck", Checked: len(f.Order.Orders)}
	var open []string
	for _, o := range f.Order.Orders {
		switch o.Status {
		case "confirmed", "failed", "cancelled", "refunded":
			if o.Refunding && o.Status == "confirmed" {
				open = append(open, o.ID+" is being refunded")
			}
		default:
			open = append(open, o.ID+" is "+o.Status)
		}
	}
	if len(open) > f.Order.SagasStuck {
		l.Breaches = open
	}
	return l
}

// owed is what a customer has paid in the end, by the order's status.
func owed(o order.OrderFacts) int64 {
	if o.Status == "confirmed" {
		return o.TotalMinor
	}
	return 0
}

func money(f Facts) Line {
	l := Line{Name: "captured - refunded = total where confirmed, 0 elsewhere"}
	for _, o := range f.Order.Orders {
		l.Checked++
		p := f.Payment.Orders[o.ID]
		if got := p.Captured - p.Refunded; got != owed(o) {
			l.Breaches = append(l.Breaches, fmt.Sprintf("order %s is %s over %d, captured %d, refunded %d", o.ID, o.Status, o.TotalMinor, p.Captured, p.Refunded))
		}
	}
	return l
}

func charges(f Facts) Line {
	l := Line{Name: "no charge without an order, never two for one"}
	known := map[string]bool{}
	for _, o := range f.Order.Orders {
		known[o.ID] = true
	}
	for id := range f.Payment.Orders {
		l.Checked++
		if !known[id] {
			l.Breaches = append(l.Breaches, "payment knows order "+id+", order does not")
		}
	}
	for _, a := range f.Provider {
		l.Checked++
		if !known[a.Reference] {
			l.Breaches = append(l.Breaches, "the provider was asked to charge for "+a.Reference+", which is no order")
		}
		if a.Authorizations > 1 {
			l.Breaches = append(l.Breaches, fmt.Sprintf("the provider authorised %s %d times", a.Reference, a.Authorizations))
		}
	}
	return l
}

func providerAgrees(f Facts) Line {
	l := Line{Name: "the provider's ledger equals ours, and holds nothing open"}
	theirs := map[string]provider.Account{}
	for _, a := range f.Provider {
		theirs[a.Reference] = a
	}
	for _, o := range f.Order.Orders {
		l.Checked++
		a, p := theirs[o.ID], f.Payment.Orders[o.ID]
		if a.Captured != p.Captured || a.Refunded != p.Refunded {
			l.Breaches = append(l.Breaches, fmt.Sprintf("order %s: they captured %d and refunded %d, we %d and %d", o.ID, a.Captured, a.Refunded, p.Captured, p.Refunded))
		}
		if open := a.Authorized - a.Voided - a.Captured; open != 0 && o.Status != "pending" {
			l.Breaches = append(l.Breaches, fmt.Sprintf("order %s is %s and the customer's card still holds %d", o.ID, o.Status, open))
		}
	}
	return l
}

func stock(f Facts) Line {
	l := Line{Name: "on hand + committed = received + adjusted + restocked, never negative"}
	for id, p := range f.Inventory.Products {
		l.Checked++
		if p.OnHand+p.Committed != p.Received+p.Adjusted+p.Restocked || p.OnHand < 0 || p.Reserved < 0 || p.Reserved > p.OnHand || !p.LedgerAgrees {
			l.Breaches = append(l.Breaches, fmt.Sprintf("product %s: %+v", id, p))
		}
	}
	return l
}

func reservations(f Facts) Line {
	l := Line{Name: "every order's reservation fits how the order ended"}
	for _, o := range f.Order.Orders {
		l.Checked++
		got := f.Inventory.Reservations[o.ID]
		var fits []string
		switch o.Status {
		case "confirmed":
			fits = []string{"committed"}
		case "refunded":
			fits = []string{"restocked"}
		case "failed", "cancelled":
			fits = []string{"", "rejected", "released", "expired", "restocked"} // "" where it was never asked for or refused
		default:
			continue
		}
		if o.Refunding && o.Status == "confirmed" {
			fits = append(fits, "restocked")
		}
		if !slices.Contains(fits, got) {
			l.Breaches = append(l.Breaches, fmt.Sprintf("order %s is %s, its reservation %q", o.ID, o.Status, got))
		}
	}
	return l
}

func told(f Facts) Line {
	l := Line{Name: "each customer's notification is recorded once per outcome and channel"}
	expected := map[string]bool{}
	outcomes := map[string]bool{}
	for _, o := range f.Notification.Outcomes {
		outcomes[o] = true
	}
	for _, o := range f.Order.Orders {
		var kinds []string
		switch o.Status {
		case "confirmed", "failed", "cancelled":
			kinds = []string{"order-" + o.Status}
		case "refunded":
			kinds = []string{"order-confirmed", "order-refunded"}
		}
		for _, k := range kinds {
			l.Checked++
			expected[o.ID+" "+k] = true
			if !outcomes[o.ID+" "+k] {
				l.Breaches = append(l.Breaches, fmt.Sprintf("order %s is %s and notification has not heard of %s", o.ID, o.Status, k))
			}
		}
	}
	for o := range outcomes {
		if !expected[o] {
			l.Breaches = append(l.Breaches, o+" was heard of, and is not how the order ended")
		}
	}
	seen := map[string]bool{}
	for _, n := range f.Notification.Notifications {
		key := n.OrderID + " " + n.Kind + " " + n.Channel
		if seen[key] {
			l.Breaches = append(l.Breaches, key+" is recorded twice")
		}
		seen[key] = true
		if !outcomes[n.OrderID+" "+n.Kind] {
			l.Breaches = append(l.Breaches, key+" tells of an outcome that was not heard of")
		}
	}
	return l
}

func handedOver(f Facts, r *Report) Line {
	l := Line{Name: "the sink has each notification that was sent, and none that was not decided"}
	got := map[string]int{}
	for _, m := range f.Messages {
		id, _, _ := strings.Cut(m.ID, "@")
		got[id]++
		if got[id] == 2 {
			r.Duplicates++
		}
	}
	ours := map[string]bool{}
	for _, n := range f.Notification.Notifications {
		l.Checked++
		ours[n.ID] = true
		if n.Status == "sent" && got[n.ID] == 0 {
			l.Breaches = append(l.Breaches, fmt.Sprintf("%s (%s for %s) is sent, the sink does not have it", n.ID, n.Kind, n.OrderID))
		}
	}
	for id := range got {
		if !ours[id] {
			l.Breaches = append(l.Breaches, "the sink has "+id+", which was never decided")
		}
	}
	return l
}

func deadLetters(f Facts) Line {
	l := Line{Name: "no event is given up"}
	for name, n := range map[string]int{
		"user": f.User.DeadLetters, "catalog": f.Catalog.DeadLetters, "cart": f.Cart.DeadLetters, "order": f.Order.DeadLetters,
		"payment": f.Payment.DeadLetters, "inventory": f.Inventory.DeadLetters, "notification": f.Notification.DeadLetters,
	} {
		l.Checked++
		if n > 0 {
			l.Breaches = append(l.Breaches, fmt.Sprintf("%s has %d dead letters", name, n))
		}
	}
	return l
}
