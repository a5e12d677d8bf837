package outbox

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// errNoTx refuses what is no transaction.
var errNoTx = errors.New("outbox: append inside the transaction that holds the effect: pass its *sql.Tx")

// Append writes the events in the caller's transaction: they are published if
// and only if it commits. tx is its *sql.Tx or pgxdb.Tx; a *sql.DB is refused, for
// its events would commit without the effect. Append fills the ID where it is
// empty, Source, Time, KeySeq, and from ctx the correlation and causation IDs,
// the user's ID and the trace context where they are empty. Where a Runner
// opened the transaction, the relay of this process wakes after its commit.
//
// On PostgreSQL the events of one call are one statement, so give many at once
// where you have them. (Several at once need a driver that takes slices as
// arrays, as pgx does.)
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
	if err := o.insert(ctx, tx, stamped); err != nil {
		if e := stamped[0]; len(stamped) == 1 {
			return fmt.Errorf("outbox: append event %s of type %s: %w", e.ID, e.Type, err)
		}
		return fmt.Errorf("outbox: append %d events: %w", len(stamped), err)
	}
	var touched parts
	for _, e := range stamped {
		touched = touched.with(o.part(e))
	}
	sqldb.AfterCommit(ctx, func() { o.wake(touched) }) // else the relay's poll finds them
	return nil
}

// part returns the order that the event is in: its partition, or on SQLite the
// only one.
func (o *Outbox) part(e events.Event) int {
	if o.dialect == sqldb.SQLite {
		return 0
	}
	return e.Partition()
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
	// segments is the number of tables in the ring of PostgreSQL.
	segments = 4

	countKeySQL = `INSERT INTO napkin_outbox_key (topic, key, seq) VALUES ($1, $2, 1)
ON CONFLICT (topic, key) DO UPDATE SET seq = seq + 1`
	insertSQLiteSQL = `INSERT INTO napkin_outbox (topic, key, key_seq, event_id, attributes, data, created)
SELECT $1, $2, coalesce((SELECT seq FROM napkin_outbox_key WHERE topic = $1 AND key = $2), 0), $3, $4, $5, $6`
)

// The relay knows by the transaction's xid when an id that it skipped can no
// longer appear, so the transaction takes its xid first and its ids after: CASE
// evaluates its condition before its result.
const nextIDSQL = `CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval(%s::text::regclass) END`

var (
	insertKeylessSQL = perSegment(`INSERT INTO napkin_outbox_%d (part, id, topic, key, key_seq, event_id, attributes, data, created)
SELECT $1::smallint, ` + fmt.Sprintf(nextIDSQL, "$8") + `, $2::text, $3::text, 0, $4::text, $5::bytea, $6::bytea, $7::bigint`)

	// One statement, one round trip. The upsert comes first: it waits for the
	// key's other writers, and only then the row takes its id.
	insertKeyedSQL = perSegment(`WITH k AS (
	INSERT INTO napkin_outbox_key AS t (topic, key, seq) VALUES ($2::text, $3::text, 1)
	ON CONFLICT (topic, key) DO UPDATE SET seq = t.seq + 1 RETURNING seq)
INSERT INTO napkin_outbox_%d (part, id, topic, key, key_seq, event_id, attributes, data, created)
SELECT $1::smallint, ` + fmt.Sprintf(nextIDSQL, "$8") + `, $2::text, $3::text, k.seq, $4::text, $5::bytea, $6::bytea, $7::bigint FROM k`)

	// The same for many: each key is counted once, keys are locked in one order,
	// and ids are taken in the order given.
	insertManySQL = perSegment(`WITH e AS MATERIALIZED (
	SELECT * FROM unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bytea[], $8::text[])
	WITH ORDINALITY AS e (part, topic, key, event_id, attributes, data, sequence, place)),
k AS (
	INSERT INTO napkin_outbox_key AS t (topic, key, seq)
	SELECT topic, key, count(*) FROM e WHERE key <> '' GROUP BY topic, key ORDER BY topic, key
	ON CONFLICT (topic, key) DO UPDATE SET seq = t.seq + excluded.seq RETURNING topic, key, seq)
INSERT INTO napkin_outbox_%d (part, id, topic, key, key_seq, event_id, attributes, data, created)
SELECT part, ` + fmt.Sprintf(nextIDSQL, "sequence") + `, topic, key, key_seq, event_id, attributes, data, $7::bigint
FROM (SELECT e.*, coalesce(k.seq - count(*) OVER (PARTITION BY e.topic, e.key)
		+ row_number() OVER (PARTITION BY e.topic, e.key ORDER BY e.place), 0) AS key_seq
	FROM e LEFT JOIN k USING (topic, key) ORDER BY e.place) AS ordered`)
)

// perSegment is a statement for each table of the ring.
func perSegment(query string) (out [segments]string) {
	for i := range out {
		out[i] = fmt.Sprintf(query, i)
	}
	return out
}

// sequences names the sequence of each partition.
var sequences = func() (out [events.Partitions]string) {
	for i := range out {
		out[i] = fmt.Sprintf("napkin_outbox_seq_%02d", i)
	}
	return out
}()

// segment is the table of the ring that is written to at present. It is chosen by
// this process's clock; one that is wrong does no harm, since a segment is
// emptied by what it holds.
func (o *Outbox) segment() int {
	return int(o.cfg.Now().UnixMicro() / max(1, (o.cfg.Retention/2).Microseconds()) % segments)
}

func (o *Outbox) insert(ctx context.Context, tx sqldb.Execer, evs []events.Event) error {
	created := sqldb.Micros(o.cfg.Now())
	if o.dialect == sqldb.SQLite {
		return insertSQLite(ctx, tx, evs, created)
	}
	seg := o.segment()
	if len(evs) == 1 {
		e := evs[0]
		attributes, err := json.Marshal(e.Attributes())
		if err != nil {
			return err
		}
		query := insertKeyedSQL[seg]
		if e.Key == "" {
			query = insertKeylessSQL[seg]
		}
		part := e.Partition()
		_, err = tx.ExecContext(ctx, query, part, e.Topic, e.Key, e.ID, attributes, stored(e.Data), created, sequences[part])
		return err
	}
	n := len(evs)
	part, topics, keys, ids, seqs := make([]int16, n), make([]string, n), make([]string, n), make([]string, n), make([]string, n)
	attributes, data := make([][]byte, n), make([][]byte, n)
	for i, e := range evs {
		p := e.Partition()
		part[i], topics[i], keys[i], ids[i], seqs[i], data[i] = int16(p), e.Topic, e.Key, e.ID, sequences[p], stored(e.Data) //nolint:gosec // below 64
		var err error
		if attributes[i], err = json.Marshal(e.Attributes()); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, insertManySQL[seg], part, topics, keys, ids, attributes, data, created, seqs)
	return err
}

func insertSQLite(ctx context.Context, tx sqldb.Execer, evs []events.Event, created int64) error {
	for _, e := range evs {
		attributes, err := json.Marshal(e.Attributes())
		if err != nil {
			return err
		}
		if e.Key != "" {
			if _, err := tx.ExecContext(ctx, countKeySQL, e.Topic, e.Key); err != nil {
				return err
			}
		}
		if _, err := tx.ExecContext(ctx, insertSQLiteSQL, e.Topic, e.Key, e.ID, attributes, stored(e.Data), created); err != nil {
			return err
		}
	}
	return nil
}

// stored is the data as the column takes it, which is NOT NULL: no data is empty
// data.
func stored(data []byte) []byte {
	if data == nil {
		return []byte{}
	}
	return data
}
