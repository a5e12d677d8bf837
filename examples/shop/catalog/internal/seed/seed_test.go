package seed

import (
	"testing"
	"time"
)

func TestDraftsAreProducts(t *testing.T) {
	drafts, err := Drafts()
	if err != nil {
		t.Fatal(err)
	}
	if len(drafts) < 240 || len(drafts) > 300 {
		t.Errorf("%d products, want a few hundred", len(drafts))
	}
	ids := map[string]string{}
	categories := map[string]int{}
	for _, d := range drafts {
		p, err := d.Product(time.Unix(0, 0))
		if err != nil {
			t.Errorf("%q: %v", d.Name, err)
		}
		if other, taken := ids[p.ID]; taken {
			t.Errorf("%q and %q share the id %q", other, d.Name, p.ID)
		}
		ids[p.ID] = d.Name
		categories[p.Category]++
	}
	if len(categories) != 8 {
		t.Errorf("categories: %v, want 8", categories)
	}
}

func TestParseNamesTheLine(t *testing.T) {
	for _, bad := range []string{"Pan | 12 | 3 | text", "== Kitchen", "== K | m\nPan | x | 3 | text", "== K | m\nPan | 1 | x | text", "== K | m\nPan | 1"} {
		if _, err := parse(bad); err == nil {
			t.Errorf("parse(%q): no error", bad)
		}
	}
}
