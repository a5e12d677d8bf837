package lease

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// leaveTimeout bounds the good-bye of a node whose context has ended.
const leaveTimeout = 3 * time.Second

// Run is a member of the group until ctx ends. It joins, beats, and calls work,
// whose context ends with the cause ErrLost where the membership may have been
// lost; when work has then returned, Run joins under a new id and calls work
// again. A database that cannot be reached is waited for.
//
// Run returns nil once ctx has ended and the node has left, or else what work
// returned of its own accord.
func Run(ctx context.Context, db *sqldb.DB, cfg *Config, work func(ctx context.Context, n *Node) error) error {
	c, err := cfg.resolve()
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		n, err := Join(ctx, db, &c)
		if err != nil {
			if ctx.Err() == nil {
				c.Logger.WarnContext(ctx, "cannot join; will try again", slog.String("group", c.Group), slog.Any("error", err))
			}
			pause(ctx, c.TTL/10)
			continue
		}
		lost, err := n.run(ctx, work)
		if !lost {
			return err
		}
		// A node of ours that is thought dead is not to bury its own successor.
		c.Exclusive = false
		c.Logger.WarnContext(ctx, "membership lost; joining again", slog.String("group", c.Group), slog.String("node", n.id))
	}
	return nil
}

// run calls work while the heart beats.
func (n *Node) run(ctx context.Context, work func(context.Context, *Node) error) (lost bool, err error) {
	wctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	beating := make(chan struct{})
	bctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	go func() {
		defer close(beating)
		if n.beatUntil(bctx) {
			cancel(ErrLost)
		}
	}()
	// The heart beats on while work finishes after ctx has ended: what it does
	// until it returns is still under its leases.
	err = work(wctx, n)
	stop()
	<-beating
	lost = errors.Is(context.Cause(wctx), ErrLost)
	leaving, cancelLeave := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancelLeave()
	if e := n.Leave(leaving); e != nil {
		n.cfg.Logger.DebugContext(ctx, "could not leave; the row will expire", slog.String("node", n.id), slog.Any("error", e))
	}
	if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
		return false, nil
	}
	return lost, err
}

// beatUntil beats until ctx ends (false) or the membership may be lost (true).
func (n *Node) beatUntil(ctx context.Context) bool {
	for {
		wait := n.cfg.TTL / 3
		if pause(ctx, wait) {
			return false
		}
		for {
			bctx, cancel := context.WithDeadline(ctx, n.validUntil)
			err := n.Beat(bctx)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return false
			}
			if errors.Is(err, ErrLost) || !time.Now().Before(n.validUntil) {
				return true
			}
			n.cfg.Logger.WarnContext(ctx, "heart-beat failed; will try again", slog.String("node", n.id), slog.Any("error", err))
			if pause(ctx, n.cfg.TTL/10) {
				return false
			}
		}
	}
}

// pause waits and reports whether ctx ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return true
	case <-t.C:
		return ctx.Err() != nil
	}
}

// Share keeps a fair share of the named leases (their number divided by the
// living nodes, rounded up) and calls run for each in a goroutine of its own.
// run's context ends when ctx does or when the lease is to be given to another
// node; the lease is released once run has returned. Where run returns by
// itself, the lease is released and may be claimed again after a while.
// Share returns when ctx has ended and every run has returned.
func (n *Node) Share(ctx context.Context, names []string, run func(ctx context.Context, l Lease) error) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancelAll := context.WithCancel(ctx)
	defer cancelAll()

	var mu sync.Mutex
	held := map[string]context.CancelFunc{} // nil value: being given up
	hold := func(l Lease) {
		rctx, cancel := context.WithCancel(ctx)
		mu.Lock()
		held[l.Name] = cancel
		mu.Unlock()
		wg.Go(func() {
			defer cancel()
			err := run(rctx, l)
			if err != nil && rctx.Err() == nil {
				n.cfg.Logger.ErrorContext(ctx, "leased work ended; it will be claimed again", slog.String("lease", l.Name), slog.Any("error", err))
			}
			release, done := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
			defer done()
			if err := l.Release(release); err != nil {
				n.cfg.Logger.WarnContext(ctx, "lease not released; will try again", slog.String("lease", l.Name), slog.Any("error", err))
			}
			mu.Lock()
			delete(held, l.Name)
			mu.Unlock()
		})
	}
	for {
		if err := n.balance(ctx, names, &mu, held, hold); err != nil && ctx.Err() == nil {
			n.cfg.Logger.WarnContext(ctx, "cannot balance leases; will try again", slog.String("group", n.cfg.Group), slog.Any("error", err))
		}
		if pause(ctx, n.cfg.TTL/3) {
			return nil
		}
	}
}

// balance gives up what is above the fair share and claims what is missing.
func (n *Node) balance(ctx context.Context, names []string, mu *sync.Mutex, held map[string]context.CancelFunc, hold func(Lease)) error {
	if err := n.settle(ctx); err != nil {
		return err
	}
	live, err := n.Live(ctx)
	if err != nil {
		return err
	}
	live = max(live, 1)
	fair := (len(names) + live - 1) / live
	mu.Lock()
	have := 0
	for _, cancel := range held {
		if cancel != nil {
			have++
		}
	}
	for _, name := range slices.Backward(names) {
		if have <= fair {
			break
		}
		if cancel := held[name]; cancel != nil {
			cancel()
			held[name] = nil
			have--
		}
	}
	mu.Unlock()
	if have >= fair {
		return nil
	}
	leases, err := n.Claim(ctx, names, fair-have)
	for _, l := range leases {
		hold(l)
	}
	if err != nil {
		return fmt.Errorf("lease: share: %w", err)
	}
	return nil
}
