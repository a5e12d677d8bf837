package web

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
)

const pageSize = 24

// choice is an entry of a list of which one is chosen.
type choice struct {
	Value, Text string
	Current     bool
}

// category is an entry of the catalogue's navigation.
type category struct {
	Name, URL string
	Count     int32
	Current   bool
}

type catalogView struct {
	Title, Q, Category string
	Plain              bool // the front page, as nobody has searched
	Filtered, InStock  bool
	Total              int
	Products           []*catalogv1.Product
	Categories         []category
	Bands, Sorts       []choice
	First, Next        string
}

var sorts = []choice{
	{Value: "name", Text: "Name"}, {Value: "price", Text: "Cheapest first"}, {Value: "-price", Text: "Dearest first"}, {Value: "-updated", Text: "Newest"},
}

// sortsFor are the orders that a search can be shown in; without words nothing matches better than another.
func sortsFor(req *catalogv1.ListProductsRequest) []choice {
	switch {
	case req.GetQ() != "":
		return chosen(append([]choice{{Value: "", Text: "Best match"}}, sorts...), req.GetSort())
	case req.GetSort() == "":
		return chosen(sorts, "name")
	}
	return chosen(sorts, req.GetSort())
}

// showCatalog is the front page and the search, which differ in their headings.
func (s *store) showCatalog(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	low, high := band(q.Get("price"))
	req := &catalogv1.ListProductsRequest{
		Q: strings.TrimSpace(q.Get("q")), Category: q.Get("category"), MinPrice: low, MaxPrice: high,
		InStock: q.Get("in_stock") == "true", Sort: q.Get("sort"), PageSize: pageSize, PageToken: q.Get("page_token"),
	}
	resp, err := s.catalog.ListProducts(r.Context(), req)
	if err != nil {
		return err
	}
	v := catalogView{
		Title: titleOf(req), Q: req.GetQ(), Category: req.GetCategory(), InStock: req.GetInStock(),
		Filtered: req.GetQ() != "" || req.GetCategory() != "" || req.GetInStock() || low+high > 0,
		Total:    int(resp.GetTotal()), Products: resp.GetProducts(), Sorts: sortsFor(req),
	}
	v.Plain = !v.Filtered && req.GetSort() == "" && req.GetPageToken() == ""
	v.Categories = []category{{Name: "All", URL: with(q, "category", ""), Current: req.GetCategory() == ""}}
	bands := []choice{{Value: "", Text: "Any"}}
	for _, f := range resp.GetFacets() {
		for _, value := range f.GetValues() {
			switch f.GetField() {
			case "category":
				v.Categories = append(v.Categories, category{value.GetValue(), with(q, "category", value.GetValue()), value.GetCount(), value.GetValue() == req.GetCategory()})
			case "price":
				bands = append(bands, choice{Value: value.GetValue(), Text: bandText(value.GetValue())})
			}
		}
	}
	v.Bands = chosen(bands, q.Get("price"))
	if req.GetPageToken() != "" {
		v.First = with(q, "", "")
	}
	if t := resp.GetNextPageToken(); t != "" {
		v.Next = with(q, "page_token", t)
	}
	return s.site.Render(w, r, http.StatusOK, "catalog", v)
}

func titleOf(req *catalogv1.ListProductsRequest) string {
	switch {
	case req.GetQ() != "" && req.GetCategory() != "":
		return "“" + req.GetQ() + "” in " + req.GetCategory()
	case req.GetQ() != "":
		return "“" + req.GetQ() + "”"
	case req.GetCategory() != "":
		return req.GetCategory()
	}
	return "Everything"
}

// with is the address of the search with one parameter changed, from its first page on.
func with(q url.Values, key, value string) string {
	next := url.Values{}
	for _, k := range []string{"q", "category", "price", "sort", "in_stock"} {
		if v := q.Get(k); v != "" {
			next.Set(k, v)
		}
	}
	if value == "" {
		next.Del(key)
	} else {
		next.Set(key, value)
	}
	if len(next) == 0 {
		return "/"
	}
	return "/search?" + next.Encode()
}

// band reads a price range as the catalogue's facet names it: "1500-3000", "12000-".
func band(s string) (low, high int32) {
	from, to, ok := strings.Cut(s, "-")
	if !ok {
		return 0, 0
	}
	l, err1 := strconv.ParseInt(from, 10, 32)
	h, err2 := strconv.ParseInt(to, 10, 32)
	if err1 != nil || l < 0 || (to != "" && (err2 != nil || h < l)) {
		return 0, 0
	}
	return int32(l), int32(h)
}

func bandText(s string) string {
	low, high := band(s)
	euros := func(n int32) string {
		return strings.TrimSuffix(page.Money(&commonv1.Money{AmountMinor: n, Currency: "EUR"}), ".00")
	}
	switch {
	case high == 0:
		return euros(low) + " and more"
	case low == 0:
		return "up to " + euros(high)
	}
	return euros(low) + " to " + euros(high)
}

// chosen marks the entry with the given value; one that is not listed is added, so that it is seen.
func chosen(list []choice, value string) []choice {
	out := make([]choice, len(list))
	found := false
	for i, c := range list {
		c.Current = c.Value == value
		found = found || c.Current
		out[i] = c
	}
	if low, high := band(value); !found && low+high > 0 {
		out = append(out, choice{value, bandText(value), true})
	}
	return out
}

func (s *store) showProduct(w http.ResponseWriter, r *http.Request) error {
	resp, err := s.catalog.GetProduct(r.Context(), &catalogv1.GetProductRequest{Id: r.PathValue("id")})
	if err != nil {
		return err
	}
	return s.site.Render(w, r, http.StatusOK, "product", resp)
}

// productsOf are the catalogue's entries of some products. Pages that only show pictures by them do without.
func (s *store) productsOf(ctx context.Context, ids []string) map[string]*catalogv1.Product {
	if len(ids) == 0 {
		return nil
	}
	resp, err := s.catalog.BatchGetProducts(ctx, &catalogv1.BatchGetProductsRequest{Ids: ids[:min(len(ids), 200)]})
	if err != nil {
		return nil
	}
	out := make(map[string]*catalogv1.Product, len(resp.GetProducts()))
	for _, p := range resp.GetProducts() {
		out[p.GetId()] = p
	}
	return out
}
