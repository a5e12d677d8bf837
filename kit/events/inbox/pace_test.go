package inbox

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
	"github.com/napkin-kit/napkin/kit/sqldb/sqlitedb"
)

func TestPace(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	p := newPace(64, sqldb.Postgres)
	p.now = func() time.Time { return now }
	want := func(n int) {
		t.Helper()
		if got := p.limit(); got != n {
			t.Fatalf("limit %d, want %d", got, n)
		}
	}
	want(8)
	p.succeeded(3, time.Millisecond) // was not full: says nothing
	want(8)
	for range 5 {
		p.succeeded(p.limit(), time.Millisecond)
	}
	want(64)
	p.succeeded(3, 100*time.Millisecond) // a hiccup, and no full one
	want(64)
	p.succeeded(64, 100*time.Millisecond)
	want(32)
	p.failed(errors.New("a handler's"))
	want(16)
	// A handler that hangs in company ends the sharing for longer each time.
	p.failed(context.DeadlineExceeded)
	p.succeeded(1, time.Millisecond)
	want(1)
	now = now.Add(time.Second)
	p.failed(context.DeadlineExceeded)
	now = now.Add(1500 * time.Millisecond)
	p.succeeded(1, time.Millisecond)
	want(1)
	now = now.Add(500 * time.Millisecond)
	p.succeeded(1, time.Millisecond)
	want(2)
}

// slowCommits is a runner on a disk that is slow.
type slowCommits struct {
	sqldb.Runner[*sql.Tx]
	committing func()
}

func (r slowCommits) InTx(ctx context.Context, fn func(context.Context, *sql.Tx) error) error {
	err := r.Runner.InTx(ctx, fn)
	r.committing()
	return err
}

func TestPaceDoesNotCountCommits(t *testing.T) {
	db, err := sqlitedb.Open(t.Context(), filepath.Join(t.TempDir(), "i.db"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := migrate.Up(t.Context(), db, Set, Migrations(db.Dialect)); err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_700_000_000, 0)
	disk := slowCommits{sqldb.Std(db), func() { now = now.Add(time.Minute) }}
	c, err := NewConsumer("mail", db, disk, memevents.New(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	c.pace.now = func() time.Time { return now }
	handled := time.Duration(0)
	c.Handle("orders", "placed", func(context.Context, *sql.Tx, events.Event) error {
		now = now.Add(handled)
		return nil
	})
	batch := func(n int) {
		t.Helper()
		j := &job{ctx: t.Context(), parts: []part{{}}}
		for range n {
			e := events.Event{ID: rand.Text(), Topic: "orders", Type: "placed", Key: "k"}
			j.parts[0].items = append(j.parts[0].items, &item{event: e})
		}
		if err := c.handleAll(j); err != nil {
			t.Fatal(err)
		}
	}
	batch(8)
	if got := c.pace.limit(); got != 16 {
		t.Errorf("limit %d after a full transaction that was slow to commit only, want 16", got)
	}
	handled = time.Second
	batch(16)
	if got := c.pace.limit(); got != 8 {
		t.Errorf("limit %d after a full transaction of slow handlers, want 8", got)
	}
}
