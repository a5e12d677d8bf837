package simulation

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"modernc.org/sqlite"

	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

func init() {
	// The database's clock is the simulation's.
	err := sqlite.RegisterScalarFunction("simulated_micros", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		return time.Now().UnixMicro(), nil
	})
	if err != nil {
		panic(err)
	}
}

// store is a SQLite database in memory behind one connection. Transactions are
// savepoints in one that is rolled back at the end, which is faster than making
// the tables for every seed.
type store struct {
	mu       sync.Mutex
	conn     driver.Conn
	prepared map[string]driver.Stmt
	owner    *process // has the transaction that is open
	spoil    func(query string, args []driver.NamedValue) string
}

func newStore() (*store, error) {
	opened, err := sql.Open("sqlite", ":memory:") // for its driver, which has our function
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	conn, err := opened.Driver().Open(":memory:")
	if err != nil {
		return nil, err
	}
	s := &store{conn: conn, prepared: make(map[string]driver.Stmt)}
	for _, set := range []fs.FS{outbox.Migrations(sqldb.SQLite), inbox.Migrations(sqldb.SQLite)} {
		files, err := fs.Glob(set, "*.sql")
		if err != nil {
			return nil, err
		}
		slices.Sort(files)
		for _, f := range files {
			text, err := fs.ReadFile(set, f)
			if err != nil {
				return nil, err
			}
			up, _, _ := strings.Cut(string(text), "-- +goose Down")
			if err := s.script(up); err != nil {
				return nil, err
			}
		}
	}
	return s, s.script(`CREATE TABLE written (id TEXT PRIMARY KEY, topic TEXT, key TEXT, n INTEGER);
		CREATE TABLE effect (n INTEGER PRIMARY KEY AUTOINCREMENT, consumer TEXT, id TEXT, key TEXT, seq INTEGER)`)
}

func (s *store) script(text string) error {
	_, err := s.conn.(driver.ExecerContext).ExecContext(context.Background(), text, nil)
	return err
}

func (s *store) close() {
	for _, x := range s.prepared {
		x.Close()
	}
	s.conn.Close()
}

func (s *store) statement(query string) (driver.Stmt, error) {
	if x := s.prepared[query]; x != nil {
		return x, nil
	}
	x, err := s.conn.Prepare(strings.ReplaceAll(query, "CAST(unixepoch('subsec') * 1000000 AS INTEGER)", "simulated_micros()"))
	if err == nil {
		s.prepared[query] = x
	}
	return x, err
}

func (s *store) exec(query string, args []driver.NamedValue) (driver.Result, error) {
	if s.spoil != nil {
		query = s.spoil(query, args)
	}
	x, err := s.statement(query)
	if err != nil {
		return nil, err
	}
	return x.(driver.StmtExecContext).ExecContext(context.Background(), args)
}

// query reads all rows at once: nothing of the connection is in use when it returns.
func (s *store) query(query string, args []driver.NamedValue) (*rows, error) {
	if s.spoil != nil {
		query = s.spoil(query, args)
	}
	x, err := s.statement(query)
	if err != nil {
		return nil, err
	}
	r, err := x.(driver.StmtQueryContext).QueryContext(context.Background(), args)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	out := &rows{columns: r.Columns()}
	for {
		row := make([]driver.Value, len(out.columns))
		switch err := r.Next(row); {
		case errors.Is(err, io.EOF):
			return out, nil
		case err != nil:
			return nil, err
		}
		out.left = append(out.left, row)
	}
}

func (s *store) holder() *process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owner
}

// abandon rolls back what a process has open.
func (s *store) abandon(p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.owner == p {
		_ = s.end(false)
	}
}

// end ends the open transaction. s.mu is held.
func (s *store) end(commit bool) error {
	s.owner = nil
	if !commit {
		if _, err := s.exec(`ROLLBACK TO t`, nil); err != nil {
			return err
		}
	}
	_, err := s.exec(`RELEASE t`, nil)
	return err
}

