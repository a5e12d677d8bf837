package console

import (
	"net/http"
	"net/url"

	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
)

// statuses are the filters of the list, in the order of an order's life.
var statuses = []string{"", "pending", "confirmed", "failed", "cancelled", "refunded", "stuck"}

type filter struct {
	Name, URL string
	Count     int32
	Current   bool
}

func (c *console) listOrders(w http.ResponseWriter, r *http.Request) error {
	status, token := r.URL.Query().Get("status"), r.URL.Query().Get("page_token")
	resp, err := c.orders.AdminListOrders(r.Context(), &orderv1.AdminListOrdersRequest{Status: status, PageSize: 50, PageToken: token})
	if err != nil {
		return err
	}
	var all int32
	for s, n := range resp.GetCounts() {
		if s != "stuck" { // a stuck order has a status besides
			all += n
		}
	}
	var filters []filter
	for _, s := range statuses {
		f := filter{Name: s, URL: "/orders?status=" + s, Count: resp.GetCounts()[s], Current: s == status}
		if s == "" {
			f.Name, f.URL, f.Count = "all", "/orders", all
		}
		filters = append(filters, f)
	}
	next := ""
	if t := resp.GetNextPageToken(); t != "" {
		next = "/orders?" + url.Values{"status": {status}, "page_token": {t}}.Encode()
	}
	return c.site.Render(w, r, http.StatusOK, "orders", struct {
		Filters     []filter
		Orders      []*orderv1.AdminOrder
		Next, First string
	}{filters, resp.GetOrders(), next, first(token, "/orders?status="+url.QueryEscape(status))})
}

// first is the address of the first page for those who have left it.
func first(token, path string) string {
	if token == "" {
		return ""
	}
	return path
}

type orderView struct {
	*orderv1.GetTimelineResponse
	Stuck           []string // sagas that wait for an operator
	Notifications   []*notificationv1.Notification
	NotifyProblem   string
	Problem, Notice string
	Reason          string
	Store           string
}

func (c *console) showOrder(w http.ResponseWriter, r *http.Request) error {
	v := orderView{}
	if r.URL.Query().Get("done") != "" {
		v.Notice = "Done. The saga goes on; your name and your reason are in its timeline."
	}
	return c.renderOrder(w, r, http.StatusOK, v)
}

func (c *console) renderOrder(w http.ResponseWriter, r *http.Request, status int, v orderView) error {
	id := r.PathValue("id")
	resp, err := c.orders.GetTimeline(r.Context(), &orderv1.GetTimelineRequest{OrderId: id})
	if err != nil {
		return err
	}
	v.GetTimelineResponse, v.Stuck = resp, stuckSagas(resp.GetEntries())
	sent, err := c.notifications.ListNotifications(r.Context(), &notificationv1.ListNotificationsRequest{OrderId: id, PageSize: 20})
	if err != nil { // the order is worth showing without
		v.NotifyProblem = "The notification service does not answer just now."
	}
	v.Notifications = sent.GetNotifications()
	return c.site.Render(w, r, status, "order", v)
}

// stuckSagas are those whose last word is that they are stuck.
func stuckSagas(entries []*orderv1.TimelineEntry) []string {
	var order []string
	stuck := map[string]bool{}
	for _, e := range entries {
		if _, seen := stuck[e.GetSagaId()]; !seen {
			order = append(order, e.GetSagaId())
			stuck[e.GetSagaId()] = false
		}
		switch e.GetWhat() {
		case "stuck":
			stuck[e.GetSagaId()] = true
		case "retried", "skipped", "compensating", "completed", "compensated":
			stuck[e.GetSagaId()] = false
		}
	}
	var out []string
	for _, id := range order {
		if stuck[id] {
			out = append(out, id)
		}
	}
	return out
}

// resolve is an operator's act on a stuck saga. Sent twice it is refused the second time: the saga is no
// longer stuck.
func (c *console) resolve(w http.ResponseWriter, r *http.Request) error {
	reason := r.PostForm.Get("reason")
	_, err := c.orders.ResolveSaga(r.Context(), &orderv1.ResolveSagaRequest{
		SagaId: r.PostForm.Get("saga"), Act: r.PostForm.Get("act"), Reason: reason,
	})
	if p, refused := page.Refused(err); refused {
		return c.renderOrder(w, r, p.Status, orderView{Problem: page.Explain(p), Reason: reason})
	}
	if err != nil {
		return err
	}
	return seeOther(w, r, "/orders/"+url.PathEscape(r.PathValue("id"))+"?done=1")
}
