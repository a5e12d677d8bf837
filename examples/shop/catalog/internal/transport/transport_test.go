package transport_test

import (
	"context"
	"database/sql"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/search"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/seed"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/transport"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

type fixture struct {
	server  *transport.Server
	store   *store.Store
	index   *search.Index
	catalog *domain.Catalog
	db      *sqldb.DB
}

// newFixture is the service without its chassis, over SQLite and the demo catalogue.
func newFixture(t *testing.T) fixture {
	t.Helper()
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for set, fsys := range map[string]func() error{
		"outbox":  func() error { return migrate.Up(t.Context(), db, "napkin_outbox", outbox.Migrations(db.Dialect)) },
		"catalog": func() error { return migrate.Up(t.Context(), db, "catalog", store.Migrations()) },
	} {
		if err := fsys(); err != nil {
			t.Fatal(set, err)
		}
	}
	ob, err := outbox.New(db.Dialect, "catalog", nil)
	if err != nil {
		t.Fatal(err)
	}
	st := store.New(db, ob, transport.Encode, func() {})
	drafts, err := seed.Drafts()
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := domain.New(st, nil, time.Now).Seed(t.Context(), drafts); err != nil {
		t.Fatal(err)
	}
	t.Logf("seeded in %v", time.Since(begin))
	index, err := search.New(t.Context(), st, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = index.Close() })
	c := domain.New(st, index, time.Now)
	return fixture{transport.NewServer(c), st, index, c, db}
}

