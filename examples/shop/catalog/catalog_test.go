package catalog_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

func TestMain(m *testing.M) {
	// bleve starts its analysis workers when the package is loaded, for the process.
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

func TestService(t *testing.T) {
	world, broker, db := servicetest.New(t), memevents.New(nil), servicetest.DB(t, "catalog")
	began := time.Now()
	wire := func(ctx context.Context, svc *kit.Service) error {
		return catalog.New(ctx, svc, catalog.Config{DB: db, Broker: broker, Seed: true})
	}
	svc := world.Start(t, catalog.Name, nil, catalog.Policy, wire)
	t.Logf("started and seeded in %v", time.Since(began))
	client := catalogv1.NewCatalogServiceClient(world.Conn(t, "gateway", catalog.Name))

	list, err := client.ListProducts(t.Context(), &catalogv1.ListProductsRequest{Q: "napkins"})
	if err != nil || list.GetTotal() < 3 {
		t.Fatalf("search: %v, %v", list, err)
	}
	servicetest.Until(t, "every product is told", func() bool {
		return len(broker.Events("catalog")) == 250
	})

	// Stock is told by the inventory service; until then nothing can be had.
	id := list.GetProducts()[0].GetId()
	inStock := func(want int32) func() bool {
		return func() bool {
			have, err := client.ListProducts(t.Context(), &catalogv1.ListProductsRequest{Q: "napkins", InStock: true})
			return err == nil && have.GetTotal() == want
		}
	}
	servicetest.Until(t, "nothing is in stock yet", inStock(0))
	for seq, available := range []int32{7, 0} {
		e, err := protoevents.New("", "stock", id, &inventoryv1.StockLevelChanged{ProductId: id, Available: available})
		if err != nil {
			t.Fatal(err)
		}
		e.ID, e.Source, e.Time, e.KeySeq = fmt.Sprint("e", seq), "inventory", time.Now(), int64(seq+1)
		if err := broker.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		servicetest.Until(t, "the index knows the stock", inStock(min(available, 1)))
	}

	create := &catalogv1.CreateProductRequest{Name: "Astrolabe", Category: "Travel", Price: &commonv1.Money{AmountMinor: 9900, Currency: "EUR"}}
	for who, ctx := range map[string]context.Context{
		"nobody": t.Context(), "a customer": world.As(t.Context(), t, "usr_1", "shop"),
	} {
		if _, err := client.CreateProduct(ctx, create); err == nil {
			t.Errorf("%s put a product on sale", who)
		}
	}
	if _, err := client.CreateProduct(world.As(t.Context(), t, "usr_2", "shop:admin"), create); err != nil {
		t.Error(err)
	}
	stranger := catalogv1.NewCatalogServiceClient(world.Conn(t, "payment", catalog.Name))
	if _, err := stranger.GetProduct(t.Context(), &catalogv1.GetProductRequest{Id: id}); status.Code(err) == codes.OK {
		t.Error("a service that has no business here was answered")
	}
	if _, err := client.GetProduct(t.Context(), &catalogv1.GetProductRequest{Id: ""}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an empty id: %v", err)
	}

	servicetest.Until(t, "all is told", func() bool {
		f, err := catalog.Audit(t.Context(), db)
		return err == nil && f.Products == 251 && f.Outbox.Empty() && f.DeadLetters == 0
	})

	// A second start finds its products and seeds nothing.
	svc.Stop()
	world.Start(t, catalog.Name, nil, catalog.Policy, wire)
	if f, err := catalog.Audit(t.Context(), db); err != nil || f.Products != 251 || f.Outbox.Unpublished != 0 {
		t.Errorf("after a restart: %+v, %v", f, err)
	}
}
