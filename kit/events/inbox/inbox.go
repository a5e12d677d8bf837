package inbox

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Config tunes [New]. The zero value is ready to use.
type Config struct {
	// Retention is how long marks are kept. Keep it longer than the outbox's
	// retention and the stream's maximum age together, for so long an event may
	// come again. Defaults to 9 days: an outbox's day, a stream's week, and one.
	Retention time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Inbox remembers which events a consumer has handled. It is safe for
// concurrent use and holds no connection.
type Inbox struct {
	dialect sqldb.Dialect
	cfg     Config
}

// New returns an Inbox. Its tables come from [Migrations]. [Consumer] has one of
// its own; use New to mark events by hand.
func New(d sqldb.Dialect, cfg *Config) *Inbox {
	i := &Inbox{dialect: d}
	if cfg != nil {
		i.cfg = *cfg
	}
	if i.cfg.Retention <= 0 {
		i.cfg.Retention = 9 * 24 * time.Hour
	}
	if i.cfg.Now == nil {
		i.cfg.Now = time.Now
	}
	return i
}

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_inbox"

//go:embed migrations
var migrations embed.FS

// Migrations returns the inbox's tables as goose migrations (plain up and down
// SQL) for the dialect. Their set is [Set].
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // only a malformed path fails, and ours are constants
	}
	return sub
}

// Mark records in the caller's transaction that consumer handles the event.
// first is false where it was handled before: commit then without repeating the
// effect. Make it the first statement of the transaction that holds the effect;
// on PostgreSQL a second transaction that marks the same event waits for the
// first to end.
func (i *Inbox) Mark(ctx context.Context, tx sqldb.Execer, consumer, eventID string) (first bool, err error) {
	if consumer == "" || eventID == "" {
		return false, fmt.Errorf("inbox: mark: consumer %q, event %q: both are needed", consumer, eventID)
	}
	res, err := tx.ExecContext(ctx, `INSERT INTO napkin_inbox (consumer, event_id, handled) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		consumer, eventID, sqldb.Micros(i.cfg.Now()))
	if err != nil {
		return false, fmt.Errorf("inbox: mark event %s: %w", eventID, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("inbox: mark event %s: %w", eventID, err)
	}
	return n == 1, nil
}

// markAll is Mark for several events, in one statement; first[i] is that of ids[i].
// An event that is in ids twice is first once.
func (i *Inbox) markAll(ctx context.Context, tx sqldb.Tx, consumer string, ids []string) (first []bool, err error) {
	first = make([]bool, len(ids))
	if len(ids) == 1 {
		first[0], err = i.Mark(ctx, tx, consumer, ids[0])
		return first, err
	}
	sorted := slices.Sorted(slices.Values(ids)) // two that mark the same events take turns
	arg, err := json.Marshal(sorted)
	if err != nil {
		return nil, err
	}
	from := `SELECT CAST($1 AS text), value, CAST($3 AS bigint) FROM json_array_elements_text(CAST($2 AS json))`
	if i.dialect == sqldb.SQLite {
		from = `SELECT $1, value, $3 FROM json_each($2) WHERE true`
	}
	rows, err := tx.Query(ctx, `INSERT INTO napkin_inbox (consumer, event_id, handled) `+from+` ON CONFLICT DO NOTHING RETURNING event_id`,
		consumer, string(arg), sqldb.Micros(i.cfg.Now()))
	if err != nil {
		return nil, fmt.Errorf("inbox: mark %d events: %w", len(ids), err)
	}
	defer rows.Close()
	marked := make(map[string]bool, len(ids))
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("inbox: mark %d events: %w", len(ids), err)
		}
		marked[id] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("inbox: mark %d events: %w", len(ids), err)
	}
	for n, id := range ids {
		first[n] = marked[id]
		delete(marked, id)
	}
	return first, nil
}

// trimBatch removes up to 1000 marks past the retention, of all consumers.
func (i *Inbox) trimBatch(ctx context.Context, tx sqldb.Execer) (int64, error) {
	query := `DELETE FROM napkin_inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM napkin_inbox WHERE handled < $1 LIMIT 1000))`
	if i.dialect == sqldb.SQLite {
		// Rowids are in the order of insertion, so only the oldest rows are read.
		query = `DELETE FROM napkin_inbox WHERE rowid IN (
			SELECT rowid FROM (SELECT rowid, handled FROM napkin_inbox ORDER BY rowid LIMIT 1000) WHERE handled < $1)`
	}
	res, err := tx.ExecContext(ctx, query, sqldb.Micros(i.cfg.Now().Add(-i.cfg.Retention)))
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}
