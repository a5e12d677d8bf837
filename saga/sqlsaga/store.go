package sqlsaga

import (
	"context"
	"database/sql"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/internal/lease"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_saga"

//go:embed migrations
var migrations embed.FS

// Migrations returns the tables as goose migrations, plain up and down SQL. They
// go into the schema that the connection's search_path names.
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // the folders are embedded above
	}
	return sub
}

// Config tunes a store. nil takes the defaults.
type Config struct {
	// IdleTimeout ends a coordinator's own transaction on PostgreSQL whose
	// process has gone silent inside it (stopped, or cut off), so that its row
	// locks do not outlive its lease. Defaults to 5 s.
	IdleTimeout time.Duration
	// Shared says that several coordinators of one process use this SQLite
	// database. Otherwise a joining coordinator takes over at once what earlier
	// processes left, since the file belongs to one process. PostgreSQL is
	// always shared.
	Shared bool
	// Now replaces the database's clock for leases, for tests.
	Now func() time.Time
}

// New returns the store. Apply [Migrations] first.
func New(db *sqldb.DB, cfg *Config) (saga.Store, error) {
	if db == nil || db.Write == nil || db.Read == nil || !db.Dialect.Valid() {
		return nil, errors.New("sqlsaga: New needs an open *sqldb.DB; see pgxdb.Open and sqlitedb.Open")
	}
	s := &store{db: db, idle: 5 * time.Second}
	if cfg != nil {
		if cfg.IdleTimeout < 0 {
			return nil, errors.New("sqlsaga: Config.IdleTimeout is negative; take 0 for the default of 5s")
		}
		if cfg.IdleTimeout > 0 {
			s.idle = cfg.IdleTimeout
		}
		s.shared = cfg.Shared
		s.now = cfg.Now
	}
	return s, nil
}

type store struct {
	db     *sqldb.DB
	idle   time.Duration
	shared bool
	now    func() time.Time
}

// ownTx marks the context of a transaction that the store opened itself.
type ownTx struct{}

func (s *store) InTx(ctx context.Context, fn func(ctx context.Context, tx sqldb.Tx) error) error {
	return sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		return fn(context.WithValue(ctx, ownTx{}, true), sqldb.StdTx(tx))
	})
}

const columns = `id, name, version, status, revision, owner, epoch, state, progress, due_at, deadline_at, created_at, updated_at, ended_at`

// gate is the number of the advisory lock between those who find an id missing
// and those who insert it, of which a row lock cannot be had. On SQLite the write
// transactions exclude one another.
const gate = `hashtextextended('napkin saga ' || $1::text, 0)`

func (s *store) Insert(ctx context.Context, tx sqldb.Execer, in *saga.Instance, log []saga.Entry) (bool, error) {
	progress, err := json.Marshal(in.Progress)
	if err != nil {
		return false, fmt.Errorf("sqlsaga: encode the progress of %s: %w", in.ID, err)
	}
	query := `INSERT INTO napkin_sagas (` + columns + `)
VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8, $9, $10, $11, $12, $13) ON CONFLICT DO NOTHING`
	if s.db.Dialect == sqldb.Postgres {
		// In the same round trip: wait for whoever has found the id missing.
		query = `INSERT INTO napkin_sagas (` + columns + `)
SELECT $1::text, $2::text, $3::bigint, $4::text, 1, $5::text, $6::bigint, $7::bytea, $8::bytea,
$9::bigint, $10::bigint, $11::bigint, $12::bigint, $13::bigint
FROM (SELECT pg_advisory_xact_lock_shared(` + gate + `)) AS gate ON CONFLICT DO NOTHING`
	}
	res, err := tx.ExecContext(ctx, query,
		in.ID, in.Name, in.Version, string(in.Status), in.Owner, in.Epoch, in.State, progress,
		micros(in.DueAt), micros(in.DeadlineAt), sqldb.Micros(in.CreatedAt), sqldb.Micros(in.UpdatedAt), micros(in.EndedAt))
	if err != nil {
		return false, fmt.Errorf("sqlsaga: insert %s: %w", in.ID, err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return false, fmt.Errorf("sqlsaga: insert %s: %w", in.ID, err)
	}
	if n == 0 {
		return false, nil
	}
	in.Revision = 1
	return true, s.append(ctx, tx, in, log)
}

func (s *store) Lock(ctx context.Context, tx sqldb.Tx, id string) (*saga.Instance, error) {
	query := `SELECT ` + columns + ` FROM napkin_sagas WHERE id = $1` + s.db.Dialect.ForUpdate()
	if s.db.Dialect == sqldb.Postgres && ctx.Value(ownTx{}) != nil {
		// In the same round trip: a stopped process must not keep the lock.
		query = `SELECT ` + columns + ` FROM napkin_sagas, (SELECT set_config('idle_in_transaction_session_timeout', '` +
			strconv.FormatInt(max(1, s.idle.Milliseconds()), 10) + `', true)) AS setting WHERE id = $1 FOR UPDATE OF napkin_sagas`
	}
	in, err := scan(tx.QueryRow(ctx, query, id))
	if errors.Is(err, sql.ErrNoRows) && s.db.Dialect == sqldb.Postgres {
		if _, err := tx.ExecContext(ctx, `SELECT pg_advisory_xact_lock(`+gate+`)`, id); err != nil {
			return nil, fmt.Errorf("sqlsaga: lock %s: %w", id, err)
		}
		in, err = scan(tx.QueryRow(ctx, query, id)) // inserted since?
	}
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", saga.ErrNotFound, id)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlsaga: lock %s: %w", id, err)
	}
	return in, nil
}