func TestListWalksAllPages(t *testing.T) {
	f := newFixture(t)
	seen := map[string]bool{}
	req := &catalogv1.ListProductsRequest{Sort: "price", PageSize: 60}
	for {
		resp, err := f.server.ListProducts(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range resp.GetProducts() {
			if seen[p.GetId()] || p.GetPrice().GetCurrency() != "EUR" || p.GetImageUrl() == "" {
				t.Errorf("seen before or incomplete: %v", p)
			}
			seen[p.GetId()] = true
		}
		if resp.GetNextPageToken() == "" {
			if int(resp.GetTotal()) != len(seen) || len(resp.GetFacets()) != 2 {
				t.Errorf("total %d, %d seen, facets %v", resp.GetTotal(), len(seen), resp.GetFacets())
			}
			return
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

// swapped is the token with its first letter, six bits of its sum, replaced by another.
func swapped(token string) string {
	if token[0] == 'A' {
		return "B" + token[1:]
	}
	return "A" + token[1:]
}

func TestPageTokensAreChecked(t *testing.T) {
	f := newFixture(t)
	first, err := f.server.ListProducts(t.Context(), &catalogv1.ListProductsRequest{PageSize: 5})
	if err != nil {
		t.Fatal(err)
	}
	good := first.GetNextPageToken()
	for name, req := range map[string]*catalogv1.ListProductsRequest{
		"not base64":           {PageToken: "%%%"},
		"of nothing":           {PageToken: "AAAAAAAAAAAAAAAA"},
		"altered":              {PageToken: swapped(good)},
		"shortened":            {PageToken: good[:8]},
		"of another search":    {PageToken: good, Q: "napkin"},
		"of another sort":      {PageToken: good, Sort: "price"},
		"of another category":  {PageToken: good, Category: "Garden"},
		"with something added": {PageToken: good + "A"},
	} {
		_, err := f.server.ListProducts(t.Context(), req)
		p := kit.Problem(err)
		if err == nil || p.Status != http.StatusBadRequest || len(p.Fields) != 1 || p.Fields[0].Field != "page_token" {
			t.Errorf("token %s: %v", name, err)
		}
	}
	if _, err := f.server.ListProducts(t.Context(), &catalogv1.ListProductsRequest{PageToken: good, PageSize: 50}); err != nil {
		t.Errorf("another page size: %v", err)
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	f := newFixture(t)
	eur := &commonv1.Money{AmountMinor: 100, Currency: "EUR"}
	for _, c := range []struct {
		name   string
		call   func(context.Context) error
		status int
		field  string
	}{
		{"unknown", func(ctx context.Context) error {
			_, err := f.server.GetProduct(ctx, &catalogv1.GetProductRequest{Id: "nope"})
			return err
		}, http.StatusNotFound, ""},
		{"update of an unknown", func(ctx context.Context) error {
			_, err := f.server.UpdateProduct(ctx, &catalogv1.UpdateProductRequest{Id: "nope"})
			return err
		}, http.StatusNotFound, ""},
		{"exists", func(ctx context.Context) error {
			_, err := f.server.CreateProduct(ctx, &catalogv1.CreateProductRequest{Name: "Compass, baseplate", Category: "Travel", Price: eur})
			return err
		}, http.StatusConflict, ""},
		{"free of charge", func(ctx context.Context) error {
			_, err := f.server.CreateProduct(ctx, &catalogv1.CreateProductRequest{Name: "Air", Category: "Travel", Price: &commonv1.Money{Currency: "EUR"}})
			return err
		}, http.StatusBadRequest, "price.amount_minor"},
		{"prices crossed", func(ctx context.Context) error {
			_, err := f.server.ListProducts(ctx, &catalogv1.ListProductsRequest{MinPrice: 2, MaxPrice: 1})
			return err
		}, http.StatusBadRequest, "max_price"},
	} {
		err := c.call(t.Context())
		p := kit.Problem(err)
		if err == nil || p.Status != c.status {
			t.Errorf("%s: status %d (%v), want %d", c.name, p.Status, err, c.status)
		}
		if c.field != "" && (len(p.Fields) != 1 || p.Fields[0].Field != c.field) {
			t.Errorf("%s: fields %v, want %s", c.name, p.Fields, c.field)
		}
	}
}

func TestCreatedProductIsFoundAndStockFollowsEvents(t *testing.T) {
	f := newFixture(t)
	created, err := f.server.CreateProduct(t.Context(), &catalogv1.CreateProductRequest{
		Name: "Astrolabe", Category: "Travel", Price: &commonv1.Money{AmountMinor: 12345, Currency: "EUR"}, InitialStock: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.index.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := func(inStock bool) int32 {
		t.Helper()
		resp, err := f.server.ListProducts(t.Context(), &catalogv1.ListProductsRequest{Q: "astrolabe", InStock: inStock})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetTotal()
	}
	if list(true) != 0 {
		t.Error("a product is in stock before inventory said so")
	}
	handle := transport.StockLevelChanged(f.store, slog.New(slog.DiscardHandler))
	tell := func(id string, available int32) {
		t.Helper()
		e, err := protoevents.New("", transport.StockTopic, id, &inventoryv1.StockLevelChanged{ProductId: id, Available: available})
		if err != nil {
			t.Fatal(err)
		}
		if e.Type != transport.StockType {
			t.Errorf("type %s, want %s", e.Type, transport.StockType)
		}
		if err := sqldb.InTx(t.Context(), f.db, func(ctx context.Context, tx *sql.Tx) error { return handle(ctx, tx, e) }); err != nil {
			t.Fatal(err)
		}
		if err := f.index.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	tell(created.GetProduct().GetId(), 1)
	if list(true) != 1 {
		t.Error("a product in stock is not found")
	}
	tell(created.GetProduct().GetId(), 0)
	tell("unknown", 0)
	if list(true) != 0 || list(false) != 1 {
		t.Error("a product out of stock is found as in stock, or not at all")
	}
	bad, err := protoevents.New("", transport.StockTopic, "x", &inventoryv1.StockReserved{OrderId: "x"})
	if err != nil {
		t.Fatal(err)
	}
	err = sqldb.InTx(t.Context(), f.db, func(ctx context.Context, tx *sql.Tx) error { return handle(ctx, tx, bad) })
	if !inbox.IsPermanent(err) {
		t.Errorf("an event that cannot be read: %v, want a permanent failure", err)
	}
}

func TestImages(t *testing.T) {
	f := newFixture(t)
	mux := http.NewServeMux()
	mux.Handle("GET /images/{file}", transport.Images(f.catalog))
	get := func(path, etag string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		r.Header.Set("If-None-Match", etag)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		return w
	}
	w := get("/images/compass-baseplate.svg", "")
	if w.Code != http.StatusOK || !strings.HasPrefix(w.Body.String(), "<svg") || w.Header().Get("Content-Type") != "image/svg+xml" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := get("/images/compass-baseplate.svg", w.Header().Get("ETag")); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("known image: %d with %d bytes", w.Code, w.Body.Len())
	}
	for _, path := range []string{"/images/nope.svg", "/images/compass-baseplate.png"} {
		if w := get(path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
