package search

import (
	"context"
	"fmt"
	"strconv"

	"github.com/blevesearch/bleve/v2"
	"github.com/blevesearch/bleve/v2/search"
	"github.com/blevesearch/bleve/v2/search/query"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
)

const (
	fieldName        = "name"
	fieldDescription = "description"
	fieldCategory    = "category"
	fieldCategoryIs  = "category_is"
	fieldSortName    = "sort_name"
	fieldPrice       = "price"
	fieldInStock     = "in_stock"
	fieldUpdated     = "updated"
)

const (
	maxWords      = 10 // of a search; more add nothing but work
	fuzzyFrom     = 5  // letters from which one typing error is forgiven
	maxCategories = 50
)

// bands are the price facet's ranges, in minor units; the last has no end.
var bands = []struct {
	name     string
	min, max float64
}{
	{"0-1500", 0, 1500}, {"1500-3000", 1500, 3000}, {"3000-6000", 3000, 6000},
	{"6000-12000", 6000, 12000}, {"12000-", 12000, 0},
}

// Search implements domain.Index. q must be normalized.
func (x *Index) Search(ctx context.Context, q domain.Query) (domain.Result, error) {
	req := bleve.NewSearchRequestOptions(x.query(q, true), q.PageSize+1, 0, false) // one more tells whether a page follows
	req.SortByCustom(order(q.Sort))
	if q.After != nil {
		req.SetSearchAfter([]string{q.After.Value, q.After.ID})
	}
	facetReq := req
	if q.Category != "" {
		// Its own search: the category facet counts the other categories too.
		facetReq = bleve.NewSearchRequestOptions(x.query(q, false), 0, 0, false)
	}
	facetReq.AddFacet("category", bleve.NewFacetRequest(fieldCategoryIs, maxCategories))
	price := bleve.NewFacetRequest(fieldPrice, len(bands))
	for _, b := range bands {
		lo, hi := &b.min, &b.max
		if b.max == 0 {
			hi = nil
		}
		price.AddNumericRange(b.name, lo, hi)
	}
	req.AddFacet("price", price)

	res, err := x.bleve.SearchInContext(ctx, req)
	if err != nil {
		return domain.Result{}, fmt.Errorf("catalog search: %w", err)
	}
	categories := res.Facets["category"]
	if facetReq != req {
		all, err := x.bleve.SearchInContext(ctx, facetReq)
		if err != nil {
			return domain.Result{}, fmt.Errorf("catalog search: %w", err)
		}
		categories = all.Facets["category"]
	}

	out := domain.Result{Total: int(res.Total), Facets: []domain.Facet{termFacet(categories), bandFacet(res.Facets["price"])}}
	hits := res.Hits
	if len(hits) > q.PageSize {
		hits = hits[:q.PageSize]
		last := hits[len(hits)-1]
		out.Next = &domain.Place{Value: place(q.Sort, last), ID: last.ID}
	}
	for _, h := range hits {
		out.IDs = append(out.IDs, h.ID)
	}
	return out, nil
}

// order is the sort value with the id behind it: a total order.
func order(sort string) search.SortOrder {
	var first search.SearchSort
	switch sort {
	case domain.ByRelevance:
		first = &search.SortScore{Desc: true}
	case domain.ByPrice, domain.ByPriceDesc:
		first = &search.SortField{Field: fieldPrice, Type: search.SortFieldAsNumber, Desc: sort == domain.ByPriceDesc}
	case domain.ByUpdated:
		first = &search.SortField{Field: fieldUpdated, Type: search.SortFieldAsNumber, Desc: true}
	default:
		first = &search.SortField{Field: fieldSortName, Type: search.SortFieldAsString}
	}
	return search.SortOrder{first, &search.SortDocID{}}
}

func place(sort string, hit *search.DocumentMatch) string {
	switch {
	case sort == domain.ByRelevance:
		return strconv.FormatFloat(hit.Score, 'g', -1, 64)
	case len(hit.DecodedSort) > 0:
		return hit.DecodedSort[0]
	}
	return hit.Sort[0]
}

