package catalog_test

import (
	"context"
	"testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/catalog"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

// Inventory says what can be had, and the read model shows it.
func TestContractWithInventory(t *testing.T) {
	contracttest.Need(t)
	world, broker, db := servicetest.New(t), memevents.New(nil), servicetest.DB(t, "catalog")
	world.Start(t, catalog.Name, nil, catalog.Policy, func(ctx context.Context, svc *kit.Service) error {
		return catalog.New(ctx, svc, catalog.Config{DB: db, Broker: broker, Seed: true})
	})
	client := catalogv1.NewCatalogServiceClient(world.Conn(t, "gateway", catalog.Name))
	const product = "compass-baseplate"
	contracttest.Consumer{Name: catalog.Name, Provider: "inventory", Dir: "../contracts/pacts"}.Event(t, contracttest.Event{
		Name: "a product came into stock", Topic: "stock", Attributes: map[string]any{"partitionkey": match.Like(product)},
		Data: &inventoryv1.StockLevelChanged{ProductId: product, Available: 7}, Schema: protoevents.Type(&inventoryv1.StockLevelChanged{}),
	}, func(ctx context.Context, msg contracttest.Message) error {
		e, err := msg.Event()
		if err != nil {
			return err
		}
		if err := servicetest.Tell(ctx, broker, e); err != nil {
			return err
		}
		return servicetest.Await(ctx, "the catalogue has it in stock", func() bool {
			resp, err := client.GetProduct(ctx, &catalogv1.GetProductRequest{Id: product})
			return err == nil && resp.GetProduct().GetInStock()
		})
	})
}
