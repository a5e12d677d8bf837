package search

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/seed"
)

// bleve starts its analysis workers when the package is loaded, for the process.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m, goleak.IgnoreCurrent()) }

// table is a Source in memory.
type table struct {
	mu   sync.Mutex
	rows map[string]domain.Product
}

func (t *table) put(p domain.Product) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rows == nil {
		t.rows = map[string]domain.Product{}
	}
	t.rows[p.ID] = p
}

func (t *table) ChangedSince(_ context.Context, since time.Time) ([]domain.Product, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []domain.Product
	for _, p := range t.rows {
		if !p.UpdatedAt.Before(since) {
			out = append(out, p)
		}
	}
	return out, nil
}

func seeded(t *testing.T) (*table, *Index) {
	t.Helper()
	return seededWithHint(t, nil)
}

func seededWithHint(t *testing.T, hint <-chan struct{}) (*table, *Index) {
	t.Helper()
	drafts, err := seed.Drafts()
	if err != nil {
		t.Fatal(err)
	}
	tab := &table{}
	for i, d := range drafts {
		p, err := d.Product(time.UnixMicro(1_700_000_000_000_000 + int64(i)))
		if err != nil {
			t.Fatal(err)
		}
		p.InStock = i%10 != 0
		tab.put(p)
	}
	x, err := New(t.Context(), tab, hint, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := x.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab, x
}

func find(t *testing.T, x *Index, q domain.Query) domain.Result {
	t.Helper()
	q, err := q.Normalize()
	if err != nil {
		t.Fatal(err)
	}
	res, err := x.Search(t.Context(), q)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestSearchFindsWordsStemsBeginningsAndTypos(t *testing.T) {
	_, x := seeded(t)
	for _, c := range []struct{ text, first string }{
		{"linen napkins", "linen-napkins-set-of-4"},
		{"NAPKIN linen", "linen-napkins-set-of-4"},
		{"chef", "chef-s-knife-20-cm"},
		{"skil", "cast-iron-skillet-20-cm"},
		{"comppass", "compass-baseplate"},
		{"the compass", "compass-baseplate"},
	} {
		res := find(t, x, domain.Query{Text: c.text, PageSize: 3})
		if !slices.Contains(res.IDs, c.first) {
			t.Errorf("%q found %v, want %s among the first three", c.text, res.IDs, c.first)
		}
	}
	for _, nothing := range []string{"zzzzzz", "!!!", "napkin zzzzzz"} {
		if res := find(t, x, domain.Query{Text: nothing}); res.Total != 0 {
			t.Errorf("%q found %v, want nothing", nothing, res.IDs)
		}
	}
}

func TestFilters(t *testing.T) {
	tab, x := seeded(t)
	res := find(t, x, domain.Query{Category: "Garden", MinPrice: 1000, MaxPrice: 2000, InStock: true, PageSize: 100})
	want := 0
	for _, p := range tab.rows {
		if p.Category == "Garden" && p.PriceMinor >= 1000 && p.PriceMinor <= 2000 && p.InStock {
			want++
		}
	}
	if res.Total != want || len(res.IDs) != want || want == 0 {
		t.Fatalf("found %d (%d ids), want %d", res.Total, len(res.IDs), want)
	}
	for _, id := range res.IDs {
		p := tab.rows[id]
		if p.Category != "Garden" || p.PriceMinor < 1000 || p.PriceMinor > 2000 || !p.InStock {
			t.Errorf("%+v does not match", p)
		}
	}
}

func TestFacetsCountMatches(t *testing.T) {
	tab, x := seeded(t)
	res := find(t, x, domain.Query{Category: "Garden"})
	counts := map[string]int{}
	for _, f := range res.Facets {
		for _, v := range f.Values {
			counts[f.Field+"="+v.Value] = v.Count
		}
	}
	want := map[string]int{}
	for _, p := range tab.rows {
		want["category="+p.Category]++ // of all categories: the facet leaves its own filter aside
	}
	for k, n := range want {
		if counts[k] != n {
			t.Errorf("facet %s = %d, want %d", k, counts[k], n)
		}
	}
	priced := 0
	for k, n := range counts {
		if strings.HasPrefix(k, "price=") {
			priced += n
		}
	}
	if priced != res.Total {
		t.Errorf("price facets add up to %d, want the %d matches", priced, res.Total)
	}
}

func TestPagesCoverEverythingOnceUnderWrites(t *testing.T) {
	for _, sort := range []string{domain.ByName, domain.ByPrice, domain.ByPriceDesc, domain.ByUpdated} {
		t.Run(sort, func(t *testing.T) {
			tab, x := seeded(t)
			before := len(tab.rows)
			seen := map[string]int{}
			var ids []string
			q := domain.Query{Sort: sort, PageSize: 17}
			for page := 0; ; page++ {
				res := find(t, x, q)
				for _, id := range res.IDs {
					seen[id]++
					ids = append(ids, id)
				}
				if res.Next == nil {
					break
				}
				q.After = res.Next
				// A product that sorts to the front comes in between two pages.
				tab.put(domain.Product{ID: fmt.Sprint("aaa-", page), Name: "AAA", Category: "Garden", PriceMinor: 1, Revision: 1,
					UpdatedAt: time.UnixMicro(1_700_000_100_000_000 + int64(page))})
				if err := x.Refresh(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for id, p := range tab.rows {
				if n := seen[id]; n != 1 && !strings.HasPrefix(id, "aaa-") {
					t.Errorf("%s (%d) was seen %d times", id, p.PriceMinor, n)
				}
			}
			if len(ids) < before {
				t.Errorf("%d products on all pages, want at least %d", len(ids), before)
			}
			sorted := slices.IsSortedFunc(ids, func(a, b string) int {
				pa, pb := tab.rows[a], tab.rows[b]
				switch sort {
				case domain.ByPrice:
					return int(pa.PriceMinor - pb.PriceMinor)
				case domain.ByPriceDesc:
					return int(pb.PriceMinor - pa.PriceMinor)
				case domain.ByUpdated:
					return pb.UpdatedAt.Compare(pa.UpdatedAt)
				}
				return strings.Compare(strings.ToLower(pa.Name), strings.ToLower(pb.Name))
			})
			if !sorted {
				t.Errorf("not in order: %v", ids)
			}
		})
	}
}

func TestRelevancePages(t *testing.T) {
	_, x := seeded(t)
	seen := map[string]bool{}
	q := domain.Query{Text: "set", PageSize: 5}
	var total int
	for {
		res := find(t, x, q)
		total = res.Total
		for _, id := range res.IDs {
			if seen[id] {
				t.Errorf("%s stands on two pages", id)
			}
			seen[id] = true
		}
		if res.Next == nil {
			break
		}
		q.After = res.Next
	}
	if len(seen) != total || total < 10 {
		t.Errorf("%d products on all pages, want the total of %d", len(seen), total)
	}
}

func TestRunFollowsTheTable(t *testing.T) {
	hint := make(chan struct{}, 1)
	tab, x := seededWithHint(t, hint)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- x.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	p := tab.rows["compass-baseplate"]
	p.Name, p.Revision, p.UpdatedAt = "Astrolabe, brass", p.Revision+1, time.Now()
	tab.put(p)
	deadline := time.Now().Add(5 * time.Second)
	for find(t, x, domain.Query{Text: "astrolabe"}).Total != 1 {
		if time.Now().After(deadline) {
			t.Fatal("the edited product was not found")
		}
		select {
		case hint <- struct{}{}:
		default:
		}
	}
	if res := find(t, x, domain.Query{Text: "baseplate"}); slices.Contains(res.IDs, "compass-baseplate") &&
		!strings.Contains(p.Description, "baseplate") {
		t.Error("the old name is still found")
	}
}

func BenchmarkBuild(b *testing.B) {
	drafts, err := seed.Drafts()
	if err != nil {
		b.Fatal(err)
	}
	tab := &table{}
	for _, d := range drafts {
		p, err := d.Product(time.Now())
		if err != nil {
			b.Fatal(err)
		}
		tab.put(p)
	}
	for b.Loop() {
		x, err := New(b.Context(), tab, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		if err := x.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
