package web

import (
	"net/http"
	"net/url"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
)

func (s *store) listOrders(w http.ResponseWriter, r *http.Request) error {
	token := r.URL.Query().Get("page_token")
	resp, err := s.orders.ListOrders(r.Context(), &orderv1.ListOrdersRequest{PageSize: 20, PageToken: token})
	if err != nil {
		return err
	}
	return s.site.Render(w, r, http.StatusOK, "orders", struct {
		Orders []*orderv1.Order
		Next   string
		Later  bool
	}{resp.GetOrders(), resp.GetNextPageToken(), token != ""})
}

// step is one line of an order's progress.
type step struct {
	Title, Detail string
	State         string // done, now, failed or later
	At            *timestamppb.Timestamp
}

type orderView struct {
	Order *orderv1.Order
	Steps []step
	// Moving says that the page will change by itself, Cancelling that the customer waits for the end of a
	// cancellation.
	Moving, Cancelling, Cancellable bool
	Problem                         string
}

func viewOf(o *orderv1.Order, cancelling bool) orderView {
	v := orderView{Order: o, Cancelling: cancelling && !over(o, true)}
	v.Moving = !over(o, v.Cancelling)
	v.Cancellable = o.GetStatus() == "pending" || o.GetStatus() == "confirmed"
	v.Steps = progress(o, v.Cancelling)
	return v
}

// over reports whether nothing more is going to happen to an order. A confirmed order whose cancellation is
// under way will be refunded.
func over(o *orderv1.Order, cancelling bool) bool {
	return o.GetStatus() != "pending" && (o.GetStatus() != "confirmed" || !cancelling)
}

// progress tells an order's story.
func progress(o *orderv1.Order, cancelling bool) []step {
	steps := []step{{Title: "Order placed", State: "done", At: o.GetCreatedAt()}}
	checked := step{Title: "Stock and payment", State: "done"}
	end := step{State: "done", At: o.GetUpdatedAt()}
	switch o.GetStatus() {
	case "pending":
		checked.State, checked.Detail = "now", "We are setting your items aside and asking your bank."
		if cancelling {
			checked.Detail = "We are taking back what has been done so far."
			return append(steps, checked, step{Title: "Cancelled", State: "later"})
		}
		return append(steps, checked, step{Title: "Confirmed", State: "later"})
	case "confirmed":
		end.Title, end.Detail = "Confirmed", "It is paid, and yours."
		steps = append(steps, checked, end)
		if cancelling {
			steps = append(steps, step{Title: "Refund", State: "now", Detail: "Your money is on its way back."})
		}
		return steps
	case "failed":
		checked.State = "failed"
		end.Title, end.State, end.Detail = "It did not work out", "failed", reasonText(o.GetFailureReason())
	case "cancelled":
		end.Title, end.Detail = "Cancelled", "Nothing was charged."
	case "refunded":
		end.Title, end.Detail = "Refunded", "What was charged has gone back to your card."
		return append(steps, checked, step{Title: "Confirmed", State: "done"}, end)
	}
	return append(steps, checked, end)
}

// reasons are the words of the participants' contracts, for a person.
var reasons = map[string]string{
	"card_declined":          "Your bank declined the card.",
	"insufficient_funds":     "There was not enough money on the card.",
	"expired_card":           "The card has expired.",
	"out_of_stock":           "Something was sold out a moment before.",
	"timed_out":              "It took too long, so we stopped.",
	"could_not_be_completed": "We could not complete it.",
}

func reasonText(reason string) string {
	text, ok := reasons[reason]
	if !ok {
		text = page.Sentence(strings.ReplaceAll(reason, "_", " "))
	}
	if text != "" {
		text += " "
	}
	return text + "Nothing was charged."
}

func (s *store) showOrder(w http.ResponseWriter, r *http.Request) error {
	return s.renderOrder(w, r, http.StatusOK, "")
}

func (s *store) renderOrder(w http.ResponseWriter, r *http.Request, status int, problem string) error {
	resp, err := s.orders.GetOrder(r.Context(), &orderv1.GetOrderRequest{Id: r.PathValue("id")})
	if err != nil {
		return err
	}
	v := viewOf(resp.GetOrder(), r.URL.Query().Get("cancelling") != "")
	v.Problem = problem
	return s.site.Render(w, r, status, "order", v)
}

func (s *store) cancelOrder(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	_, err := s.orders.CancelOrder(r.Context(), &orderv1.CancelOrderRequest{Id: id})
	if p, refused := page.Refused(err); refused {
		return s.renderOrder(w, r, p.Status, page.Explain(p))
	}
	if err != nil {
		return err
	}
	return seeOther(w, r, "/orders/"+url.PathEscape(id)+"?cancelling=1")
}
