// Package sqlitedb opens a SQLite file as a service's database, in pure Go.
//
// The file is in WAL mode. One connection writes, its transactions begin
// IMMEDIATE, so they queue in process instead of failing with SQLITE_BUSY; a
// pool of read-only connections reads beside it without waiting.
package sqlitedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	_ "modernc.org/sqlite" // registers the driver "sqlite"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Config tunes [Open]. The zero value is ready to use.
type Config struct {
	// BusyTimeout is how long a statement waits for a lock that another
	// process holds on the file. Defaults to 5 s.
	BusyTimeout time.Duration
	// FullSync makes every commit wait for the disk (PRAGMA synchronous=FULL).
	// Defaults to false, synchronous=NORMAL: a killed process loses nothing, a
	// power failure may lose the last commits, never the file's consistency.
	FullSync bool
	// MaxReaders bounds the read pool. Defaults to 4 or the number of CPUs,
	// whichever is more.
	MaxReaders int
}

// Open opens the file at path, creating it where it does not exist; its folder
// must exist. A database in memory is refused: two pools could not share it,
// use a file in a temporary folder.
func Open(ctx context.Context, path string, cfg *Config) (*sqldb.DB, error) {
	c, err := resolve(path, cfg)
	if err != nil {
		return nil, err
	}
	write, err := sql.Open("sqlite", dsn(path, c, false))
	if err != nil {
		return nil, fmt.Errorf("sqlitedb: open %s: %w", path, err)
	}
	write.SetMaxOpenConns(1)
	write.SetMaxIdleConns(1)
	// The writer first: it creates the file and turns WAL on.
	if err := write.PingContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlitedb: open %s: %w", path, err), write.Close())
	}
	read, err := sql.Open("sqlite", dsn(path, c, true))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("sqlitedb: open %s: %w", path, err), write.Close())
	}
	read.SetMaxOpenConns(c.MaxReaders)
	read.SetMaxIdleConns(c.MaxReaders)
	db := &sqldb.DB{Write: write, Read: read, Dialect: sqldb.SQLite}
	if err := db.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("sqlitedb: open %s: %w", path, err), db.Close())
	}
	return db, nil
}

func resolve(path string, cfg *Config) (Config, error) {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	if path == "" || strings.Contains(path, ":memory:") {
		return c, fmt.Errorf("sqlitedb: path %q: name a file; a database in memory cannot be shared by a write and a read pool", path)
	}
	if st, err := os.Stat(filepath.Dir(path)); err != nil || !st.IsDir() {
		return c, fmt.Errorf("sqlitedb: path %q: its folder does not exist; create %s first", path, filepath.Dir(path))
	}
	if c.BusyTimeout < 0 {
		return c, fmt.Errorf("sqlitedb: BusyTimeout %v: must not be negative", c.BusyTimeout)
	}
	if c.BusyTimeout == 0 {
		c.BusyTimeout = 5 * time.Second
	}
	if c.MaxReaders < 0 {
		return c, fmt.Errorf("sqlitedb: MaxReaders %d: must not be negative", c.MaxReaders)
	}
	if c.MaxReaders == 0 {
		c.MaxReaders = max(4, runtime.NumCPU())
	}
	return c, nil
}

func dsn(path string, c Config, readOnly bool) string {
	q := url.Values{}
	q.Set("_busy_timeout", fmt.Sprint(c.BusyTimeout.Milliseconds()))
	q.Set("_foreign_keys", "1")
	q.Set("_dqs", "0") // "x" is an identifier, never a string by accident
	if readOnly {
		q.Set("_query_only", "1")
	} else {
		q.Set("_txlock", "immediate")
		q.Set("_journal_mode", "WAL")
		q.Set("_synchronous", "NORMAL")
		if c.FullSync {
			q.Set("_synchronous", "FULL")
		}
	}
	// Escape the path: a '?' or '#' in a folder's name is part of the name.
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: filepath.ToSlash(path)}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}
