package inventory_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/saga"
)

// pacts is where the shop keeps its contracts.
const pacts = "../contracts/pacts"

// The catalogue tells of a product, and order's commands move its stock.
func TestContracts(t *testing.T) {
	contracttest.Need(t)
	broker := memevents.New(nil)
	w := &warehouse{t: t, world: servicetest.New(t), db: servicetest.DB(t, "inventory")}
	w.world.Start(t, inventory.Name, nil, inventory.Policy, func(ctx context.Context, svc *kit.Service) error {
		return inventory.New(ctx, svc, inventory.Config{DB: w.db, Broker: broker})
	})
	contracttest.Consumer{Name: inventory.Name, Provider: "catalog", Dir: pacts}.Event(t, contracttest.Event{
		Name: "a product was put on sale", Topic: "catalog", Attributes: map[string]any{"partitionkey": match.Like("mug")},
		Schema: protoevents.Type(&catalogv1.ProductCreated{}),
		Data:   match.Object{"product": match.Object{"id": match.Like("mug")}, "initial_stock": match.Integer(9)},
	}, func(ctx context.Context, msg contracttest.Message) error {
		e, err := msg.Event()
		if err != nil {
			return err
		}
		if err := servicetest.Tell(ctx, broker, e); err != nil {
			return err
		}
		return servicetest.Await(ctx, "the product is in stock", func() bool { return w.mug().Received == 9 })
	})

	consumer := contracttest.Consumer{Name: inventory.Name, Provider: "order", Dir: pacts}
	command := func(name, order string, phases []saga.Phase, step string, m proto.Message, data match.Object, answer string) {
		t.Helper()
		data["order_id"] = match.Like(order)
		phase := match.Enum(string(phases[0]))
		if len(phases) > 1 {
			phase = match.Enum(string(phases[0]), string(phases[1]))
		}
		consumer.Event(t, contracttest.Event{
			Name: name, Topic: "inventory-commands", Data: data, Schema: protoevents.Type(m),
			Attributes: map[string]any{
				"partitionkey": match.Like(order), saga.ExtID: match.Like(order), saga.ExtPhase: phase,
				saga.ExtStep: match.Regex("checkout/"+order+"/"+step, ".+/.+/.+"),
			},
		}, func(ctx context.Context, msg contracttest.Message) error {
			e, err := msg.Event()
			if err != nil {
				return err
			}
			if err := servicetest.Tell(ctx, broker, e); err != nil {
				return err
			}
			return servicetest.Await(ctx, fmt.Sprintf("%s is answered by %s", name, answer), func() bool {
				for _, r := range broker.Events("inventory") {
					if r.Type == answer && r.Key == e.Key && r.Extension(saga.ExtOutcome) == saga.OutcomeOKValue {
						return true
					}
				}
				return false
			})
		})
	}
	do, undo := []saga.Phase{saga.PhaseDo}, []saga.Phase{saga.PhaseUndo}
	command("reserve the stock of an order", "ord_1", do, "reserve-stock", &inventoryv1.ReserveStock{}, match.Object{
		"items": match.EachLike(&commonv1.Line{ProductId: "mug", Quantity: 2}), "expires_at": match.Time(time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)),
	}, reserved)
	command("commit the stock of an order", "ord_1", do, "commit-stock", &inventoryv1.CommitStock{}, match.Object{}, sold)
	command("take the goods of an order back", "ord_1", append(do, undo...), "restock", &inventoryv1.RestockItems{}, match.Object{}, restocks)
	command("release the stock of an order", "ord_2", undo, "reserve-stock", &inventoryv1.ReleaseStock{}, match.Object{}, saga.ReplyType)
}
