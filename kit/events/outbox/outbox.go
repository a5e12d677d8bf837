package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Config tunes [New]. The zero value is ready to use.
type Config struct {
	// Hooks carry the trace context into events; Inject is used.
	Hooks events.Hooks
	// MaxData bounds an event's data, in bytes. Larger ones are refused by
	// Append, where their author sees it, rather than by the broker, where they
	// would hold up their key. Defaults to 512 KiB (NATS takes 1 MiB at most).
	MaxData int
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Outbox writes events into the caller's transactions. It is safe for
// concurrent use and holds no connection.
type Outbox struct {
	dialect sqldb.Dialect
	source  string
	cfg     Config

	mu    sync.Mutex
	wakes map[chan struct{}]struct{} // one for each running relay
}

// New returns an Outbox. source becomes the Source of every event: the
// service's name. The tables come from [Migrations].
func New(d sqldb.Dialect, source string, cfg *Config) (*Outbox, error) {
	o := &Outbox{dialect: d, source: source, wakes: make(map[chan struct{}]struct{})}
	if cfg != nil {
		o.cfg = *cfg
	}
	if !d.Valid() {
		return nil, fmt.Errorf("outbox: dialect %v: use sqldb.Postgres or sqldb.SQLite", d)
	}
	if source == "" || len(source) > events.MaxNameLength {
		return nil, fmt.Errorf("outbox: source %q: give the service's name, at most %d bytes", source, events.MaxNameLength)
	}
	if o.cfg.MaxData < 0 {
		return nil, fmt.Errorf("outbox: MaxData %d: must not be negative", o.cfg.MaxData)
	}
	if o.cfg.MaxData == 0 {
		o.cfg.MaxData = 512 << 10
	}
	if o.cfg.Now == nil {
		o.cfg.Now = time.Now
	}
	return o, nil
}

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_outbox"

//go:embed migrations
var migrations embed.FS

// Migrations returns the outbox's tables as goose migrations (plain up and down
// SQL) for the dialect. Their set is [Set].
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // only a malformed path fails, and ours are constants
	}
	return sub
}

// errNoTx refuses what is no transaction.
var errNoTx = errors.New("outbox: append inside the transaction that holds the effect: pass its *sql.Tx")

// Append writes the events in the caller's transaction: they are published if
// and only if it commits. tx is its *sql.Tx or pgxdb.Tx; a *sql.DB is refused, for
// its events would commit without the effect. Append fills the ID where it is empty, Source, Time,
// KeySeq, and from ctx the correlation and causation IDs, the user's ID and the
// trace context where they are empty. Where a Runner opened the transaction,
// the relay of this process wakes after its commit.
//
// Writers of one topic and key take turns from Append to their commit. Within
// one call events of different keys may be stored in another order than given,
// so that two such calls never wait for each other crosswise.
//
// An event that breaks the rules is refused with events.ErrInvalid; nothing of
// the call is written then. After any other error roll the transaction back.
func (o *Outbox) Append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error {
	if _, ok := tx.(*sql.DB); ok {
		return errNoTx
	}
	if len(evs) == 0 {
		return nil
	}
	stamped := make([]events.Event, len(evs))
	for i, e := range evs {
		e, err := o.stamp(ctx, e)
		if err != nil {
			return err
		}
		stamped[i] = e
	}
	slices.SortStableFunc(stamped, func(a, b events.Event) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Key, b.Key))
	})
	for _, e := range stamped {
		if err := o.insert(ctx, tx, e); err != nil {
			return fmt.Errorf("outbox: append event %s of type %s: %w", e.ID, e.Type, err)
		}
	}
	sqldb.AfterCommit(ctx, o.Wake) // else the relay's poll finds them
	return nil
}