// CheckPlace says whether value can stand in a Place for the given sort.
func CheckPlace(sort, value string) bool {
	if sort == domain.ByName {
		return true
	}
	_, err := strconv.ParseFloat(value, 64)
	return err == nil
}

func (x *Index) query(q domain.Query, withCategory bool) query.Query {
	var all []query.Query
	if words := x.terms(q.Text); len(words) > 0 {
		for _, w := range words {
			all = append(all, wordQuery(w))
		}
	} else if q.Text != "" && !onlyStopWords(q.Text) {
		return bleve.NewMatchNoneQuery()
	}
	if withCategory && q.Category != "" {
		t := bleve.NewTermQuery(q.Category)
		t.SetField(fieldCategoryIs)
		all = append(all, t)
	}
	if q.MinPrice > 0 || q.MaxPrice > 0 {
		all = append(all, between(fieldPrice, float64(q.MinPrice), float64(q.MaxPrice)))
	}
	if q.InStock {
		all = append(all, between(fieldInStock, 1, 1))
	}
	if len(all) == 0 {
		return bleve.NewMatchAllQuery()
	}
	return bleve.NewConjunctionQuery(all...)
}

// terms takes a text apart as the index does: lower case, stems, no stop words.
func (x *Index) terms(text string) []string {
	var out []string
	for _, t := range x.words.Analyze([]byte(text)) {
		if len(out) == maxWords {
			break
		}
		out = append(out, string(t.Term))
	}
	return out
}

// onlyStopWords reports whether a text that has no terms has letters or digits at
// all: "the" finds everything, "!!!" nothing.
func onlyStopWords(text string) bool {
	for _, r := range text {
		if r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 0x7f {
			return true
		}
	}
	return false
}

// wordQuery finds one word: in the name before the category before the text, as a
// beginning, and with one typing error.
func wordQuery(word string) query.Query {
	term := func(field string, boost float64) query.Query {
		t := bleve.NewTermQuery(word)
		t.SetField(field)
		t.SetBoost(boost)
		return t
	}
	begins := bleve.NewPrefixQuery(word)
	begins.SetField(fieldName)
	begins.SetBoost(1.5)
	any := []query.Query{term(fieldName, 4), term(fieldCategory, 2), term(fieldDescription, 1), begins}
	if len(word) >= fuzzyFrom {
		near := bleve.NewFuzzyQuery(word)
		near.SetField(fieldName)
		near.SetFuzziness(1)
		near.SetBoost(0.5)
		any = append(any, near)
	}
	return bleve.NewDisjunctionQuery(any...)
}

// between is min ≤ field ≤ max; a max of 0 is no bound.
func between(field string, lo, hi float64) query.Query {
	yes := true
	upper := &hi
	if hi == 0 {
		upper = nil
	}
	r := bleve.NewNumericRangeInclusiveQuery(&lo, upper, &yes, &yes)
	r.SetField(field)
	return r
}

func termFacet(f *search.FacetResult) domain.Facet {
	out := domain.Facet{Field: "category"}
	if f != nil && f.Terms != nil {
		for _, t := range f.Terms.Terms() {
			out.Values = append(out.Values, domain.FacetValue{Value: t.Term, Count: t.Count})
		}
	}
	return out
}

// bandFacet lists the price bands in their own order, not by count.
func bandFacet(f *search.FacetResult) domain.Facet {
	out := domain.Facet{Field: "price"}
	if f == nil {
		return out
	}
	counts := map[string]int{}
	for _, r := range f.NumericRanges {
		counts[r.Name] = r.Count
	}
	for _, b := range bands {
		if n := counts[b.name]; n > 0 {
			out.Values = append(out.Values, domain.FacetValue{Value: b.name, Count: n})
		}
	}
	return out
}
