package transport

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"

	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/catalog/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Topics: Topic is what the catalogue tells, StockTopic what it listens to.
const (
	Topic      = "catalog"
	StockTopic = "stock"
)

// StockType is the event that says whether a product can be had.
var StockType = protoevents.Type(&inventoryv1.StockLevelChanged{})

// Encode makes the event that other services read, keyed by the product.
func Encode(e domain.Event) (events.Event, error) {
	switch e := e.(type) {
	case domain.Created:
		return protoevents.New("", Topic, e.Product.ID,
			&catalogv1.ProductCreated{Product: message(e.Product), InitialStock: e.InitialStock})
	case domain.Updated:
		return protoevents.New("", Topic, e.Product.ID, &catalogv1.ProductUpdated{Product: message(e.Product)})
	}
	return events.Event{}, fmt.Errorf("catalog: no encoding for the event %T", e)
}

// Shelf is where availability is recorded.
type Shelf interface {
	SetInStock(ctx context.Context, tx sqldb.Tx, id string, inStock bool) (known bool, err error)
}

// StockLevelChanged handles the inventory service's event: one transaction with
// the inbox's mark.
func StockLevelChanged(shelf Shelf, log *slog.Logger) inbox.Handler[*sql.Tx] {
	return func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		var level inventoryv1.StockLevelChanged
		if err := protoevents.Decode(e, &level); err != nil {
			return inbox.Permanent(err) // the same bytes will never decode
		}
		known, err := shelf.SetInStock(ctx, sqldb.StdTx(tx), level.GetProductId(), level.GetAvailable() > 0)
		if err == nil && !known {
			// Inventory learns of products from here, so this is one that is gone.
			log.InfoContext(ctx, "stock level of a product that is not in the catalogue", "product_id", level.GetProductId())
		}
		return err
	}
}
