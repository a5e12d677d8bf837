// Package pgtest runs real PostgreSQL servers for tests.
//
// A test that needs a database asks for one:
//
//	db := pgtest.DB(t)       // a fresh database on a server that the process shares
//	url := pgtest.URL(t)     // the same, as a URL for a child process or a pgxpool
//
// The server is private: its files are in a temporary folder, it listens on a
// Unix socket there, and it ends with the process. A package with many such
// tests keeps it running between them:
//
//	func TestMain(m *testing.M) { os.Exit(pgtest.Main(m).Run()) }
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }
//
// An end-to-end harness that stops and restarts the server uses [Start].
//
// Where PostgreSQL is not installed the test is skipped with the reason, unless
// NAPKIN_TEST_REQUIRE (a list with commas) names postgres: then it fails.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// ErrNotInstalled says that no PostgreSQL server program was found.
var ErrNotInstalled = errors.New("pgtest: PostgreSQL is not installed: put initdb and postgres (13 or newer) on the PATH, for instance with apt-get install postgresql")

const startTimeout = 30 * time.Second

// DB returns a fresh, empty database, dropped when the test ends.
func DB(t testing.TB) *sqldb.DB {
	t.Helper()
	url := URL(t)
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	db, err := pgxdb.Open(ctx, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("pgtest: close: %v", err)
		}
	})
	return db
}

// URL returns the URL of a fresh, empty database, dropped when the test ends.
func URL(t testing.TB) string {
	t.Helper()
	s := acquire(t)
	name := fmt.Sprintf("t%d", databases.Add(1))
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.CreateDatabase(ctx, name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
		defer cancel()
		if err := s.DropDatabase(ctx, name); err != nil {
			t.Errorf("%v", err)
		}
	})
	return s.URL(name)
}

var databases atomic.Int64

// CreateDatabase creates an empty database.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, `CREATE DATABASE "`+name+`"`)
}

// DropDatabase drops a database, disconnecting who still uses it.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	return s.exec(ctx, `DROP DATABASE IF EXISTS "`+name+`" WITH (FORCE)`)
}

func (s *Server) exec(ctx context.Context, statement string) error {
	db, err := pgxdb.Open(ctx, s.URL("postgres"), &pgxdb.Config{MaxConns: 1})
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	if _, err := db.Write.ExecContext(ctx, statement); err != nil {
		return errors.Join(fmt.Errorf("pgtest: %s: %w", statement, err), db.Close())
	}
	return db.Close()
}

// The server that the tests of one process share.
var shared struct {
	mu     sync.Mutex
	server *Server
	users  int
	keep   bool // Main stops it
}

// Main keeps the shared server between tests. It returns what os.Exit, by way
// of its Run, or goleak.VerifyTestMain wants.
func Main(m interface{ Run() int }) interface{ Run() int } { return keeper{m} }

type keeper struct{ m interface{ Run() int } }

func (k keeper) Run() int {
	shared.mu.Lock()
	shared.keep = true
	shared.mu.Unlock()
	code := k.m.Run()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server != nil {
		if err := shared.server.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		shared.server = nil
	}
	return code
}

// acquire returns the shared server until t ends.
func acquire(t testing.TB) *Server {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		// What is thrown away after the test need not reach the disk.
		s, err := Start("", 0, "fsync=off")
		if errors.Is(err, ErrNotInstalled) && !Required("postgres") {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		shared.server = s
	}
	shared.users++
	t.Cleanup(release)
	return shared.server
}

func release() {
	shared.mu.Lock()
	defer shared.mu.Unlock()
	shared.users--
	if shared.users > 0 || shared.keep || shared.server == nil {
		return
	}
	if err := shared.server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	shared.server = nil
}

// Required reports whether NAPKIN_TEST_REQUIRE names a part that tests must not
// do without.
func Required(part string) bool {
	return slices.Contains(strings.Split(os.Getenv("NAPKIN_TEST_REQUIRE"), ","), part)
}
