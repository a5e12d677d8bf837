package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/idempotency/sqlidempotency"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
	"github.com/napkin-kit/napkin/saga/participant"
	"github.com/napkin-kit/napkin/saga/sqlsaga"
)

// A migrationSet is the tables of one package.
type migrationSet struct {
	name       string
	pkg        string // its folder in the module
	migrations func(sqldb.Dialect) fs.FS
}

// migrationSets are those of every package that has tables, in the order in which they are applied. The tables of
// leases come with each set that needs them.
var migrationSets = []migrationSet{
	{outbox.Set, "kit/events/outbox", outbox.Migrations},
	{inbox.Set, "kit/events/inbox", inbox.Migrations},
	{sqlidempotency.Set, "kit/idempotency/sqlidempotency", sqlidempotency.Migrations},
	{sqlsaga.Set, "saga/sqlsaga", sqlsaga.Migrations},
	{participant.Set, "saga/participant", participant.Migrations},
}

// migrateCmd is `napkin migrate`: the tables of Napkin's packages, and with --dir those of a service, in a service's
// database. Each set is locked while it changes (replicas and jobs that start together wait for one another on
// PostgreSQL) and checksummed: a migration that was changed after it was applied is refused.
type migrateCmd struct {
	Print  migratePrintCmd  `cmd:"" help:"Print the migrations, for review or for another migration tool."`
	Up     migrateUpCmd     `cmd:"" help:"Apply what the database lacks. A SQLite file is created where there is none."`
	Down   migrateDownCmd   `cmd:"" help:"Take a set back, newest migration first. Its data is lost."`
	Status migrateStatusCmd `cmd:"" help:"Say which migrations the database has; ends with 1 where it lacks one, or one was changed."`
}

// migrateSets says which sets a command is about.
type migrateSets struct {
	Set []string `short:"s" placeholder:"NAME" help:"Sets, with or without napkin_: outbox, inbox, idempotency, saga, saga_participant; or all."`
	Dir string   `type:"existingdir" placeholder:"DIR" help:"A folder of goose files of your own; --set names the one set that it is."`
}

// chosen returns the sets that were named, in the order in which they are applied.
func (m migrateSets) chosen() ([]migrationSet, error) {
	if m.Dir != "" {
		if len(m.Set) != 1 {
			return nil, errors.New("--dir is one set: name it with --set, such as --set order")
		}
		dir := os.DirFS(m.Dir)
		return []migrationSet{{name: m.Set[0], migrations: func(sqldb.Dialect) fs.FS { return dir }}}, nil
	}
	var sets []migrationSet
	wanted := map[string]bool{}
	for _, name := range m.Set {
		if name != "all" && !strings.HasPrefix(name, "napkin_") {
			name = "napkin_" + name
		}
		wanted[name] = true
	}
	for _, s := range migrationSets {
		if wanted[s.name] || wanted["all"] {
			sets = append(sets, s)
			delete(wanted, s.name)
		}
	}
	delete(wanted, "all")
	for name := range wanted {
		return nil, fmt.Errorf("there is no set %s; there are %s, and all", name, setNames())
	}
	if len(sets) == 0 {
		return nil, fmt.Errorf("name the sets with --set: %s, or all", setNames())
	}
	return sets, nil
}

