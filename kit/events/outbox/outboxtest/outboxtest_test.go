package outboxtest_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/events/outbox/outboxtest"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

func TestOutboxPasses(t *testing.T) {
	harness := func(t testing.TB, db *sqldb.DB) outboxtest.Harness {
		if err := migrate.Up(t.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)); err != nil {
			t.Fatal(err)
		}
		ob, err := outbox.New(db.Dialect, "suite", nil)
		if err != nil {
			t.Fatal(err)
		}
		return outboxtest.Harness{DB: db, Append: ob.Append, Relay: func(ctx context.Context, p events.Publisher) error {
			r, err := outbox.NewRelay(db, ob, p, &outbox.RelayConfig{Poll: 20 * time.Millisecond, LeaseTTL: 15 * time.Second,
				MaxBackoff: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			return r.Run(ctx)
		}}
	}
	t.Run("sqlite", func(t *testing.T) {
		outboxtest.TestOutbox(t, func(t testing.TB) outboxtest.Harness {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "outbox.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			return harness(t, db)
		})
	})
	t.Run("postgres", func(t *testing.T) {
		outboxtest.TestOutbox(t, func(t testing.TB) outboxtest.Harness {
			h := harness(t, pgtest.DB(t))
			h.Other = pgtest.DB(t)
			return h
		})
	})
}

// naive is an outbox of one table, in one of the designs that do not work.
type naive struct {
	db *sqldb.DB
	// next reads unpublished rows; it may lock them.
	next string
}

const schema = `CREATE TABLE naive (xid xid8 DEFAULT pg_current_xact_id(), id bigserial PRIMARY KEY, event_id text, key text, key_seq bigint, sent bool DEFAULT false);
CREATE TABLE naive_key (key text PRIMARY KEY, seq bigint)`

func (n naive) append(ctx context.Context, tx sqldb.Execer, evs ...events.Event) error {
	for _, e := range evs {
		_, err := tx.ExecContext(ctx, `WITH k AS (INSERT INTO naive_key AS k VALUES ($2, 1) ON CONFLICT (key) DO UPDATE SET seq = k.seq + 1 RETURNING seq)
			INSERT INTO naive (event_id, key, key_seq) SELECT $1, $2, seq FROM k`, e.ID, e.Key)
		if err != nil {
			return err
		}
	}
	return nil
}

func (n naive) relay(ctx context.Context, p events.Publisher) error {
	cursor := int64(0)
	for ctx.Err() == nil {
		more := false
		err := sqldb.InTx(context.WithoutCancel(ctx), n.db, func(ctx context.Context, tx *sql.Tx) error {
			var e events.Event
			var id int64
			err := tx.QueryRowContext(ctx, n.next, cursor).Scan(&id, &e.ID, &e.Key, &e.KeySeq)
			if err == sql.ErrNoRows {
				return nil
			}
			if err != nil {
				return err
			}
			more = true
			if err := p.Publish(ctx, e); err != nil {
				more = false
				return nil
			}
			cursor = max(cursor, id)
			_, err = tx.ExecContext(ctx, `UPDATE naive SET sent = true WHERE id = $1`, id)
			return err
		})
		if err != nil {
			return err
		}
		if !more {
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// The suite fails what it is there to fail.
func TestTheSuiteFailsBrokenOutboxes(t *testing.T) {
	defer func(d time.Duration) { outboxtest.Patience = d }(outboxtest.Patience)
	outboxtest.Patience = 4 * time.Second
	const columns = `SELECT id, event_id, key, key_seq FROM naive WHERE `
	for fails, next := range map[string]string{
		// A cursor alone passes the id of a transaction that has not committed.
		"LateCommitter": columns + `id > $1 ORDER BY id LIMIT 1`,
		// A fence at the oldest transaction waits for everybody's.
		"TransactionInAnotherDatabase": columns + `id > $1 AND xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY id LIMIT 1`,
		// Relays that share rows take two of one key.
		"OneKeyTwoRelays": columns + `NOT sent AND $1::bigint >= 0 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED`,
	} {
		t.Run(fails, func(t *testing.T) {
			found := false
			for _, c := range outboxtest.Cases() {
				if c.Name != fails {
					continue
				}
				found = true
				db := pgtest.DB(t)
				if _, err := db.Write.ExecContext(t.Context(), schema); err != nil {
					t.Fatal(err)
				}
				n := naive{db: db, next: next}
				err := c.Run(t.Context(), outboxtest.Harness{DB: db, Other: pgtest.DB(t), Append: n.append, Relay: n.relay})
				if err == nil {
					t.Error("it passes")
				}
				t.Log(err)
			}
			if !found {
				t.Error(fmt.Errorf("no case %s", fails))
			}
		})
	}
}
