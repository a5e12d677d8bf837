// Package events measures the way of an event: appended to an outbox, relayed to
// JetStream, marked and applied once by an inbox in another database. Peers run in
// the same process on the same PostgreSQL server.
//
// Every benchmark is one run of a size given by a flag; use -benchtime 1x.
package events

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

var (
	drained   = flag.Int("events", 200_000, "events of a drain on PostgreSQL")
	retained  = flag.Int("retained", 1_000_000, "published rows that an outbox still holds in the drain with retained rows")
	rounds    = flag.Int("rounds", 3, "turns of the drains that are compared")
	written   = flag.Int("live", 80_000, "events that the writers of a live run commit")
	paced     = flag.Int("paced", 10_000, "events of the run at 1,000 a second")
	lite      = flag.Int("lite", 50_000, "events of a drain on SQLite")
	watermill = flag.Int("watermill", 5_000, "messages of a run of watermill-sql")
	listed    = flag.Bool("statements", false, "end with the statements that PostgreSQL spent most time on (needs its contrib modules)")
	jobs      = flag.Int("river", 50_000, "jobs of a run of river")
)

func TestMain(m *testing.M) {
	code := m.Run()
	if server.s != nil {
		if *listed {
			if err := statements(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
		if err := server.s.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	os.Exit(code)
}

// quiet is for what would be told an operator.
var quiet = slog.New(slog.DiscardHandler)

var server struct {
	once sync.Once
	s    *pgtest.Server
	err  error
}

// postgres is one server for all, with PostgreSQL's own defaults: fsync is on.
func postgres(b testing.TB) *pgtest.Server {
	b.Helper()
	server.once.Do(func() {
		options := []string{"shared_buffers=128MB", "wal_level=replica"}
		if *listed {
			options = append(options, "shared_preload_libraries=pg_stat_statements")
		}
		server.s, server.err = pgtest.Start("", 0, options...)
		if server.err != nil {
			return
		}
		db, err := pgxdb.Open(b.Context(), server.s.URL("postgres"), nil)
		if err != nil {
			server.err = err
			return
		}
		defer db.Close()
		for _, name := range []string{"server_version", "fsync", "synchronous_commit", "wal_sync_method", "full_page_writes", "wal_level", "shared_buffers", "max_wal_size"} {
			var v string
			if server.err = db.Read.QueryRowContext(b.Context(), `SHOW `+name).Scan(&v); server.err != nil {
				return
			}
			fmt.Printf("postgres %s: %s\n", name, v)
		}
	})
	if errors.Is(server.err, pgtest.ErrNotInstalled) {
		b.Skip(server.err)
	}
	must(b, server.err)
	return server.s
}

// statements prints where the server's time went.
func statements() error {
	ctx := context.Background()
	db, err := pgxdb.Open(ctx, server.s.URL("postgres"), nil)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.Write.ExecContext(ctx, `CREATE EXTENSION pg_stat_statements`); err != nil {
		return err
	}
	rows, err := db.Read.QueryContext(ctx, `SELECT sum(total_exec_time), sum(calls), sum(rows), sum(wal_bytes)::float8,
		left(regexp_replace(query, '\s+', ' ', 'g'), 110) AS text FROM pg_stat_statements GROUP BY text ORDER BY 1 DESC LIMIT 20`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var ms, wal float64
		var calls, n int64
		var text string
		if err := rows.Scan(&ms, &calls, &n, &wal, &text); err != nil {
			return err
		}
		fmt.Printf("statement %8.0f ms %8d calls %8d rows %7.1f MB: %s\n", ms, calls, n, wal/1e6, text)
	}
	return rows.Err()
}

// scope is a part of a benchmark: what is made in it goes when it ends, so that the
// next part finds an empty server.
type scope struct {
	*testing.B
	undo []func()
}

// Cleanup hides that of testing.B.
func (s *scope) Cleanup(f func()) { s.undo = append(s.undo, f) }

func (s *scope) end() {
	for len(s.undo) > 0 {
		last := s.undo[len(s.undo)-1]
		s.undo = s.undo[:len(s.undo)-1]
		last()
	}
}

// folder is a new folder on a disk.
func folder(b testing.TB) string {
	b.Helper()
	dir, err := os.MkdirTemp("", "napkin-bench")
	must(b, err)
	b.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

var databases atomic.Int64

// database makes an empty database, dropped when b ends.
func database(b testing.TB) (url string) {
	b.Helper()
	s := postgres(b)
	name := fmt.Sprintf("bench%d", databases.Add(1))
	must(b, s.CreateDatabase(b.Context(), name))
	b.Cleanup(func() {
		if err := s.DropDatabase(context.Background(), name); err != nil {
			b.Error(err)
		}
	})
	return s.URL(name)
}

// open opens a database of the server; closed when b ends.
func open(b testing.TB, url string) *sqldb.DB {
	b.Helper()
	db, err := pgxdb.Open(b.Context(), url, &pgxdb.Config{MaxConns: 24})
	must(b, err)
	b.Cleanup(func() { db.Close() })
	return db
}

// pool is open for pgx without database/sql.
func pool(b testing.TB, url string) *pgxpool.Pool {
	b.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	must(b, err)
	cfg.MaxConns = 24
	p, err := pgxpool.NewWithConfig(b.Context(), cfg)
	must(b, err)
	b.Cleanup(p.Close)
	return p
}

// sqlite opens a new file on a disk with the shipped settings.
func sqlite(b testing.TB) *sqldb.DB {
	b.Helper()
	db, err := sqlitedb.Open(b.Context(), filepath.Join(folder(b), "b.db"), nil)
	must(b, err)
	b.Cleanup(func() { db.Close() })
	return db
}

// producer makes the outbox's tables.
func producer(b testing.TB, db *sqldb.DB) *outbox.Outbox {
	b.Helper()
	must(b, migrate.Up(b.Context(), db, outbox.Set, outbox.Migrations(db.Dialect)))
	ob, err := outbox.New(db.Dialect, "order", nil)
	must(b, err)
	return ob
}

// subscriber makes the inbox's tables and that of the effects.
func subscriber(b testing.TB, db *sqldb.DB) {
	b.Helper()
	must(b, migrate.Up(b.Context(), db, inbox.Set, inbox.Migrations(db.Dialect)))
	effects(b, db)
}

func effects(b testing.TB, db *sqldb.DB) {
	b.Helper()
	id := `BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY`
	if db.Dialect == sqldb.SQLite {
		id = `INTEGER PRIMARY KEY`
	}
	_, err := db.Write.ExecContext(b.Context(), `CREATE TABLE effect (id `+id+`, k TEXT NOT NULL, seq BIGINT NOT NULL)`)
	must(b, err)
}

var announced sync.Once

// jetStream starts a JetStream server in this process, which keeps streams in files.
func jetStream(b testing.TB) *natstest.Server {
	b.Helper()
	return natstest.StartConfig(b, natstest.Config{Dir: folder(b)})
}

// nats is a broker on a connection of its own, with the topic's stream.
func nats(b testing.TB, s *natstest.Server) *natsevents.Broker {
	b.Helper()
	nc := s.Conn(b)
	broker, err := natsevents.Connect(b.Context(), nc, nil)
	must(b, err)
	b.Cleanup(func() { broker.Close() })
	must(b, broker.EnsureTopics(b.Context(), topic))
	announced.Do(func() {
		js, err := jetstream.New(nc)
		must(b, err)
		st, err := js.Stream(b.Context(), topic)
		must(b, err)
		fmt.Printf("nats %s: storage %v, replicas %d, sync_interval: the server's default (2m), acknowledged before it\n",
			nc.ConnectedServerVersion(), st.CachedInfo().Config.Storage, st.CachedInfo().Config.Replicas)
	})
	return broker
}

// counters are what was written on the whole server, by how many transactions, and
// the processor's time in this process: relay, JetStream, consumer and writers, not
// PostgreSQL.
type counters struct{ wal, commits, cpu float64 }

func count(b testing.TB, db *sqldb.DB) (c counters) {
	b.Helper()
	must(b, db.Read.QueryRowContext(b.Context(), `SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::float8,
		pg_snapshot_xmax(pg_current_snapshot())::text::float8`).Scan(&c.wal, &c.commits))
	var u syscall.Rusage
	must(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	c.cpu = float64(u.Utime.Nano()+u.Stime.Nano()) / 1000
	return c
}

func (c counters) since(before counters, n int) figures {
	return figures{
		wal:     (c.wal - before.wal) / float64(n),
		commits: (c.commits - before.commits) / float64(n),
		cpu:     (c.cpu - before.cpu) / float64(n),
	}
}

// expect fails where the query does not count n: every effect must be there once.
func expect(b testing.TB, db *sql.DB, n int, query string) {
	b.Helper()
	var got int
	must(b, db.QueryRowContext(b.Context(), query).Scan(&got))
	if got != n {
		b.Fatalf("%s: %d, want %d", query, got, n)
	}
}

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}
