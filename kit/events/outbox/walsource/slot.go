package walsource

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// slot returns the slot's name.
func (s *Source) slot(ctx context.Context) (name string, err error) {
	if s.cfg.Name != "" {
		return "napkin_outbox_" + s.cfg.Name, nil
	}
	err = s.db.Write.QueryRowContext(ctx, `SELECT 'napkin_outbox_' || oid FROM pg_database WHERE datname = current_database()`).Scan(&name)
	return name, err
}

// ready makes the slot where there is none of use, and returns its position. A
// slot is no older than the publication: what it would decode of the time before
// fails, or lacks rows of transactions that were open then.
func (s *Source) ready(ctx context.Context, slot string, anew bool) (pglogrepl.LSN, error) {
	var plugin, status string
	var ours bool
	var at sql.NullString
	err := s.db.Write.QueryRowContext(ctx, `SELECT coalesce(plugin, ''), coalesce(database = current_database(), false), coalesce(wal_status, ''), confirmed_flush_lsn::text
		FROM pg_replication_slots WHERE slot_name = $1`, slot).Scan(&plugin, &ours, &status, &at)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return s.create(ctx, slot)
	case err != nil:
		return 0, fmt.Errorf("walsource: look for slot %s: %w", slot, err)
	case plugin != "pgoutput" || !ours:
		return 0, fmt.Errorf("walsource: slot %s is another database's or not of pgoutput: drop it, or give Config.Name", slot)
	case status == "lost":
		s.cfg.Logger.ErrorContext(ctx, "walsource: the slot kept more than max_slot_wal_keep_size and was lost; it is made anew, and the tables are read meanwhile", "slot", slot)
		s.alarm(ctx, 0)
		anew = true
	}
	if anew || !at.Valid {
		if err := s.drop(ctx, slot); err != nil {
			return 0, err
		}
		return s.create(ctx, slot)
	}
	return pglogrepl.ParseLSN(at.String)
}

func (s *Source) alarm(ctx context.Context, bytes int64) {
	if f := s.cfg.Hooks.Alarm; f != nil {
		f(ctx, bytes)
	}
}

// create waits until every transaction that is writing now has ended.
func (s *Source) create(ctx context.Context, slot string) (pglogrepl.LSN, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer hangUp(conn)
	made, err := pglogrepl.CreateReplicationSlot(ctx, conn, slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{
		Mode: pglogrepl.LogicalReplication, SnapshotAction: "NOEXPORT_SNAPSHOT"})
	if err != nil {
		return 0, fmt.Errorf("walsource: create slot %s: %w", slot, err)
	}
	return pglogrepl.ParseLSN(made.ConsistentPoint)
}

// drop drops the slot where it exists.
func (s *Source) drop(ctx context.Context, slot string) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer hangUp(conn)
	if err := s.evict(ctx, slot); err != nil {
		return err
	}
	err = pglogrepl.DropReplicationSlot(ctx, conn, slot, pglogrepl.DropReplicationSlotOptions{Wait: true})
	if err != nil && sqldb.SQLState(err) != undefinedObject {
		return fmt.Errorf("walsource: drop slot %s: %w", slot, err)
	}
	return nil
}

// evict ends the connection that reads the slot: its relay has lost its lease, and
// the server has not noticed that it is gone.
func (s *Source) evict(ctx context.Context, slot string) error {
	_, err := s.db.Write.ExecContext(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active_pid IS NOT NULL`, slot)
	if err != nil {
		return fmt.Errorf("walsource: slot %s is read by a connection that may not be ended (GRANT pg_signal_backend, or wait for wal_sender_timeout): %w", slot, err)
	}
	return nil
}

// start returns a connection on which the slot's changes arrive.
func (s *Source) start(ctx context.Context, slot string) (*pgconn.PgConn, error) {
	list := strings.ReplaceAll(quoted(s.cfg.Publication), "'", "''")
	for tries := 0; ; tries++ {
		conn, err := s.connect(ctx)
		if err != nil {
			return nil, err
		}
		args := []string{"proto_version '1'", "publication_names '" + list + "'"}
		if version(conn) >= 14 {
			args = append(args, "binary 'true'") // else bytea comes in twice its size
		}
		err = pglogrepl.StartReplication(ctx, conn, slot, 0, pglogrepl.StartReplicationOptions{Mode: pglogrepl.LogicalReplication, PluginArgs: args})
		if err == nil {
			return conn, nil
		}
		hangUp(conn)
		if sqldb.SQLState(err) != objectInUse || tries == 100 {
			return nil, fmt.Errorf("walsource: read slot %s: %w", slot, err)
		}
		if err := s.evict(ctx, slot); err != nil {
			return nil, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func version(conn *pgconn.PgConn) int {
	text := conn.ParameterStatus("server_version")
	digits := strings.IndexFunc(text, func(c rune) bool { return c < '0' || c > '9' })
	if digits < 0 {
		digits = len(text)
	}
	n, _ := strconv.Atoi(text[:digits]) // 0 where it is unknown: then an old one
	return n
}

// useless reports whether nothing can be read from the slot any more: it or its
// publication was dropped, or the server has taken its log away.
func useless(err error) bool {
	switch sqldb.SQLState(err) {
	case undefinedObject, "55000" /* object_not_in_prerequisite_state */, "58P01" /* undefined_file */ :
		return true
	}
	return false
}
