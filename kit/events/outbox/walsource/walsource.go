package walsource

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/napkin-kit/napkin/kit/events/outbox"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Config tunes [New]. The zero value is ready to use.
type Config struct {
	// Name tells the slots of one server apart: the slot is napkin_outbox_ and the
	// name, of lower-case letters, digits and _. Give one where a database has two
	// outboxes. Defaults to the database's oid.
	Name string
	// Publication names the publication of the outbox's tables, which is made where
	// it does not exist. Defaults to napkin_outbox.
	Publication string
	// MaxLag is how many bytes of the write-ahead log the slot may keep. Beyond it
	// the slot is given up and made anew. Allow for what the server writes in a
	// minute: a slot's position moves about four times in one. Defaults to 1 GiB.
	MaxLag int64
	// CheckEvery is how often the lag is looked at. Defaults to 5 s.
	CheckEvery time.Duration
	// Hooks observe the source.
	Hooks Hooks
	// Logger for what an operator should know. Defaults to slog.Default().
	Logger *slog.Logger
}

// Hooks observe a source, for metrics and alarms. Every func may be nil; they
// should return at once.
type Hooks struct {
	// Streaming is called when the source begins to hand over what is committed,
	// and when that ends.
	Streaming func(ctx context.Context, on bool)
	// Lag is called at every check with the bytes of the write-ahead log that the
	// slot keeps.
	Lag func(ctx context.Context, bytes int64)
	// Alarm is called when the slot is given up: because it kept so many bytes,
	// more than MaxLag, or with 0 because the server took the log away from it.
	Alarm func(ctx context.Context, bytes int64)
}

// Source is an outbox.Source. It belongs to one relay at a time.
type Source struct {
	db   *sqldb.DB
	conn *pgconn.Config
	cfg  Config
}

var _ outbox.Source = (*Source)(nil)

// tables are the ring that the publication publishes.
var tables = []string{"napkin_outbox_0", "napkin_outbox_1", "napkin_outbox_2", "napkin_outbox_3"}

var validName = regexp.MustCompile(`^[a-z0-9_]{1,49}$`)

