package web

import (
	"net/http"
	"net/url"
	"strconv"

	cartv1 "github.com/napkin-kit/napkin/examples/shop/api/cart/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/kit/problem"
)

// most is the largest quantity of one product in a cart.
const most = 99

type cartLine struct {
	Item    *cartv1.CartItem
	Image   string
	SoldOut bool
}

type cartView struct {
	Cart              *cartv1.Cart
	Lines             []cartLine
	Notice, Problem   string
	Code, CouponError string
	Demo              bool
}

// notices are what a page says after a form, by the word that the address carries.
var notices = map[string]string{
	"added": "It is in your cart.", "updated": "The cart is up to date.", "removed": "It is out of your cart.",
	"coupon": "The coupon counts.", "nocoupon": "The coupon is off.", "saved": "Saved.", "cancel": "The cancellation is on its way.",
}

func (s *store) showCart(w http.ResponseWriter, r *http.Request) error {
	return s.renderCart(w, r, http.StatusOK, cartView{Notice: notices[r.URL.Query().Get("done")]})
}

func (s *store) renderCart(w http.ResponseWriter, r *http.Request, status int, v cartView) error {
	resp, err := s.carts.GetCart(r.Context(), &cartv1.GetCartRequest{})
	if err != nil {
		return err
	}
	v.Cart, v.Demo = resp.GetCart(), s.cfg.Demo
	var ids []string
	for _, item := range v.Cart.GetItems() {
		ids = append(ids, item.GetProductId())
	}
	products := s.productsOf(r.Context(), ids)
	for _, item := range v.Cart.GetItems() {
		line := cartLine{Item: item}
		if p := products[item.GetProductId()]; p != nil {
			line.Image, line.SoldOut = p.GetImageUrl(), !p.GetInStock()
		}
		v.Lines = append(v.Lines, line)
	}
	return s.site.Render(w, r, status, "cart", v)
}

var errQuantity = problem.New(http.StatusBadRequest, "bad_quantity", "Give a quantity from 1 to 99.")

func quantityOf(r *http.Request) (int32, error) {
	n, err := strconv.ParseInt(r.PostForm.Get("quantity"), 10, 32)
	if err != nil || n < 1 || n > most {
		return 0, errQuantity
	}
	return int32(n), nil
}

// addItem adds to what the cart holds of a product; the cart's own call sets a quantity.
func (s *store) addItem(w http.ResponseWriter, r *http.Request) error {
	id := r.PostForm.Get("product_id")
	n, err := quantityOf(r)
	if err != nil {
		return s.cartProblem(w, r, err)
	}
	resp, err := s.carts.GetCart(r.Context(), &cartv1.GetCartRequest{})
	if err != nil {
		return err
	}
	for _, item := range resp.GetCart().GetItems() {
		if item.GetProductId() == id {
			n = min(n+item.GetQuantity(), most)
		}
	}
	return s.putItem(w, r, id, n, "added")
}

func (s *store) setItem(w http.ResponseWriter, r *http.Request) error {
	n, err := quantityOf(r)
	if err != nil {
		return s.cartProblem(w, r, err)
	}
	return s.putItem(w, r, r.PathValue("id"), n, "updated")
}

func (s *store) putItem(w http.ResponseWriter, r *http.Request, id string, n int32, done string) error {
	if _, err := s.carts.PutItem(r.Context(), &cartv1.PutItemRequest{ProductId: id, Quantity: n}); err != nil {
		return s.cartProblem(w, r, err)
	}
	return seeOther(w, r, "/cart?done="+done)
}

func (s *store) removeItem(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.carts.DeleteItem(r.Context(), &cartv1.DeleteItemRequest{ProductId: r.PathValue("id")}); err != nil {
		return s.cartProblem(w, r, err)
	}
	return seeOther(w, r, "/cart?done=removed")
}

func (s *store) applyCoupon(w http.ResponseWriter, r *http.Request) error {
	code := r.PostForm.Get("code")
	_, err := s.carts.ApplyCoupon(r.Context(), &cartv1.ApplyCouponRequest{Code: code})
	if p, refused := page.Refused(err); refused {
		return s.renderCart(w, r, p.Status, cartView{Code: code, CouponError: page.Explain(p)})
	}
	if p, refused := page.Missing(err); refused {
		return s.renderCart(w, r, http.StatusBadRequest, cartView{Code: code, CouponError: page.Explain(p)})
	}
	if err != nil {
		return err
	}
	done := "coupon"
	if code == "" {
		done = "nocoupon"
	}
	return seeOther(w, r, "/cart?done="+url.QueryEscape(done))
}

// cartProblem shows what the customer can mend above the cart; other errors have a page of their own.
func (s *store) cartProblem(w http.ResponseWriter, r *http.Request, err error) error {
	p, refused := page.Refused(err)
	if !refused {
		if p, refused = page.Missing(err); !refused {
			return err
		}
	}
	return s.renderCart(w, r, p.Status, cartView{Problem: page.Explain(p)})
}
