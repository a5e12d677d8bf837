package outbox

import (
	"context"
	"sync"
	"time"
)

// Row is a committed row of the outbox, as its table holds it.
type Row struct {
	// Part and ID name it; ids of a partition rise in the order of Append, not of
	// commits.
	Part int
	ID   int64
	// Topic, Key and KeySeq are the event's; Attributes are its others as JSON.
	Topic, Key       string
	KeySeq           int64
	Attributes, Data []byte
}

// Source is a second way for rows to reach a relay, such as PostgreSQL's logical
// decoding (package walsource). The tables stay what counts: cursors, holes,
// retries, going back and retention are the relay's own, and its poll reads the
// tables behind the source. So a source may hand over a row twice, or one that
// was published long ago or that another relay holds: the relay knows by the
// cursor and the holes of the row's partition what it has not published yet.
//
// A source keeps two rules. It hands over the rows of one key in the order of
// their commits. And it begins, when it starts again, with everything that was
// committed after what Recorded has spoken of.
type Source interface {
	// Next waits for committed rows and returns some, until ctx ends. An error is
	// logged, and Next is called again after a while.
	Next(ctx context.Context) ([]Row, error)
	// Recorded says that all rows handed over so far were dealt with: they are
	// published and recorded as such, or on a list of the relay in the database,
	// or not this relay's. The source may let go of them.
	Recorded(ctx context.Context) error
}

// feed holds what a source has handed over until it is recorded.
type feed struct {
	mu   sync.Mutex
	rows []Row         // not taken by a pass yet
	done chan struct{} // closed once the rows that were offered last are recorded
	took bool          // a pass took them
}

// offer gives the relay rows and returns a channel that is closed once they are
// recorded.
func (f *feed) offer(rows []Row) <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rows, f.done, f.took = rows, make(chan struct{}), false
	return f.done
}

func (f *feed) take() []Row {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := f.rows
	f.rows, f.took = nil, f.done != nil
	return rows
}

// recorded says that everything taken so far is recorded.
func (f *feed) recorded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.took {
		close(f.done)
		f.done, f.took = nil, false
	}
}

// follow hands over what the relay's source has, until the returned func is called.
func (r *Relay) follow(ctx context.Context, l *leader) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			rows, err := r.cfg.Source.Next(ctx)
			if err == nil && len(rows) > 0 {
				done := l.feed.offer(rows)
				l.woken.wake(0)
				select {
				case <-done:
					err = r.cfg.Source.Recorded(ctx)
				case <-ctx.Done():
				}
			}
			if err != nil && ctx.Err() == nil {
				r.cfg.Logger.WarnContext(ctx, "outbox: the source failed, trying again; the poll reads the tables meanwhile", "error", err)
				sleep(ctx, min(time.Second, r.cfg.MaxBackoff), nil)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}
