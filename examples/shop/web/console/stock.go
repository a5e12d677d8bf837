package console

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/authn"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/idempotency"
)

type stockRow struct {
	*inventoryv1.Stock
	Name string
	// Key makes the row's form one act, however often it is sent.
	Key string
}

type stockView struct {
	Rows            []stockRow
	Next, First     string
	Token           string
	Notice, Problem string
}

func (c *console) listStock(w http.ResponseWriter, r *http.Request) error {
	v := stockView{Token: r.URL.Query().Get("page_token")}
	if id := r.URL.Query().Get("done"); id != "" {
		v.Notice = "The stock of " + id + " is adjusted."
	}
	return c.renderStock(w, r, http.StatusOK, v)
}

func (c *console) renderStock(w http.ResponseWriter, r *http.Request, status int, v stockView) error {
	resp, err := c.inventory.ListStock(r.Context(), &inventoryv1.ListStockRequest{PageSize: 50, PageToken: v.Token})
	if err != nil {
		return err
	}
	ids := make([]string, len(resp.GetStock()))
	for i, s := range resp.GetStock() {
		ids[i] = s.GetProductId()
	}
	names := map[string]string{}
	if len(ids) > 0 { // without the catalogue the ids have to do
		products, err := c.catalog.BatchGetProducts(r.Context(), &catalogv1.BatchGetProductsRequest{Ids: ids})
		if err == nil {
			for _, p := range products.GetProducts() {
				names[p.GetId()] = p.GetName()
			}
		}
	}
	for _, s := range resp.GetStock() {
		v.Rows = append(v.Rows, stockRow{s, names[s.GetProductId()], idempotency.NewKey()})
	}
	v.First = first(v.Token, "/stock")
	if t := resp.GetNextPageToken(); t != "" {
		v.Next = "/stock?page_token=" + url.QueryEscape(t)
	}
	return c.site.Render(w, r, status, "stock", v)
}

const stockUnclear = "We could not tell whether the stock was adjusted. Look at the level below before you repeat it."

// adjust corrects a level. The inventory takes every correction for a new one, so a form that is sent twice
// is recognised here.
func (c *console) adjust(w http.ResponseWriter, r *http.Request) error {
	id, token := r.PathValue("id"), r.PostForm.Get("page_token")
	again := stockView{Token: token}
	delta, err := strconv.ParseInt(strings.TrimSpace(r.PostForm.Get("delta")), 10, 32)
	if err != nil || delta == 0 {
		again.Problem = "Give how many pieces more, or with a minus how many less."
		return c.renderStock(w, r, http.StatusBadRequest, again)
	}
	key, err := idempotency.ParseKey(r.PostForm.Get("key"))
	if err != nil {
		return err
	}
	who, _ := authn.PrincipalFrom(r.Context())
	claim, sent, err := c.sent.Claim(r.Context(), idempotency.Key{
		Value: key, Scope: who.Subject, Operation: "adjust stock",
		Fingerprint: idempotency.Fingerprint([]byte(id), []byte(strconv.FormatInt(delta, 10))),
	}, time.Minute)
	switch {
	case errors.Is(err, idempotency.ErrInProgress) || sent != nil:
		return c.adjusted(w, r, id, token)
	case err != nil:
		return err
	}
	_, err = c.inventory.AdjustStock(r.Context(), &inventoryv1.AdjustStockRequest{ProductId: id, Delta: int32(delta), Reason: r.PostForm.Get("reason")})
	p, refused := page.Refused(err)
	if err != nil && (refused || kit.Problem(err).Status < http.StatusInternalServerError) {
		if p == nil {
			p = kit.Problem(err)
		}
		again.Problem = id + ": " + page.Explain(p)
		return errors.Join(c.sent.Release(r.Context(), claim), c.renderStock(w, r, p.Status, again))
	}
	if err2 := c.sent.Complete(r.Context(), claim, idempotency.Response{Code: http.StatusSeeOther}); err2 != nil {
		return err2
	}
	if err != nil {
		again.Problem = stockUnclear
		return c.renderStock(w, r, http.StatusServiceUnavailable, again)
	}
	return c.adjusted(w, r, id, token)
}

func (c *console) adjusted(w http.ResponseWriter, r *http.Request, id, token string) error {
	q := url.Values{"done": {id}}
	if token != "" {
		q.Set("page_token", token)
	}
	return seeOther(w, r, "/stock?"+q.Encode()+"#"+url.PathEscape(id))
}

func (c *console) listNotifications(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	order, token := strings.TrimSpace(q.Get("order")), q.Get("page_token")
	resp, err := c.notifications.ListNotifications(r.Context(), &notificationv1.ListNotificationsRequest{OrderId: order, PageSize: 50, PageToken: token})
	if err != nil {
		return err
	}
	next := ""
	if t := resp.GetNextPageToken(); t != "" {
		next = "/notifications?" + url.Values{"order": {order}, "page_token": {t}}.Encode()
	}
	return c.site.Render(w, r, http.StatusOK, "notifications", struct {
		List               []*notificationv1.Notification
		Order, Next, First string
	}{resp.GetNotifications(), order, next, first(token, "/notifications?order="+url.QueryEscape(order))})
}