// New returns a source for the outbox in db. url names the same database (a
// PostgreSQL URL or keyword string) for a connection of its own, with a role that
// may replicate. New connects to nothing: see Check.
func New(db *sqldb.DB, url string, cfg *Config) (*Source, error) {
	s := &Source{db: db}
	if cfg != nil {
		s.cfg = *cfg
	}
	if db == nil || db.Dialect != sqldb.Postgres {
		return nil, errors.New("walsource: New needs a PostgreSQL database: no other has logical decoding")
	}
	var err error
	if s.conn, err = pgconn.ParseConfig(url); err != nil {
		return nil, fmt.Errorf("walsource: the database URL does not parse: %w", err) // pgx masks the password
	}
	s.conn.RuntimeParams["replication"] = "database"
	s.conn.RuntimeParams["application_name"] = "napkin_outbox"
	if s.conn.ConnectTimeout == 0 {
		s.conn.ConnectTimeout = 5 * time.Second
	}
	c := &s.cfg
	if c.Name != "" && !validName.MatchString(c.Name) {
		return nil, fmt.Errorf("walsource: Config.Name %q: use up to 49 lower-case letters, digits and _", c.Name)
	}
	if c.MaxLag < 0 || c.CheckEvery < 0 {
		return nil, fmt.Errorf("walsource: Config.MaxLag %d, CheckEvery %v: must not be negative", c.MaxLag, c.CheckEvery)
	}
	if c.MaxLag == 0 {
		c.MaxLag = 1 << 30
	}
	if c.CheckEvery == 0 {
		c.CheckEvery = 5 * time.Second
	}
	if c.Publication == "" {
		c.Publication = "napkin_outbox"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return s, nil
}

// Check returns an error that says what the server or the role lacks. It connects,
// and changes nothing.
func (s *Source) Check(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	hangUp(conn)
	var level string
	if err := s.db.Write.QueryRowContext(ctx, `SHOW wal_level`).Scan(&level); err != nil {
		return fmt.Errorf("walsource: %w", err)
	}
	if level != "logical" {
		return fmt.Errorf("walsource: the server's wal_level is %s: set it with ALTER SYSTEM SET wal_level = 'logical' and restart the server", level)
	}
	return nil
}

const (
	insufficientPrivilege = "42501"
	objectInUse           = "55006"
	undefinedObject       = "42704"
)

func (s *Source) connect(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := pgconn.ConnectConfig(ctx, s.conn)
	if sqldb.SQLState(err) == insufficientPrivilege {
		return nil, fmt.Errorf("walsource: the role may not replicate: ALTER ROLE %s REPLICATION: %w", quoted(s.conn.User), err)
	}
	if err != nil {
		return nil, fmt.Errorf("walsource: connect to %s at %s: %w", s.conn.Database, s.conn.Host, err)
	}
	return conn, nil
}

// hangUp closes the connection, which holds nothing but the slot.
func hangUp(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

func quoted(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// publish makes the publication what it must be and reports whether it was not.
func (s *Source) publish(ctx context.Context) (changed bool, err error) {
	list := strings.Join(tables, ", ")
	err = sqldb.InTx(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		var inserts sql.NullBool
		var has int
		err := tx.QueryRowContext(ctx, `SELECT (SELECT pubinsert FROM pg_publication WHERE pubname = $1),
			(SELECT count(*) FROM pg_publication p JOIN pg_publication_rel r ON r.prpubid = p.oid WHERE p.pubname = $1
				AND r.prrelid IN ($2::text::regclass, $3::text::regclass, $4::text::regclass, $5::text::regclass))`,
			s.cfg.Publication, tables[0], tables[1], tables[2], tables[3]).Scan(&inserts, &has)
		if err != nil || inserts.Bool && has == len(tables) {
			return err
		}
		changed = true
		if !inserts.Valid {
			_, err = tx.ExecContext(ctx, `CREATE PUBLICATION `+quoted(s.cfg.Publication)+` FOR TABLE `+list+` WITH (publish = 'insert')`)
			return err
		}
		if _, err = tx.ExecContext(ctx, `ALTER PUBLICATION `+quoted(s.cfg.Publication)+` SET TABLE `+list); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `ALTER PUBLICATION `+quoted(s.cfg.Publication)+` SET (publish = 'insert')`)
		return err
	})
	if sqldb.SQLState(err) == insufficientPrivilege {
		return false, fmt.Errorf("walsource: let the owner of the tables make the publication: CREATE PUBLICATION %s FOR TABLE %s WITH (publish = 'insert'): %w",
			quoted(s.cfg.Publication), list, err)
	}
	if err != nil {
		return false, fmt.Errorf("walsource: publication %s: %w", s.cfg.Publication, err)
	}
	return changed, nil
}

// Drop drops the slot and the publication that a source with this configuration
// made, for when it is no longer used: a slot that nobody reads keeps the
// write-ahead log for ever. Stop the relays that use it first. Where there is
// nothing to drop it returns nil.
func Drop(ctx context.Context, db *sqldb.DB, cfg *Config) error {
	s, err := New(db, "", cfg)
	if err != nil {
		return err
	}
	slot, err := s.slot(ctx)
	if err != nil {
		return fmt.Errorf("walsource: drop: %w", err)
	}
	if _, err := db.Write.ExecContext(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1`, slot); err != nil {
		return fmt.Errorf("walsource: drop slot %s: %w", slot, err)
	}
	if _, err := db.Write.ExecContext(ctx, `DROP PUBLICATION IF EXISTS `+quoted(s.cfg.Publication)); err != nil {
		return fmt.Errorf("walsource: drop publication %s: %w", s.cfg.Publication, err)
	}
	return nil
}
