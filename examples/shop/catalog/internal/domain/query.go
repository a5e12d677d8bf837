package domain

// Orders that a search can be sorted by.
const (
	ByRelevance = ""
	ByName      = "name"
	ByPrice     = "price"
	ByPriceDesc = "-price"
	ByUpdated   = "-updated"
)

// Page sizes.
const (
	DefaultPageSize = 24
	MaxPageSize     = 100
)

// Query is one search.
type Query struct {
	Text               string
	Category           string
	MinPrice, MaxPrice int32 // minor units; 0 is no bound
	InStock            bool  // only what is in stock
	Sort               string
	PageSize           int
	// After is the place of the last product already seen, nil for the first page.
	After *Place
}

// Normalize fills in what was left out and checks the rest. The error is a
// *FieldError.
func (q Query) Normalize() (Query, error) {
	if q.PageSize == 0 {
		q.PageSize = DefaultPageSize
	}
	if q.PageSize < 1 || q.PageSize > MaxPageSize {
		return q, &FieldError{"page_size", "must be 1 to 100, or 0 for 24"}
	}
	switch q.Sort {
	case ByRelevance:
		if q.Text == "" {
			q.Sort = ByName
		}
	case ByName, ByPrice, ByPriceDesc, ByUpdated:
	default:
		return q, &FieldError{"sort", `must be "", "name", "price", "-price" or "-updated"`}
	}
	switch {
	case q.MinPrice < 0:
		return q, &FieldError{"min_price", "must not be negative"}
	case q.MaxPrice < 0:
		return q, &FieldError{"max_price", "must not be negative"}
	case q.MaxPrice > 0 && q.MaxPrice < q.MinPrice:
		return q, &FieldError{"max_price", "must not be below min_price"}
	}
	return q, nil
}

// Place is a position in a sorted result: the sort value and, to break ties, the
// id. A page begins after a place and not at an offset, so a product created or
// removed meanwhile neither repeats nor hides another one.
type Place struct {
	Value string
	ID    string
}

// Result is one page of matches.
type Result struct {
	IDs []string
	// Next is where the next page begins; nil after the last one.
	Next *Place
	// Total counts all matches.
	Total  int
	Facets []Facet
}

// Facet counts the matches by one field. The category facet leaves the search's
// own category aside, so that the others stay in sight.
type Facet struct {
	Field  string
	Values []FacetValue
}

// FacetValue is one value and how many matches have it.
type FacetValue struct {
	Value string
	Count int
}
