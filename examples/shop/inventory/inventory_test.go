package inventory_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/servicetest"
	"github.com/napkin-kit/napkin/examples/shop/inventory"
	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// warehouse is the service on a real broker, with stock of one product.
type warehouse struct {
	*servicetest.Commander
	t     *testing.T
	world *servicetest.World
	db    *sqldb.DB
}

func open(t *testing.T, stock int32) *warehouse {
	t.Helper()
	broker, err := natsevents.Connect(t.Context(), natstest.Start(t).Conn(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = broker.Close() })
	w := &warehouse{t: t, world: servicetest.New(t), db: servicetest.DB(t, "inventory")}
	w.world.Start(t, inventory.Name, nil, inventory.Policy, func(ctx context.Context, svc *kit.Service) error {
		return inventory.New(ctx, svc, inventory.Config{DB: w.db, Broker: broker, SweepEvery: 20 * time.Millisecond})
	})
	w.Commander = servicetest.NewCommander(t, broker, "inventory-commands", "inventory")
	e, err := protoevents.New("", "catalog", "mug", &catalogv1.ProductCreated{Product: &catalogv1.Product{Id: "mug"}, InitialStock: stock})
	if err != nil {
		t.Fatal(err)
	}
	e.ID, e.Source, e.Time = correlation.NewID(), "catalog", time.Now()
	if err := broker.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	servicetest.Until(t, "the product is in stock", func() bool { return w.mug().Received == int64(stock) })
	return w
}

func (w *warehouse) mug() inventory.ProductFacts {
	w.t.Helper()
	f, err := inventory.Audit(w.t.Context(), w.db)
	if err != nil {
		w.t.Fatal(err)
	}
	return f.Products["mug"]
}

func (w *warehouse) want(onHand, reserved, committed int64) {
	w.t.Helper()
	if m := w.mug(); m.OnHand != onHand || m.Reserved != reserved || m.Committed != committed || !m.LedgerAgrees {
		w.t.Errorf("stock %+v, want %d on hand, %d reserved, %d committed", m, onHand, reserved, committed)
	}
}

func (w *warehouse) answered(s servicetest.Step, n int, wantType, wantOutcome, wantReason string) {
	w.t.Helper()
	typ, outcome, reason := w.Await(s, n)
	if typ != wantType || outcome != wantOutcome || reason != wantReason {
		w.t.Errorf("answered %s %s %q, want %s %s %q", typ, outcome, reason, wantType, wantOutcome, wantReason)
	}
}

func reserve(order string, quantity int32, expires time.Time) *inventoryv1.ReserveStock {
	return &inventoryv1.ReserveStock{
		OrderId: order, Items: []*commonv1.Line{{ProductId: "mug", Quantity: quantity}}, ExpiresAt: timestamppb.New(expires),
	}
}

var (
	reserved = protoevents.Type(&inventoryv1.StockReserved{})
	rejected = protoevents.Type(&inventoryv1.StockRejected{})
	released = protoevents.Type(&inventoryv1.StockReleased{})
	sold     = protoevents.Type(&inventoryv1.StockCommitted{})
	restocks = protoevents.Type(&inventoryv1.StockRestocked{})
)

func later() time.Time { return time.Now().Add(time.Hour) }

func TestCommandsAreAnsweredOnce(t *testing.T) {
	w := open(t, 5)
	hold := servicetest.Step{Order: "o1", Name: "reserve-stock", Phase: saga.PhaseDo}
	w.Send(hold, reserve("o1", 2, later()))
	w.answered(hold, 1, reserved, "ok", "")
	w.Send(hold, reserve("o1", 2, later())) // the same step again: the stored answer, no second reservation
	w.answered(hold, 2, reserved, "ok", "")
	w.want(5, 2, 0)

	commit := servicetest.Step{Order: "o1", Name: "commit-stock", Phase: saga.PhaseDo}
	w.Send(commit, &inventoryv1.CommitStock{OrderId: "o1"})
	w.answered(commit, 1, sold, "ok", "")
	w.want(3, 0, 2)

	undo := servicetest.Step{Order: "o1", Name: "commit-stock", Phase: saga.PhaseUndo}
	w.Send(undo, &inventoryv1.RestockItems{OrderId: "o1"})
	w.answered(undo, 1, restocks, "ok", "")
	w.want(5, 0, 2) // what was sold counts for ever, and so does what came back

	unhold := servicetest.Step{Order: "o1", Name: "reserve-stock", Phase: saga.PhaseUndo}
	w.Send(unhold, &inventoryv1.ReleaseStock{OrderId: "o1"})
	w.answered(unhold, 1, released, "ok", "")
	w.want(5, 0, 2)

	greedy := servicetest.Step{Order: "o2", Name: "reserve-stock", Phase: saga.PhaseDo}
	w.Send(greedy, reserve("o2", 6, later()))
	w.answered(greedy, 1, rejected, "refused", "out_of_stock")
}

