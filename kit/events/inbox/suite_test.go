package inbox_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/eventstest"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

// suited is an inbox.Consumer as the suite wants it.
type suited struct{ db *sqldb.DB }

func (s suited) MaxFailures() int { return 3 }

func (s suited) Run(ctx context.Context, name string, sub events.Subscriber, apply func(events.Event) error) error {
	c, err := inbox.NewConsumer(name, s.db, sqldb.Std(s.db), sub, &inbox.ConsumerConfig{
		MaxAttempts: s.MaxFailures(), Backoff: time.Millisecond, MaxBackoff: 20 * time.Millisecond, RedrivePoll: 20 * time.Millisecond, LeaseTTL: time.Second,
	})
	if err != nil {
		return err
	}
	c.Handle("suite", "suite.v1.Happened", func(ctx context.Context, tx *sql.Tx, e events.Event) error {
		if _, err := tx.ExecContext(ctx, `INSERT INTO suite_effect (consumer, id) VALUES ($1, $2)`, name, e.ID); err != nil {
			return err
		}
		return apply(e)
	})
	return c.Run(ctx)
}

func (s suited) Effects(ctx context.Context, name string) ([]string, error) {
	rows, err := s.db.Read.QueryContext(ctx, `SELECT id FROM suite_effect WHERE consumer = $1 ORDER BY n`, name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var ids []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

func (s suited) Redrive(ctx context.Context, name string) error {
	letters, err := inbox.ReadDeadLetters(ctx, s.db, name)
	for _, l := range letters {
		if l.State == inbox.Dead {
			err = errors.Join(err, inbox.Redrive(ctx, s.db, l.ID))
		}
	}
	return err
}

func TestConsumerSuite(t *testing.T) {
	suite := func(t *testing.T, open func(t testing.TB) *sqldb.DB) {
		eventstest.TestConsumer(t, func(t testing.TB) eventstest.Consumer {
			db := migrated(t, open(t))
			id := "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
			if db.Dialect == sqldb.SQLite {
				id = "INTEGER PRIMARY KEY AUTOINCREMENT"
			}
			if _, err := db.Write.ExecContext(t.Context(), `CREATE TABLE suite_effect (n `+id+`, consumer TEXT NOT NULL, id TEXT NOT NULL)`); err != nil {
				t.Fatal(err)
			}
			return suited{db}
		})
	}
	t.Run("sqlite", func(t *testing.T) {
		suite(t, func(t testing.TB) *sqldb.DB {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "inbox.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			return db
		})
	})
	t.Run("postgres", func(t *testing.T) { suite(t, func(t testing.TB) *sqldb.DB { return pgtest.DB(t) }) })
}
