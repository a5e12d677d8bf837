package web

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/problem"
)

// testCard is a card that the payment provider's simulator knows.
type testCard struct{ Number, What string }

var testCards = []testCard{
	{"4242 4242 4242 4242", "Succeeds"},
	{"4000 0000 0000 0002", "Is declined"},
	{"4000 0000 0000 9995", "Has no funds"},
	{"4000 0000 0000 0119", "Leaves us guessing: the provider does not answer, and may have charged"},
	{"4000 0000 0000 0259", "Is captured late"},
	{"4000 0000 0000 5126", "Fails at first when refunded"},
}

type checkoutView struct {
	Cart    *cartv1.Cart
	Methods []*paymentv1.PaymentMethod
	Method  string // the chosen one
	// Key makes the order one order, however often this page is sent. It is made with the page.
	Key string
	// Total is what the page says: the customer agrees to that and to nothing else.
	Total       string
	Problem     string
	Card        bool // the card's form is in use
	Month, Year string
	Errors      map[string]string
	TestCards   []testCard
}

func (s *store) showCheckout(w http.ResponseWriter, r *http.Request) error {
	return s.renderCheckout(w, r, http.StatusOK, checkoutView{Method: r.URL.Query().Get("method")})
}

func (s *store) renderCheckout(w http.ResponseWriter, r *http.Request, status int, v checkoutView) error {
	cart, methods, err := s.till(r.Context())
	if err != nil {
		return err
	}
	v.Cart, v.Methods, v.Total = cart, methods, totalOf(cart)
	if v.Key == "" {
		v.Key = idempotency.NewKey()
	}
	known := slices.ContainsFunc(methods, func(m *paymentv1.PaymentMethod) bool { return m.GetId() == v.Method })
	if !known && len(methods) > 0 {
		v.Method = methods[0].GetId()
	}
	if s.cfg.Demo {
		v.TestCards = testCards
	}
	return s.site.Render(w, r, status, "checkout", v)
}

func (s *store) till(ctx context.Context) (*cartv1.Cart, []*paymentv1.PaymentMethod, error) {
	cart, err := s.carts.GetCart(ctx, &cartv1.GetCartRequest{})
	if err != nil {
		return nil, nil, err
	}
	methods, err := s.pay.ListPaymentMethods(ctx, &paymentv1.ListPaymentMethodsRequest{})
	if err != nil {
		return nil, nil, err
	}
	return cart.GetCart(), methods.GetPaymentMethods(), nil
}

func totalOf(c *cartv1.Cart) string {
	return strconv.FormatInt(int64(c.GetTotal().GetAmountMinor()), 10) + " " + c.GetTotal().GetCurrency()
}

// saveCard hands a card to payment's vault, and goes back to the checkout with it chosen. What was typed is
// never shown again.
func (s *store) saveCard(w http.ResponseWriter, r *http.Request) error {
	f := r.PostForm
	number := strings.NewReplacer(" ", "", "-", "").Replace(f.Get("card_number"))
	month, err1 := strconv.ParseInt(strings.TrimSpace(f.Get("exp_month")), 10, 32)
	year, err2 := strconv.ParseInt(strings.TrimSpace(f.Get("exp_year")), 10, 32)
	again := checkoutView{Card: true, Month: f.Get("exp_month"), Year: f.Get("exp_year")}
	if errors.Join(err1, err2) != nil {
		again.Errors = map[string]string{"exp_month": "Give the month and the year as numbers."}
		return s.renderCheckout(w, r, http.StatusBadRequest, again)
	}
	resp, err := s.pay.CreatePaymentMethod(r.Context(), &paymentv1.CreatePaymentMethodRequest{
		CardNumber: number, ExpMonth: int32(month), ExpYear: int32(year), Cvc: strings.TrimSpace(f.Get("cvc")),
	})
	if p, refused := page.Refused(err); refused {
		again.Errors, again.Problem = cardErrors(p), "The card was not taken. See below."
		if len(again.Errors) == 0 {
			again.Problem = page.Explain(p)
		}
		return s.renderCheckout(w, r, p.Status, again)
	}
	if err != nil {
		return err
	}
	return seeOther(w, r, "/checkout?method="+url.QueryEscape(resp.GetPaymentMethod().GetId()))
}

// cardErrors puts rules that are made for programs into words.
func cardErrors(p *problem.Problem) map[string]string {
	out := page.FieldErrors(p)
	for field, text := range map[string]string{
		"card_number": "Check the number: 12 to 19 digits.", "exp_month": "A month is 1 to 12.",
		"exp_year": "Give the year with four digits.", "cvc": "Three or four digits, usually on the back.",
	} {
		for _, f := range p.Fields {
			if f.Field == field && strings.Contains(f.Rule, ".") { // a rule of the contract, not of the service
				out[field] = text
			}
		}
	}
	return out
}

const (
	cartChanged = "Your cart has changed since you saw this page. Look at the new total before you pay."
	tryAgain    = "We could not tell whether your order arrived. Press “Pay” again: the same order is not placed twice."
	usedUp      = "This page was sent before with something else on it. Look at it again before you pay."
)

// placeOrder places the order that the page showed. The page's key goes along, so that a second click, a
// reload and a retry after a lost answer all end with one order.
func (s *store) placeOrder(w http.ResponseWriter, r *http.Request) error {
	method := r.PostForm.Get("method")
	key, err := idempotency.ParseKey(r.PostForm.Get("key"))
	if err != nil {
		return err
	}
	again := checkoutView{Method: method, Key: key}
	if method == "" {
		again.Problem = "Choose how to pay."
		return s.renderCheckout(w, r, http.StatusBadRequest, again)
	}
	cart, err := s.carts.GetCart(r.Context(), &cartv1.GetCartRequest{})
	if err != nil {
		return err
	}
	// An empty cart may mean that this very order has gone through; its key will tell.
	if len(cart.GetCart().GetItems()) > 0 && totalOf(cart.GetCart()) != r.PostForm.Get("total") {
		return s.renderCheckout(w, r, http.StatusConflict, checkoutView{Method: method, Problem: cartChanged})
	}
	resp, err := s.orders.CreateOrder(idempotency.WithKey(r.Context(), key), &orderv1.CreateOrderRequest{PaymentMethodId: method})
	if err == nil {
		return seeOther(w, r, "/orders/"+url.PathEscape(resp.GetOrder().GetId()))
	}
	status := http.StatusServiceUnavailable
	switch p, refused := page.Refused(err); {
	case refused && p.Code == "idempotency_key_reused":
		again.Key, again.Problem, status = "", usedUp, p.Status
	case refused && strings.HasPrefix(p.Code, "idempotency_"):
		again.Problem, status = tryAgain, p.Status
	case refused:
		again.Problem, status = page.Explain(p), p.Status
	case kit.Problem(err).Status >= http.StatusInternalServerError:
		again.Problem = tryAgain
	default:
		return err
	}
	if err2 := s.renderCheckout(w, r, status, again); err2 != nil {
		return errors.Join(err, err2)
	}
	return nil
}