type rows struct {
	columns []string
	left    [][]driver.Value
}

func (r *rows) Columns() []string { return r.columns }
func (r *rows) Close() error      { return nil }
func (r *rows) Next(to []driver.Value) error {
	if len(r.left) == 0 {
		return io.EOF
	}
	copy(to, r.left[0])
	r.left = r.left[1:]
	return nil
}

// open returns the database as a process sees it.
func (s *store) open(p *process) *sqldb.DB {
	c := connector{s, p}
	return &sqldb.DB{Write: sql.OpenDB(c), Read: sql.OpenDB(c), Dialect: sqldb.SQLite}
}

type connector struct {
	s *store
	p *process
}

func (c connector) Connect(context.Context) (driver.Conn, error) { return &conn{s: c.s, p: c.p}, nil }
func (c connector) Driver() driver.Driver                        { return nil }

// conn is a process's connection.
type conn struct {
	s    *store
	p    *process
	inTx bool
}

func (c *conn) Prepare(string) (driver.Stmt, error) { return nil, errors.ErrUnsupported }
func (c *conn) Begin() (driver.Tx, error)           { return nil, errors.ErrUnsupported }
func (c *conn) Ping(context.Context) error          { return nil }

func (c *conn) Close() error {
	if c.inTx {
		return c.Rollback()
	}
	return nil
}

// unavailable is an error of the connection as sqldb.IsUnavailable knows it.
type unavailable struct{ error }

func (unavailable) Code() int { return 10 }

func asDatabase(err error) error {
	if errors.Is(err, errLost) {
		return unavailable{err}
	}
	return err
}

func (c *conn) BeginTx(ctx context.Context, _ driver.TxOptions) (driver.Tx, error) {
	t := c.p.turn("begin", "")
	if err := cmpOr(t.err, ctx.Err()); err != nil {
		return nil, asDatabase(err)
	}
	c.s.mu.Lock()
	_, err := c.s.exec(`SAVEPOINT t`, nil)
	if err == nil {
		c.s.owner, c.inTx = c.p, true
	}
	c.s.mu.Unlock()
	if err := c.p.done(t, err); err != nil {
		if c.inTx {
			_ = c.Rollback()
		}
		return nil, asDatabase(err)
	}
	return c, nil
}

func (c *conn) Commit() error {
	t := c.p.turn("commit", "")
	if t.err != nil {
		_ = c.Rollback()
		return asDatabase(t.err)
	}
	c.s.mu.Lock()
	err := errCrashed
	if c.s.owner == c.p && c.inTx {
		err = c.s.end(true)
	}
	c.inTx = false
	c.s.mu.Unlock()
	return asDatabase(c.p.done(t, err))
}

func (c *conn) Rollback() error {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if !c.inTx {
		return nil
	}
	c.inTx = false
	if c.s.owner != c.p { // rolled back as it crashed
		return nil
	}
	return c.s.end(false)
}

func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (r driver.Result, err error) {
	err = c.do(ctx, "exec", query, func() error { r, err = c.s.exec(query, args); return err })
	return r, err
}

func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	var r *rows
	err := c.do(ctx, "query", query, func() (err error) { r, err = c.s.query(query, args); return err })
	if err != nil {
		return nil, err
	}
	return r, nil
}

// do runs a statement: in a transaction at once, otherwise in its turn.
func (c *conn) do(ctx context.Context, kind, query string, run func() error) error {
	var t turn
	if !c.inTx {
		t = c.p.turn(kind, query)
		if err := cmpOr(t.err, ctx.Err()); err != nil {
			return asDatabase(err)
		}
	}
	c.s.mu.Lock()
	if c.inTx && c.s.owner != c.p {
		c.s.mu.Unlock()
		return errCrashed
	}
	err := run()
	c.s.mu.Unlock()
	if err != nil {
		c.p.w.locked(func() { c.p.w.note("failed", query+": "+err.Error()) })
	}
	if c.inTx {
		return err
	}
	return asDatabase(c.p.done(t, err))
}

func cmpOr(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
