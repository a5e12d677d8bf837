// Package migrate applies sets of SQL migrations with goose.
//
// A set is the migrations of one owner ("order", "napkin_outbox"): a folder of
// goose files, each with an up and a down part. Every set keeps its own version
// table, so a service applies its own tables and Napkin's side by side:
//
//	err := migrate.Up(ctx, db, "napkin_outbox", outbox.Migrations(db.Dialect))
//	err = migrate.Up(ctx, db, "order", orderMigrations)
//
// On PostgreSQL replicas that start together wait for one another (an advisory
// lock for each set). A SQLite file belongs to one process, which migrates it
// before it serves.
//
// The text of each applied migration is remembered by its checksum: editing a
// file that has been applied is refused with [ErrChanged] instead of leaving
// databases that differ. Add a new file.
package migrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// ErrChanged says that a migration differs from what was applied.
var ErrChanged = errors.New("migrate: an applied migration was changed; restore its text and add a new file")

// ErrPending says that migrations have not been applied.
var ErrPending = errors.New("migrate: the database lacks a migration; apply it with migrate.Up or your own migration tool")

// State is one migration and whether the database has it.
type State struct {
	Set     string
	Version int64
	File    string
	Applied bool
	At      time.Time // zero where not applied
}

// Up applies what the database lacks of a set, in order. Each file is one
// transaction, unless it says "-- +goose NO TRANSACTION".
func Up(ctx context.Context, db *sqldb.DB, set string, fsys fs.FS) error {
	p, err := provider(db, set, fsys)
	if err != nil {
		return err
	}
	if err := verifySums(ctx, db, set, fsys); err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: set %s up: %w", set, err)
	}
	return recordSums(ctx, db, set, fsys, p)
}

// Down takes back every migration of a set, newest first. Its data is lost.
func Down(ctx context.Context, db *sqldb.DB, set string, fsys fs.FS) error {
	p, err := provider(db, set, fsys)
	if err != nil {
		return err
	}
	if _, err := p.DownTo(ctx, 0); err != nil {
		return fmt.Errorf("migrate: set %s down: %w", set, err)
	}
	return recordSums(ctx, db, set, fsys, p)
}

// Status lists the migrations of a set, oldest first.
func Status(ctx context.Context, db *sqldb.DB, set string, fsys fs.FS) ([]State, error) {
	p, err := provider(db, set, fsys)
	if err != nil {
		return nil, err
	}
	return status(ctx, set, p)
}

// Check returns an error that names the first migration the database lacks
// (errors.Is ErrPending), or that was changed after it was applied (ErrChanged).
// Services that do not migrate by themselves call it when they start.
func Check(ctx context.Context, db *sqldb.DB, set string, fsys fs.FS) error {
	states, err := Status(ctx, db, set, fsys)
	if err != nil {
		return err
	}
	for _, s := range states {
		if !s.Applied {
			return fmt.Errorf("%w (set %s, file %s)", ErrPending, set, s.File)
		}
	}
	return verifySums(ctx, db, set, fsys)
}

// Print writes the migrations of a set to w as one readable text, for review
// or for another migration tool.
func Print(w io.Writer, set string, fsys fs.FS) error {
	names, err := files(fsys)
	if err != nil {
		return fmt.Errorf("migrate: set %s: %w", set, err)
	}
	for _, name := range names {
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return fmt.Errorf("migrate: set %s: %w", set, err)
		}
		if _, err := fmt.Fprintf(w, "-- set %s, file %s\n%s\n", set, name, text); err != nil {
			return err
		}
	}
	return nil
}

var setName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

func provider(db *sqldb.DB, set string, fsys fs.FS) (*goose.Provider, error) {
	if !setName.MatchString(set) {
		return nil, fmt.Errorf("migrate: set %q: use 1 to 40 characters a-z, 0-9 and _, a letter first", set)
	}
	opts := []goose.ProviderOption{
		goose.WithTableName(set + "_migrations"),
		goose.WithDisableGlobalRegistry(true),
	}
	var dialect goose.Dialect
	switch db.Dialect {
	case sqldb.Postgres:
		dialect = goose.DialectPostgres
		opts = append(opts, goose.WithSessionLocker(advisoryLock(set)))
	case sqldb.SQLite:
		dialect = goose.DialectSQLite3
	default:
		return nil, fmt.Errorf("migrate: set %s: unknown dialect %v", set, db.Dialect)
	}
	p, err := goose.NewProvider(dialect, db.Write, fsys, opts...)
	if err != nil {
		return nil, fmt.Errorf("migrate: set %s: %w", set, err)
	}
	return p, nil
}

func status(ctx context.Context, set string, p *goose.Provider) ([]State, error) {
	list, err := p.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("migrate: set %s status: %w", set, err)
	}
	states := make([]State, 0, len(list))
	for _, m := range list {
		states = append(states, State{
			Set: set, Version: m.Source.Version, File: path.Base(m.Source.Path),
			Applied: m.State == goose.StateApplied, At: m.AppliedAt,
		})
	}
	return states, nil
}

func files(fsys fs.FS) ([]string, error) {
	names, err := fs.Glob(fsys, "*.sql")
	slices.Sort(names)
	return names, err
}