func (s *store) Save(ctx context.Context, tx sqldb.Execer, in *saga.Instance, log []saga.Entry) error {
	progress, err := json.Marshal(in.Progress)
	if err != nil {
		return fmt.Errorf("sqlsaga: encode the progress of %s: %w", in.ID, err)
	}
	res, err := tx.ExecContext(ctx, `UPDATE napkin_sagas SET status = $1, revision = revision + 1, owner = $2, epoch = $3,
state = $4, progress = $5, due_at = $6, updated_at = $7, ended_at = $8 WHERE id = $9 AND revision = $10`,
		string(in.Status), in.Owner, in.Epoch, in.State, progress, micros(in.DueAt), sqldb.Micros(in.UpdatedAt),
		micros(in.EndedAt), in.ID, in.Revision)
	if err != nil {
		return fmt.Errorf("sqlsaga: save %s: %w", in.ID, err)
	}
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("%w: %s", saga.ErrConflict, in.ID), err)
	}
	in.Revision++
	return s.append(ctx, tx, in, log)
}

// append adds lines to the history.
func (s *store) append(ctx context.Context, tx sqldb.Execer, in *saga.Instance, log []saga.Entry) error {
	if len(log) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString(`INSERT INTO napkin_saga_history (saga_id, revision, idx, at, kind, step, attempt, detail, actor) VALUES `)
	args := make([]any, 0, 9*len(log))
	for i, e := range log {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteByte('(')
		for j := range 9 {
			if j > 0 {
				b.WriteString(", ")
			}
			b.WriteString("$" + strconv.Itoa(len(args)+j+1))
		}
		b.WriteByte(')')
		args = append(args, in.ID, in.Revision, i, sqldb.Micros(e.At), string(e.Kind), e.Step, e.Attempt, text(e.Detail), e.Actor)
	}
	if _, err := tx.ExecContext(ctx, b.String(), args...); err != nil {
		return fmt.Errorf("sqlsaga: add to the history of %s: %w", in.ID, err)
	}
	return nil
}

// text makes a foreign error's message fit a TEXT column of PostgreSQL.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
}

func (s *store) Buffer(ctx context.Context, tx sqldb.Execer, m saga.Message) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO napkin_saga_messages (saga_id, kind, id, name, body, at)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`, m.SagaID, string(m.Kind), m.ID, m.Name, m.Body, sqldb.Micros(m.At))
	if err != nil {
		return fmt.Errorf("sqlsaga: keep a %s for %s: %w", m.Kind, m.SagaID, err)
	}
	return nil
}

func (s *store) Take(ctx context.Context, tx sqldb.Tx, id string, kind saga.MessageKind, name string) ([]saga.Message, error) {
	query := `SELECT id, name, body, at FROM napkin_saga_messages WHERE saga_id = $1 AND kind = $2 ORDER BY at, id`
	args := []any{id, string(kind)}
	if name != "" { // a signal step takes one
		query = `SELECT id, name, body, at FROM napkin_saga_messages WHERE saga_id = $1 AND kind = $2 AND name = $3 ORDER BY at, id LIMIT 1`
		args = append(args, name)
	}
	rows, err := tx.Query(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("sqlsaga: take what was kept for %s: %w", id, err)
	}
	var out []saga.Message
	for rows.Next() {
		m := saga.Message{SagaID: id, Kind: kind}
		var at int64
		if err := rows.Scan(&m.ID, &m.Name, &m.Body, &at); err != nil {
			return nil, errors.Join(fmt.Errorf("sqlsaga: take what was kept for %s: %w", id, err), rows.Close())
		}
		m.At = sqldb.FromMicros(at)
		out = append(out, m)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, fmt.Errorf("sqlsaga: take what was kept for %s: %w", id, err)
	}
	for _, m := range out {
		if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_saga_messages WHERE saga_id = $1 AND kind = $2 AND id = $3`,
			id, string(kind), m.ID); err != nil {
			return nil, fmt.Errorf("sqlsaga: take what was kept for %s: %w", id, err)
		}
	}
	return out, nil
}

func (s *store) Join(ctx context.Context, name string, ttl time.Duration) (saga.Member, error) {
	n, err := lease.Join(ctx, s.db, &lease.Config{
		Group: "saga", Name: name, TTL: ttl, Now: s.now,
		Exclusive: s.db.Dialect == sqldb.SQLite && !s.shared,
	})
	if err != nil {
		return nil, fmt.Errorf("sqlsaga: %w", err)
	}
	return member{n}, nil
}

type member struct{ *lease.Node }

func (m member) Beat(ctx context.Context) error {
	err := m.Node.Beat(ctx)
	if errors.Is(err, lease.ErrLost) {
		return errors.Join(saga.ErrLost, err)
	}
	return err
}

func micros(t time.Time) sql.NullInt64 {
	return sql.NullInt64{Int64: sqldb.Micros(t), Valid: !t.IsZero()}
}
