package transport

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/inventory/internal/store"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// sweepBatch bounds how many reservations one look finds.
const sweepBatch = 100

// Sweeper ends reservations whose time has passed. Any number of replicas may
// run one: each reservation is locked and looked at again before it ends.
type Sweeper struct {
	DB       *sqldb.DB
	Handlers *Handlers
	Every    time.Duration
	Logger   *slog.Logger
}

// Run sweeps until ctx ends.
func (s *Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(s.Every)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.Logger.ErrorContext(ctx, "expiring reservations failed; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Sweep ends what is due now, each in a transaction of its own.
func (s *Sweeper) Sweep(ctx context.Context) error {
	due, err := store.Due(ctx, s.DB, time.Now(), sweepBatch)
	if err != nil {
		return err
	}
	var failed error
	for _, order := range due {
		err := sqldb.InTx(ctx, s.DB, func(ctx context.Context, tx *sql.Tx) error {
			changes, err := domain.Expire(ctx, s.Handlers.shelf(tx), order, time.Now())
			if err != nil {
				return err
			}
			return s.Handlers.Tell(ctx, tx, changes)
		})
		failed = errors.Join(failed, err) // the others go on
	}
	return failed
}