func TestUndoBeforeDo(t *testing.T) {
	w := open(t, 5)
	undo := servicetest.Step{Order: "o1", Name: "reserve-stock", Phase: saga.PhaseUndo}
	w.Send(undo, &inventoryv1.ReleaseStock{OrderId: "o1"})
	w.answered(undo, 1, saga.ReplyType, "ok", "")
	late := servicetest.Step{Order: "o1", Name: "reserve-stock", Phase: saga.PhaseDo}
	w.Send(late, reserve("o1", 2, later()))
	if _, outcome, _ := w.Await(late, 1); outcome != "refused" {
		t.Errorf("a Do after its Undo was answered %s", outcome)
	}
	w.want(5, 0, 0)

	expired := servicetest.Step{Order: "o2", Name: "reserve-stock", Phase: saga.PhaseDo, Expires: time.Now().Add(-time.Second)}
	w.Send(expired, reserve("o2", 2, later()))
	if _, outcome, _ := w.Await(expired, 1); outcome != "refused" {
		t.Errorf("an expired command was answered %s", outcome)
	}
	w.want(5, 0, 0)
}

func TestExpiredReservationAtCommit(t *testing.T) {
	w := open(t, 1)
	expireNow := func(order string) {
		t.Helper()
		hold := servicetest.Step{Order: order, Name: "reserve-stock", Phase: saga.PhaseDo}
		w.Send(hold, reserve(order, 1, time.Now()))
		w.answered(hold, 1, reserved, "ok", "")
		servicetest.Until(t, "the reservation has expired", func() bool {
			f, err := inventory.Audit(t.Context(), w.db)
			return err == nil && f.Reservations[order] == "expired"
		})
	}
	expireNow("o1")
	expireNow("o2") // the item was free again
	first := servicetest.Step{Order: "o1", Name: "commit-stock", Phase: saga.PhaseDo}
	w.Send(first, &inventoryv1.CommitStock{OrderId: "o1"})
	w.answered(first, 1, sold, "ok", "") // reserved again, and sold
	second := servicetest.Step{Order: "o2", Name: "commit-stock", Phase: saga.PhaseDo}
	w.Send(second, &inventoryv1.CommitStock{OrderId: "o2"})
	w.answered(second, 1, rejected, "refused", "out_of_stock")
	w.want(0, 0, 1)
}

func TestOperatorsAdjustStock(t *testing.T) {
	w := open(t, 2)
	client := inventoryv1.NewInventoryServiceClient(w.world.Conn(t, "gateway", inventory.Name))
	operator := w.world.As(t.Context(), t, "op", "shop:admin")
	resp, err := client.AdjustStock(operator, &inventoryv1.AdjustStockRequest{ProductId: "mug", Delta: -2, Reason: "broken"})
	if err != nil || resp.GetStock().GetAvailable() != 0 {
		t.Fatalf("%v %v", resp, err)
	}
	for _, c := range []struct {
		ctx     context.Context
		product string
		delta   int32
		want    codes.Code
	}{
		{operator, "mug", -1, codes.Aborted},
		{operator, "ghost", 1, codes.NotFound},
		{operator, "mug", 2_000_000, codes.InvalidArgument},
		{w.world.As(t.Context(), t, "ann", "shop"), "mug", 1, codes.PermissionDenied},
		{t.Context(), "mug", 1, codes.Unauthenticated},
	} {
		if _, err := client.AdjustStock(c.ctx, &inventoryv1.AdjustStockRequest{ProductId: c.product, Delta: c.delta}); status.Code(err) != c.want {
			t.Errorf("%d of %s: %v, want %v", c.delta, c.product, err, c.want)
		}
	}
	stranger := inventoryv1.NewInventoryServiceClient(w.world.Conn(t, "cart", inventory.Name))
	if _, err := stranger.ListStock(operator, &inventoryv1.ListStockRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a service without leave: %v", err)
	}
	list, err := client.ListStock(operator, &inventoryv1.ListStockRequest{PageSize: 1})
	if err != nil || !slices.ContainsFunc(list.GetStock(), func(s *inventoryv1.Stock) bool { return s.GetProductId() == "mug" }) || list.GetNextPageToken() != "" {
		t.Errorf("%v %v", list, err)
	}
}