func (o *Outbox) stamp(ctx context.Context, e events.Event) (events.Event, error) {
	if e.ID == "" {
		e.ID = correlation.NewID()
	}
	e.Source, e.KeySeq = o.source, 0
	if e.Time.IsZero() {
		e.Time = o.cfg.Now()
	}
	e.Time = e.Time.UTC().Truncate(time.Microsecond)
	ids := correlation.From(ctx)
	e.CorrelationID = cmp.Or(e.CorrelationID, ids.CorrelationID, ids.RequestID, e.ID)
	e.CausationID = cmp.Or(e.CausationID, ids.CausationID, ids.RequestID)
	e.UserID = cmp.Or(e.UserID, ids.UserID)
	if e.TraceParent == "" {
		o.cfg.Hooks.InjectInto(ctx, &e)
	}
	if err := e.Validate(); err != nil {
		return e, fmt.Errorf("outbox: event of type %q: %w", e.Type, err)
	}
	if len(e.Data) > o.cfg.MaxData {
		return e, fmt.Errorf("outbox: event of type %q: %w: Data is %d bytes; at most %d are allowed (outbox.Config.MaxData)", e.Type, events.ErrInvalid, len(e.Data), o.cfg.MaxData)
	}
	return e, nil
}

const (
	insertKeylessSQL = `INSERT INTO napkin_outbox (part, topic, key, key_seq, event_id, attributes, data, created)
VALUES ($1, $2, $3, 0, $4, $5, $6, $7)`

	// One statement, one round trip. The upsert comes first: it waits for the
	// key's other writers, and only then the row takes its id.
	insertPostgresSQL = `WITH k AS (
	INSERT INTO napkin_outbox_key AS t (topic, key, seq) VALUES ($2::text, $3::text, 1)
	ON CONFLICT (topic, key) DO UPDATE SET seq = t.seq + 1 RETURNING seq)
INSERT INTO napkin_outbox (part, topic, key, key_seq, event_id, attributes, data, created)
SELECT $1::smallint, $2::text, $3::text, k.seq, $4::text, $5::bytea, $6::bytea, $7::bigint FROM k`

	countKeySQL = `INSERT INTO napkin_outbox_key (topic, key, seq) VALUES ($1, $2, 1)
ON CONFLICT (topic, key) DO UPDATE SET seq = seq + 1`
	insertSQLiteSQL = `INSERT INTO napkin_outbox (part, topic, key, key_seq, event_id, attributes, data, created)
SELECT $1, $2, $3, (SELECT seq FROM napkin_outbox_key WHERE topic = $2 AND key = $3), $4, $5, $6, $7`
)

func (o *Outbox) insert(ctx context.Context, tx sqldb.Execer, e events.Event) error {
	attributes, err := json.Marshal(e.Attributes())
	if err != nil {
		return err
	}
	data := e.Data
	if data == nil {
		data = []byte{} // the column is NOT NULL: no data is empty data
	}
	query := insertKeylessSQL
	if e.Key != "" {
		query = insertPostgresSQL
		if o.dialect == sqldb.SQLite {
			query = insertSQLiteSQL
			if _, err := tx.ExecContext(ctx, countKeySQL, e.Topic, e.Key); err != nil {
				return err
			}
		}
	}
	_, err = tx.ExecContext(ctx, query, e.Partition(), e.Topic, e.Key, e.ID, attributes, data, sqldb.Micros(o.cfg.Now()))
	return err
}

// Wake tells the relays of this process that there may be something to publish.
// It never blocks. Append calls it after the commit; call it yourself after
// committing a transaction that no Runner opened, or leave it to the poll.
func (o *Outbox) Wake() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for ch := range o.wakes {
		select {
		case ch <- struct{}{}:
		default: // it is awake already
		}
	}
}

func (o *Outbox) subscribe() (wake <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	o.mu.Lock()
	o.wakes[ch] = struct{}{}
	o.mu.Unlock()
	return ch, func() {
		o.mu.Lock()
		delete(o.wakes, ch)
		o.mu.Unlock()
	}
}
