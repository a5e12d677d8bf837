package sqlsaga

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

func scan(row sqldb.Row) (*saga.Instance, error) {
	var in saga.Instance
	var status string
	var progress []byte
	var due, deadline, ended sql.NullInt64
	var created, updated int64
	if err := row.Scan(&in.ID, &in.Name, &in.Version, &status, &in.Revision, &in.Owner, &in.Epoch, &in.State, &progress,
		&due, &deadline, &created, &updated, &ended); err != nil {
		return nil, err
	}
	in.Status = saga.Status(status)
	in.DueAt, in.DeadlineAt, in.EndedAt = moment(due), moment(deadline), moment(ended)
	in.CreatedAt, in.UpdatedAt = sqldb.FromMicros(created), sqldb.FromMicros(updated)
	if err := json.Unmarshal(progress, &in.Progress); err != nil {
		return nil, fmt.Errorf("the progress of %s cannot be decoded: %w", in.ID, err)
	}
	return &in, nil
}

func moment(us sql.NullInt64) time.Time {
	if !us.Valid {
		return time.Time{}
	}
	return sqldb.FromMicros(us.Int64)
}

func (s *store) Get(ctx context.Context, id string) (*saga.Instance, error) {
	in, err := scan(s.db.Read.QueryRowContext(ctx, `SELECT `+columns+` FROM napkin_sagas WHERE id = $1`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("%w: %s", saga.ErrNotFound, id)
	}
	if err != nil {
		return nil, fmt.Errorf("sqlsaga: get %s: %w", id, err)
	}
	return in, nil
}

func (s *store) History(ctx context.Context, id string) ([]saga.Entry, error) {
	return query(ctx, s.db.Read, func(rows *sql.Rows) (saga.Entry, error) {
		var e saga.Entry
		var kind string
		var at int64
		err := rows.Scan(&e.Revision, &e.Index, &at, &kind, &e.Step, &e.Attempt, &e.Detail, &e.Actor)
		e.Kind, e.At = saga.EntryKind(kind), sqldb.FromMicros(at)
		return e, err
	}, `SELECT revision, idx, at, kind, step, attempt, detail, actor FROM napkin_saga_history
WHERE saga_id = $1 ORDER BY revision, idx`, id)
}

func (s *store) List(ctx context.Context, f saga.Filter) ([]*saga.Instance, error) {
	limit := f.Limit
	if limit <= 0 {
		limit = 100
	}
	limit = min(limit, 1000)
	var where []string
	var args []any
	add := func(clause string, arg any) {
		args = append(args, arg)
		where = append(where, clause+"$"+strconv.Itoa(len(args)))
	}
	if f.Status != "" {
		add("status = ", string(f.Status))
		if !f.Status.Ended() {
			where = append(where, "ended_at IS NULL") // lets the partial index serve
		}
	}
	if f.Name != "" {
		add("name = ", f.Name)
	}
	if !f.Before.IsZero() {
		add("created_at < ", sqldb.Micros(f.Before))
	}
	clause := ""
	if len(where) > 0 {
		clause = ` WHERE ` + strings.Join(where, " AND ")
	}
	return query(ctx, s.db.Read, func(rows *sql.Rows) (*saga.Instance, error) { return scan(rows) },
		`SELECT `+columns+` FROM napkin_sagas`+clause+` ORDER BY created_at DESC, id LIMIT `+strconv.Itoa(limit), args...)
}

func (s *store) Counts(ctx context.Context) (map[saga.Status]int, error) {
	type count struct {
		status saga.Status
		n      int
	}
	counts, err := query(ctx, s.db.Read, func(rows *sql.Rows) (count, error) {
		var c count
		var status string
		err := rows.Scan(&status, &c.n)
		c.status = saga.Status(status)
		return c, err
	}, `SELECT status, count(*) FROM napkin_sagas GROUP BY status`)
	out := make(map[saga.Status]int, len(counts))
	for _, c := range counts {
		out[c.status] = c.n
	}
	return out, err
}

// Unfinished counts the instances that have not ended, and how many of them are
// stuck. It needs no coordinator; programs that judge a database from outside
// use it.
func Unfinished(ctx context.Context, db *sqldb.DB) (count, stuck int, err error) {
	err = db.Read.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN status = $1 THEN 1 END)
FROM napkin_sagas WHERE ended_at IS NULL`, string(saga.StatusStuck)).Scan(&count, &stuck)
	if err != nil {
		return 0, 0, fmt.Errorf("sqlsaga: count the unfinished: %w", err)
	}
	return count, stuck, nil
}

func (s *store) Due(ctx context.Context, now time.Time, serves []saga.Ref, limit int) ([]string, error) {
	if len(serves) == 0 {
		return nil, nil
	}
	args := []any{sqldb.Micros(now)}
	var served []string
	for _, r := range serves {
		served = append(served, fmt.Sprintf("(name = $%d AND version = $%d)", len(args)+1, len(args)+2))
		args = append(args, r.Name, r.Version)
	}
	return query(ctx, s.db.Read, scanID, `SELECT id FROM napkin_sagas WHERE due_at IS NOT NULL AND due_at <= $1
AND (`+strings.Join(served, " OR ")+`) ORDER BY due_at LIMIT `+strconv.Itoa(limit), args...)
}

func (s *store) Abandoned(ctx context.Context, limit int) ([]saga.Abandoned, error) {
	return query(ctx, s.db.Read, func(rows *sql.Rows) (a saga.Abandoned, err error) {
		err = rows.Scan(&a.ID, &a.Owner)
		return a, err
	}, `SELECT id, owner FROM napkin_sagas s WHERE owner <> ''
AND NOT EXISTS (SELECT 1 FROM napkin_nodes n WHERE n.node = s.owner) LIMIT `+strconv.Itoa(limit))
}

func scanID(rows *sql.Rows) (id string, err error) {
	err = rows.Scan(&id)
	return id, err
}

func query[T any](ctx context.Context, db *sql.DB, scan func(*sql.Rows) (T, error), text string, args ...any) (out []T, err error) {
	rows, err := db.QueryContext(ctx, text, args...)
	if err != nil {
		return nil, fmt.Errorf("sqlsaga: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("sqlsaga: %w", err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("sqlsaga: %w", err)
	}
	return out, nil
}
