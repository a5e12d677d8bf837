// Package transport is inventory's edge: gRPC calls, and commands, replies and
// events over the broker.
package transport

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/store"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/participant"
)

// Topics: the first three are this service's, the last is the catalogue's.
const (
	CommandTopic = "inventory-commands"
	EventTopic   = "inventory"
	StockTopic   = "stock"
	CatalogTopic = "catalog"
)

// Outbox takes the events of a transaction.
type Outbox interface {
	Append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error
}

// Handlers apply commands and events to the shelf. They are safe for concurrent
// use.
type Handlers struct {
	runner      sqldb.Runner[*sql.Tx]
	outbox      Outbox
	participant *participant.Participant
}

// NewHandlers returns the handlers of a database.
func NewHandlers(db *sqldb.DB, ob Outbox, p *participant.Participant) *Handlers {
	return &Handlers{runner: sqldb.Std(db), outbox: ob, participant: p}
}

// Register gives the handlers to the consumer.
func (h *Handlers) Register(c *inbox.Consumer[*sql.Tx]) {
	do := func(m proto.Message, handler participant.Handler[*sql.Tx]) {
		c.Handle(CommandTopic, protoevents.Type(m), participant.Do(h.participant, h.runner, handler))
	}
	undo := func(m proto.Message, handler participant.Handler[*sql.Tx]) {
		c.Handle(CommandTopic, protoevents.Type(m), participant.Undo(h.participant, h.runner, handler))
	}
	do(&inventoryv1.ReserveStock{}, h.reserve)
	undo(&inventoryv1.ReleaseStock{}, h.release)
	do(&inventoryv1.CommitStock{}, h.commit)
	c.Handle(CommandTopic, protoevents.Type(&inventoryv1.RestockItems{}), h.doOrUndo(h.restock))
	c.Handle(CatalogTopic, protoevents.Type(&catalogv1.ProductCreated{}), h.productCreated)
}

// doOrUndo serves a command that one saga sends to undo a step and another as a
// step of its own: RestockItems undoes CommitStock, and is the second step of a
// refund.
func (h *Handlers) doOrUndo(handler participant.Handler[*sql.Tx]) inbox.Handler[*sql.Tx] {
	do := participant.Do(h.participant, h.runner, handler)
	undo := participant.Undo(h.participant, h.runner, handler)
	return func(ctx context.Context, tx *sql.Tx, cmd events.Event) error {
		if participant.IsUndo(cmd) {
			return undo(ctx, tx, cmd)
		}
		return do(ctx, tx, cmd)
	}
}

func (h *Handlers) reserve(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m inventoryv1.ReserveStock
	if err := decode(cmd, &m); err != nil {
		return events.Event{}, err
	}
	lines := make([]domain.Line, len(m.GetItems()))
	for i, l := range m.GetItems() {
		lines[i] = domain.Line{ProductID: l.GetProductId(), Quantity: int64(l.GetQuantity())}
	}
	changes, rejection, err := domain.Reserve(ctx, h.shelf(tx), m.GetOrderId(), lines, m.GetExpiresAt().AsTime(), time.Now())
	return h.answer(ctx, tx, cmd, changes, rejection, err, &inventoryv1.StockReserved{OrderId: m.GetOrderId()})
}

func (h *Handlers) commit(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m inventoryv1.CommitStock
	if err := decode(cmd, &m); err != nil {
		return events.Event{}, err
	}
	changes, rejection, err := domain.Commit(ctx, h.shelf(tx), m.GetOrderId(), time.Now())
	return h.answer(ctx, tx, cmd, changes, rejection, err, &inventoryv1.StockCommitted{OrderId: m.GetOrderId()})
}

func (h *Handlers) release(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m inventoryv1.ReleaseStock
	if err := decode(cmd, &m); err != nil {
		return events.Event{}, err
	}
	changes, err := domain.Release(ctx, h.shelf(tx), m.GetOrderId(), time.Now())
	return h.answer(ctx, tx, cmd, changes, nil, err, &inventoryv1.StockReleased{OrderId: m.GetOrderId()})
}

func (h *Handlers) restock(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m inventoryv1.RestockItems
	if err := decode(cmd, &m); err != nil {
		return events.Event{}, err
	}
	changes, err := domain.Restock(ctx, h.shelf(tx), m.GetOrderId(), time.Now())
	return h.answer(ctx, tx, cmd, changes, nil, err, &inventoryv1.StockRestocked{OrderId: m.GetOrderId()})
}

// answer makes the reply of a command and tells of the products that became
// available or unavailable, in the command's transaction.
func (h *Handlers) answer(ctx context.Context, tx *sql.Tx, cmd events.Event,
	changes []domain.Change, rejection *domain.Rejection, err error, yes proto.Message,
) (events.Event, error) {
	if err != nil {
		return events.Event{}, err
	}
	if err := h.Tell(ctx, tx, changes); err != nil {
		return events.Event{}, err
	}
	m := yes
	if rejection != nil {
		m = &inventoryv1.StockRejected{OrderId: cmd.Key, Reason: rejection.Reason, ProductIds: rejection.ProductIDs}
	}
	reply, err := protoevents.New("", EventTopic, cmd.Key, m)
	if err != nil {
		return events.Event{}, inbox.Permanent(err)
	}
	if rejection != nil {
		return reply, saga.Refuse(rejection.Reason)
	}
	return reply, nil
}

// Tell appends a StockLevelChanged for each product whose availability changed.
func (h *Handlers) Tell(ctx context.Context, tx *sql.Tx, changes []domain.Change) error {
	for _, c := range net(changes) {
		if !c.Flipped() {
			continue
		}
		e, err := protoevents.New("", StockTopic, c.After.ProductID, &inventoryv1.StockLevelChanged{
			ProductId: c.After.ProductID, Available: int32(min(c.After.Available(), 1<<31-1)),
		})
		if err != nil {
			return fmt.Errorf("inventory: tell of stock: %w", err)
		}
		if err := h.outbox.Append(ctx, tx, e); err != nil {
			return err
		}
	}
	return nil
}

// net joins the changes of one product: one that flipped and flipped back in
// the same transaction is no news.
func net(changes []domain.Change) []domain.Change {
	var joined []domain.Change
	at := map[string]int{}
	for _, c := range changes {
		if i, ok := at[c.After.ProductID]; ok {
			joined[i].After = c.After
			continue
		}
		at[c.After.ProductID] = len(joined)
		joined = append(joined, c)
	}
	return joined
}

// productCreated opens the stock of a new product.
func (h *Handlers) productCreated(ctx context.Context, tx *sql.Tx, e events.Event) error {
	var m catalogv1.ProductCreated
	if err := decode(e, &m); err != nil {
		return err
	}
	changes, err := domain.Receive(ctx, h.shelf(tx), m.GetProduct().GetId(), int64(m.GetInitialStock()), time.Now())
	if err != nil {
		return err
	}
	return h.Tell(ctx, tx, changes)
}

func (h *Handlers) shelf(tx *sql.Tx) domain.Shelf {
	return store.Shelf(h.runner.Wrap(tx), h.runner.Dialect())
}

func decode(e events.Event, m proto.Message) error {
	if err := protoevents.Decode(e, m); err != nil {
		return inbox.Permanent(err) // the same bytes will never decode
	}
	return nil
}
