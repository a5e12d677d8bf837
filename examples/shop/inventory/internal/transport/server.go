package transport

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"net/http"
	"time"

	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/store"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// defaultPage is the page size where the caller names none.
const defaultPage = 100

// Server is the gRPC service, for operators.
type Server struct {
	inventoryv1.UnimplementedInventoryServiceServer
	db       *sqldb.DB
	handlers *Handlers
}

// NewServer returns the gRPC service over a database.
func NewServer(db *sqldb.DB, h *Handlers) *Server { return &Server{db: db, handlers: h} }

// AdjustStock corrects the stock of a product.
func (s *Server) AdjustStock(ctx context.Context, req *inventoryv1.AdjustStockRequest) (*inventoryv1.AdjustStockResponse, error) {
	var change domain.Change
	err := sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) (err error) {
		change, err = domain.Adjust(ctx, s.handlers.shelf(tx), req.GetProductId(), int64(req.GetDelta()), req.GetReason(), time.Now())
		if err != nil {
			return err
		}
		return s.handlers.Tell(ctx, tx, []domain.Change{change})
	})
	switch {
	case errors.Is(err, domain.ErrUnknownProduct):
		return nil, problem.New(http.StatusNotFound, "product_not_found", "there is no such product").Because(err)
	case errors.Is(err, domain.ErrInsufficient):
		return nil, problem.New(http.StatusConflict, "stock_promised", "that would take away stock that is promised to orders").Because(err)
	case err != nil:
		return nil, err
	}
	return &inventoryv1.AdjustStockResponse{Stock: message(change.After)}, nil
}

// ListStock lists the levels by product id.
func (s *Server) ListStock(ctx context.Context, req *inventoryv1.ListStockRequest) (*inventoryv1.ListStockResponse, error) {
	size := int(req.GetPageSize())
	if size == 0 {
		size = defaultPage
	}
	after, err := base64.RawURLEncoding.DecodeString(req.GetPageToken())
	if err != nil {
		return nil, problem.Invalid(problem.Field{Field: "page_token", Message: "is not a page token of this list", Rule: "page_token"})
	}
	// One more than asked for tells whether there is a next page.
	levels, err := store.List(ctx, s.db, string(after), size+1)
	if err != nil {
		return nil, err
	}
	out := &inventoryv1.ListStockResponse{}
	if len(levels) > size {
		levels = levels[:size]
		out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(levels[size-1].ProductID))
	}
	for _, l := range levels {
		out.Stock = append(out.Stock, message(l))
	}
	return out, nil
}

func message(l domain.Level) *inventoryv1.Stock {
	return &inventoryv1.Stock{
		ProductId: l.ProductID, OnHand: int32(l.OnHand), Reserved: int32(l.Reserved), Available: int32(l.Available()),
	}
}