func setNames() string {
	var names []string
	for _, s := range migrationSets {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// migrateDatabase is a command's database.
type migrateDatabase struct {
	Database string        `required:"" short:"d" env:"NAPKIN_DATABASE" placeholder:"URL" help:"The service's database: a postgres:// URL, or the path of a SQLite file."`
	Timeout  time.Duration `default:"5m" help:"How long to wait for others that migrate, and for the migrations."`
}

// each runs f on each set, with create also on a SQLite file that is not there yet.
func (d migrateDatabase) each(ctx context.Context, sets []migrationSet, create bool, f func(ctx context.Context, db *sqldb.DB, set string, files fs.FS) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.Timeout)
	defer cancel()
	var db *sqldb.DB
	var err error
	switch _, missing := os.Stat(d.Database); {
	case strings.HasPrefix(d.Database, "postgres://"), strings.HasPrefix(d.Database, "postgresql://"):
		db, err = pgxdb.Open(ctx, d.Database, &pgxdb.Config{MaxConns: 3, IdleInTransaction: d.Timeout})
	case create && errors.Is(missing, fs.ErrNotExist):
		db, err = sqlitedb.Open(ctx, d.Database, nil)
	default:
		db, err = openDatabase(ctx, d.Database)
	}
	if err != nil {
		return err
	}
	defer db.Close()
	for _, s := range sets {
		if err := f(ctx, db, s.name, s.migrations(db.Dialect)); err != nil {
			return err
		}
	}
	return nil
}

type migratePrintCmd struct {
	migrateSets
	Dialect string `required:"" enum:"postgres,sqlite" help:"postgres or sqlite."`
}

func (c *migratePrintCmd) Run() error {
	if len(c.Set) == 0 {
		c.Set = []string{"all"}
	}
	sets, err := c.chosen()
	if err != nil {
		return err
	}
	dialect := sqldb.Postgres
	if c.Dialect == "sqlite" {
		dialect = sqldb.SQLite
	}
	for _, s := range sets {
		if err := migrate.Print(os.Stdout, s.name, s.migrations(dialect)); err != nil {
			return err
		}
	}
	return nil
}

type migrateUpCmd struct {
	migrateSets
	migrateDatabase
}

func (c *migrateUpCmd) Run(ctx context.Context) error {
	sets, err := c.chosen()
	if err != nil {
		return err
	}
	return c.each(ctx, sets, true, func(ctx context.Context, db *sqldb.DB, set string, files fs.FS) error {
		if err := migrate.Up(ctx, db, set, files); err != nil {
			return err
		}
		states, err := migrate.Status(ctx, db, set, files)
		if err != nil {
			return err
		}
		_, err = fmt.Printf("%s is at version %d\n", set, newest(states))
		return err
	})
}

// newest is the highest applied version, 0 where there is none.
func newest(states []migrate.State) int64 {
	var v int64
	for _, s := range states {
		if s.Applied {
			v = max(v, s.Version)
		}
	}
	return v
}

type migrateDownCmd struct {
	migrateSets
	migrateDatabase
	Yes bool `help:"Lose the data of these sets."`
}

func (c *migrateDownCmd) Run(ctx context.Context) error {
	sets, err := c.chosen()
	if err != nil {
		return err
	}
	if !c.Yes {
		return errors.New("down drops tables with all that is in them: add --yes to do it")
	}
	slices.Reverse(sets)
	return c.each(ctx, sets, false, func(ctx context.Context, db *sqldb.DB, set string, files fs.FS) error {
		if err := migrate.Down(ctx, db, set, files); err != nil {
			return err
		}
		_, err := fmt.Printf("%s is taken back\n", set)
		return err
	})
}

type migrateStatusCmd struct {
	migrateSets
	migrateDatabase
}

func (c *migrateStatusCmd) Run(ctx context.Context) error {
	if len(c.Set) == 0 {
		c.Set = []string{"all"}
	}
	sets, err := c.chosen()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SET\tFILE\tAPPLIED")
	var wrong []string
	err = c.each(ctx, sets, false, func(ctx context.Context, db *sqldb.DB, set string, files fs.FS) error {
		states, err := migrate.Status(ctx, db, set, files)
		if err != nil {
			return err
		}
		for _, s := range states {
			applied := "no"
			if s.Applied {
				applied = s.At.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\n", set, s.File, applied)
		}
		switch err := migrate.Check(ctx, db, set, files); {
		case errors.Is(err, migrate.ErrPending):
			wrong = append(wrong, set+" lacks a migration")
		case errors.Is(err, migrate.ErrChanged):
			wrong = append(wrong, err.Error())
		case err != nil:
			return err
		}
		return nil
	})
	if err := errors.Join(w.Flush(), err); err != nil {
		return err
	}
	if len(wrong) > 0 {
		return found("%s; apply what is missing with napkin migrate up", strings.Join(wrong, ", "))
	}
	return nil
}
