package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/store"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/transport"
	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(pgtest.Main(m)) }

type journal struct {
	mu   sync.Mutex
	evs  []events.Event
	fail error
}

func (j *journal) Append(_ context.Context, _ sqldb.Execer, evs ...events.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.evs = append(j.evs, evs...)
	return j.fail
}

type fixture struct {
	*store.Store
	db      *sqldb.DB
	journal *journal
}

var oldKey, newKey = bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)

// with is the same store with other keys.
func (f fixture) with(t *testing.T, current []byte, former ...[]byte) *store.Store {
	t.Helper()
	keys, err := store.NewKeys(current, former...)
	if err != nil {
		t.Fatal(err)
	}
	return store.New(f.db, keys, f.journal, transport.Encode)
}

func forEach(t *testing.T, test func(t *testing.T, f fixture)) {
	open := map[string]func(t *testing.T) *sqldb.DB{
		"sqlite": func(t *testing.T) *sqldb.DB {
			db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "user.db"), nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = db.Close() })
			return db
		},
		"postgres": func(t *testing.T) *sqldb.DB { return pgtest.DB(t) },
	}
	for _, name := range []string{"sqlite", "postgres"} {
		t.Run(name, func(t *testing.T) {
			f := fixture{db: open[name](t), journal: &journal{}}
			for _, step := range []func() error{
				func() error { return migrate.Up(t.Context(), f.db, "users", store.Migrations()) },
				func() error { return migrate.Down(t.Context(), f.db, "users", store.Migrations()) },
				func() error { return migrate.Up(t.Context(), f.db, "users", store.Migrations()) },
			} {
				if err := step(); err != nil {
					t.Fatal(err)
				}
			}
			f.Store = f.with(t, oldKey)
			test(t, f)
		})
	}
}

func (f fixture) create(t *testing.T, p domain.Profile) error {
	t.Helper()
	return sqldb.InTx(t.Context(), f.db, func(ctx context.Context, tx *sql.Tx) error { return f.Create(ctx, tx, p) })
}

func ann(id string) domain.Profile {
	return domain.New(id, "ann@example.com", "Ann", time.UnixMicro(1_700_000_000_123_456).UTC())
}

func TestProfilesAreSealed(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		p := ann("usr_1")
		for range 2 { // the second time it is there already
			if err := f.create(t, p); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := f.Get(t.Context(), "usr_1"); err != nil || got != p {
			t.Errorf("read %v, %v", got, err)
		}
		if _, err := f.Get(t.Context(), "usr_2"); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("unknown profile: %v", err)
		}
		if len(f.journal.evs) != 1 || f.journal.evs[0].Key != "usr_1" {
			t.Errorf("%d events, want one for usr_1", len(f.journal.evs))
		}
		var row string
		if err := f.db.Read.QueryRowContext(t.Context(), `SELECT id || key_id || personal FROM profiles`).Scan(&row); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(row, "ann") || strings.Contains(row, "Ann") {
			t.Errorf("the row reads %s", row)
		}
		// Somebody who can write to the table cannot give one customer another's data.
		if err := f.create(t, ann("usr_2")); err != nil {
			t.Fatal(err)
		}
		if _, err := f.db.Write.ExecContext(t.Context(), `UPDATE profiles SET personal = (SELECT personal FROM profiles WHERE id = 'usr_1') WHERE id = 'usr_2'`); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Get(t.Context(), "usr_2"); err == nil {
			t.Error("a row with another's personal data opens")
		}
	})
}

func TestUpdatesDoNotLoseEachOther(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		if err := f.create(t, ann("usr_1")); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				_, err := f.Update(t.Context(), "usr_1", func(p domain.Profile) (domain.Profile, bool, error) {
					p.Personal.Address += "x"
					return p, true, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if p, err := f.Get(t.Context(), "usr_1"); err != nil || p.Personal.Address != "xxxxxxxx" || len(f.journal.evs) != 9 {
			t.Errorf("%d changes kept, %d events, %v", len(p.Personal.Address), len(f.journal.evs), err)
		}
		f.journal.fail = errors.New("no")
		if _, err := f.Update(t.Context(), "usr_1", func(p domain.Profile) (domain.Profile, bool, error) {
			p.Prefers.Push = true
			return p, true, nil
		}); !errors.Is(err, f.journal.fail) {
			t.Errorf("without its event: %v", err)
		}
		if p, err := f.Get(t.Context(), "usr_1"); err != nil || p.Prefers.Push {
			t.Errorf("a change stands without its event: %v", err)
		}
		if _, err := f.Update(t.Context(), "usr_9", func(p domain.Profile) (domain.Profile, bool, error) { return p, true, nil }); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("update of nobody: %v", err)
		}
	})
}

func TestKeysAreRotated(t *testing.T) {
	forEach(t, func(t *testing.T, f fixture) {
		const many = 230 // more than two batches
		for i := range many {
			if err := f.create(t, ann(fmt.Sprint("usr_", i))); err != nil {
				t.Fatal(err)
			}
		}
		rotated := f.with(t, newKey, oldKey)
		if got, err := rotated.Get(t.Context(), "usr_7"); err != nil || got != ann("usr_7") {
			t.Errorf("with the former key: %v, %v", got, err)
		}
		if _, err := f.with(t, newKey).Get(t.Context(), "usr_7"); err == nil {
			t.Error("opened without its key")
		}
		if n, err := rotated.Reseal(t.Context()); err != nil || n != many {
			t.Errorf("sealed %d anew, %v; want %d", n, err, many)
		}
		if n, err := rotated.Reseal(t.Context()); err != nil || n != 0 {
			t.Errorf("sealed %d anew the second time, %v", n, err)
		}
		if got, err := f.with(t, newKey).Get(t.Context(), "usr_7"); err != nil || got != ann("usr_7") {
			t.Errorf("with the new key alone: %v, %v", got, err)
		}
		if len(f.journal.evs) != many {
			t.Errorf("%d events; sealing anew is no change", len(f.journal.evs))
		}
	})
	if _, err := store.NewKeys([]byte("short")); err == nil {
		t.Error("a short key was taken")
	}
}
