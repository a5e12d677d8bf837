package outbox_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/napkin-kit/napkin/internal/pgtest"
	"github.com/napkin-kit/napkin/kit/events/memevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

// betweenReads is a connection pool's driver that calls then once, between the
// first statement of a relay's pass that reads rows and the second. A pass that
// knows holes begins by reading the fence.
type betweenReads struct {
	driver.Connector
	mu    sync.Mutex
	fence bool
	then  func()
}

func (b *betweenReads) Connect(ctx context.Context) (driver.Conn, error) {
	c, err := b.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &watchedConn{Conn: c.(*stdlib.Conn), b: b}, nil
}

type watchedConn struct {
	*stdlib.Conn
	b *betweenReads
}

func (c *watchedConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := c.Conn.QueryContext(ctx, query, args) // its snapshot is taken
	c.b.mu.Lock()
	var then func()
	switch {
	case strings.Contains(query, "pg_snapshot_xmin"):
		c.b.fence = true
	case c.b.fence && strings.Contains(query, "napkin_outbox_read"):
		c.b.fence = false
		then, c.b.then = c.b.then, nil
	}
	c.b.mu.Unlock()
	if then != nil {
		then()
	}
	return rows, err
}

func (b *betweenReads) once(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fence, b.then = false, f
}

// A key's first event fills a known hole, its second comes past the cursor, and
// both commit between the two reads of one pass. Whichever of them the pass sees,
// the second must not overtake.
func TestBothReadsOfAPassKeepTheOrder(t *testing.T) {
	url := pgtest.URL(t)
	db, err := pgxdb.Open(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	migrated(t, db)
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	reads := &betweenReads{Connector: stdlib.GetConnector(*cfg)}
	watched := &sqldb.DB{Write: db.Write, Read: sql.OpenDB(reads), Dialect: sqldb.Postgres}
	t.Cleanup(func() { _ = watched.Read.Close() })

	ob, b := newOutbox(t, db), memevents.New(nil)
	late, err := db.Write.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Rollback() }() // a no-op after the commit
	if err := ob.Append(t.Context(), late, event("k", 1)); err != nil {
		t.Fatal(err)
	}
	other := beside("k", "other")
	add(t, db, ob, event(other, 1))
	start(t, watched, ob, b, nil)
	published(t, b, other+"-1") // so the hole is known
	committed := make(chan struct{})
	reads.once(func() {
		defer close(committed)
		if err := late.Commit(); err != nil {
			t.Error(err)
		}
		add(t, db, ob, event("k", 2))
	})
	<-committed
	published(t, b, "k-1", "k-2")
	if got := ids(b.Events("orders")); !slices.Equal(got, []string{other + "-1", "k-1", "k-2"}) {
		t.Errorf("published in the order %v", got)
	}
}
