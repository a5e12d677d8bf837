package outbox

import (
	"context"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// hold calls lead whenever this relay holds the outbox's lease, until ctx ends.
// The epoch fences earlier holders off: every write of a leader names its own.
func (r *Relay) hold(ctx context.Context, lead func(ctx context.Context, epoch int64)) error {
	cfg := &lease.Config{
		Group:  "outbox",
		TTL:    r.cfg.LeaseTTL,
		Logger: r.cfg.Logger,
		// A SQLite file belongs to one process: a restart need not wait for the
		// lease of its predecessor.
		Exclusive: r.db.Dialect == sqldb.SQLite,
	}
	return lease.Run(ctx, r.db, cfg, func(ctx context.Context, n *lease.Node) error {
		return n.Share(ctx, []string{"outbox"}, func(ctx context.Context, l lease.Lease) error {
			lead(ctx, l.Epoch)
			return nil
		})
	})
}
