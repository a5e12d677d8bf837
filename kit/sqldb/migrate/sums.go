package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// sum is the checksum of a migration's text, whatever the line ends that a
// checkout gave it.
func sum(fsys fs.FS, name string) (string, error) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return "", err
	}
	h := sha256.Sum256(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")))
	return hex.EncodeToString(h[:]), nil
}

func createSums(ctx context.Context, x sqldb.Execer, set string) error {
	_, err := x.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS `+set+`_migration_sums (
	version BIGINT NOT NULL PRIMARY KEY,
	file    TEXT   NOT NULL,
	sha256  TEXT   NOT NULL
)`)
	// Two replicas that create it at once: PostgreSQL lets one fail.
	if err != nil && !sqldb.IsUnique(err) {
		return fmt.Errorf("migrate: set %s: create the checksum table: %w", set, err)
	}
	return nil
}

// verifySums compares the files with what was applied.
func verifySums(ctx context.Context, db *sqldb.DB, set string, fsys fs.FS) error {
	if err := createSums(ctx, db.Write, set); err != nil {
		return err
	}
	rows, err := db.Write.QueryContext(ctx, `SELECT version, file, sha256 FROM `+set+`_migration_sums`)
	if err != nil {
		return fmt.Errorf("migrate: set %s: read checksums: %w", set, err)
	}
	defer rows.Close()
	applied := map[int64]string{}
	for rows.Next() {
		var version int64
		var file, want string
		if err := rows.Scan(&version, &file, &want); err != nil {
			return fmt.Errorf("migrate: set %s: read checksums: %w", set, err)
		}
		applied[version] = want
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("migrate: set %s: read checksums: %w", set, err)
	}
	names, err := files(fsys)
	if err != nil {
		return fmt.Errorf("migrate: set %s: %w", set, err)
	}
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return fmt.Errorf("migrate: set %s, file %s: %w", set, name, err)
		}
		got, err := sum(fsys, name)
		if err != nil {
			return fmt.Errorf("migrate: set %s: %w", set, err)
		}
		if want, ok := applied[version]; ok && want != got {
			return fmt.Errorf("%w (set %s, file %s)", ErrChanged, set, name)
		}
	}
	return nil
}

// recordSums makes the checksum table mirror what is applied.
func recordSums(ctx context.Context, db *sqldb.DB, set string, fsys fs.FS, p *goose.Provider) error {
	if err := createSums(ctx, db.Write, set); err != nil {
		return err
	}
	states, err := status(ctx, set, p)
	if err != nil {
		return err
	}
	return sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		for _, s := range states {
			if !s.Applied {
				if _, err := tx.ExecContext(ctx, `DELETE FROM `+set+`_migration_sums WHERE version = $1`, s.Version); err != nil {
					return fmt.Errorf("migrate: set %s: forget a checksum: %w", set, err)
				}
				continue
			}
			hash, err := sum(fsys, s.File)
			if err != nil {
				return fmt.Errorf("migrate: set %s: %w", set, err)
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO `+set+`_migration_sums (version, file, sha256)
VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`, s.Version, s.File, hash)
			if err != nil {
				return fmt.Errorf("migrate: set %s: record a checksum: %w", set, err)
			}
		}
		return nil
	})
}

// advisoryLock is a goose session locker. It polls instead of waiting inside
// the server: a session that waits holds a snapshot, on which a concurrent
// CREATE INDEX CONCURRENTLY of the lock's holder would wait in turn.
type advisoryLock string

const lockPoll = 50 * time.Millisecond

func (l advisoryLock) id() int64 {
	h := fnv.New64a()
	h.Write([]byte("napkin migrate " + string(l)))
	return int64(h.Sum64()) //nolint:gosec // any 64 bits will do
}

func (l advisoryLock) SessionLock(ctx context.Context, conn *sql.Conn) error {
	tick := time.NewTicker(lockPoll)
	defer tick.Stop()
	for {
		var got bool
		if err := conn.QueryRowContext(ctx, `SELECT pg_try_advisory_lock($1)`, l.id()).Scan(&got); err != nil {
			return fmt.Errorf("take the migration lock: %w", err)
		}
		if got {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the migration lock, which another replica holds: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func (l advisoryLock) SessionUnlock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, `SELECT pg_advisory_unlock($1)`, l.id())
	return err
}
