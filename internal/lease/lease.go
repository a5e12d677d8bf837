package lease

import (
	"context"
	"crypto/rand"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// ErrLost says that the node may have been taken for dead, or that a lease has
// another holder. What the holder did since must not be written.
var ErrLost = errors.New("lease: lost")

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_lease"

//go:embed migrations
var migrations embed.FS

// Migrations returns the tables' migrations for goose.
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // fs.Sub fails for an invalid path only, and ours are constant
	}
	return sub
}

// Config tunes [Run] and [Join].
type Config struct {
	// Group names the nodes that share work: "outbox", "saga". Required.
	Group string
	// Name begins the node's id, for people who read it. Defaults to the host's
	// name. The id ends in random letters, since it is never used twice.
	Name string
	// TTL is how long a silent node counts as alive. Defaults to 10 s. The
	// heart beats every third of it.
	TTL time.Duration
	// Exclusive says that no other process uses this database, as with an
	// embedded SQLite file: on joining, all other nodes of the group are
	// declared dead, so that a restart need not wait for the TTL.
	Exclusive bool
	// Now replaces the database's clock, for tests.
	Now func() time.Time
	// Logger defaults to slog.Default().
	Logger *slog.Logger
}

func (c *Config) resolve() (Config, error) {
	if c == nil || c.Group == "" {
		return Config{}, errors.New("lease: Config.Group is required: name the nodes that share work, like \"outbox\"")
	}
	r := *c
	if r.TTL < 0 {
		return r, fmt.Errorf("lease: Config.TTL %v: must not be negative", r.TTL)
	}
	if r.TTL == 0 {
		r.TTL = 10 * time.Second
	}
	if r.Name == "" {
		r.Name, _ = os.Hostname() // for people only; the random part makes the id
	}
	if r.Logger == nil {
		r.Logger = slog.Default()
	}
	return r, nil
}

// Node is this process's membership in a group. It is safe for concurrent use.
type Node struct {
	db  *sqldb.DB
	cfg Config
	id  string
	// The monotonic local time from which others may hold the node for dead.
	// Owned by the goroutine that beats.
	validUntil time.Time

	mu sync.Mutex
	// Leases that the database may hold for this node while nobody here does: the
	// answer to their claim or their release was lost.
	unsure map[string]bool
}

// Join makes this process a member. The caller beats and leaves; most use [Run].
func Join(ctx context.Context, db *sqldb.DB, cfg *Config) (*Node, error) {
	c, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	n := &Node{db: db, cfg: c, unsure: make(map[string]bool), id: strings.TrimPrefix(c.Name+"-", "-") + rand.Text()[:12]}
	n.validUntil = time.Now().Add(c.TTL)
	err = sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		if c.Exclusive {
			if _, err := tx.ExecContext(ctx, `DELETE FROM napkin_nodes WHERE grp = $1`, c.Group); err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO napkin_nodes (node, grp, expires) VALUES ($1, $2, `+n.now()+` + $3)`,
			n.id, c.Group, c.TTL.Microseconds())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lease: join %s: %w", c.Group, err)
	}
	return n, nil
}

// now is the SQL expression for the current time.
func (n *Node) now() string {
	if n.cfg.Now != nil {
		return "CAST(" + strconv.FormatInt(sqldb.Micros(n.cfg.Now()), 10) + " AS BIGINT)"
	}
	return n.db.Dialect.NowMicros()
}

// ID returns the node's id, unique over all time.
func (n *Node) ID() string { return n.id }

// Beat renews the node and buries the dead of its group. It returns ErrLost
// where the node has itself been buried, or was too late to be renewed.
func (n *Node) Beat(ctx context.Context) error {
	start := time.Now() // before the request: the database's deadline is never earlier than ours
	res, err := n.db.Write.ExecContext(ctx, `UPDATE napkin_nodes SET expires = `+n.now()+` + $1
WHERE node = $2 AND expires > `+n.now(), n.cfg.TTL.Microseconds(), n.id)
	if err != nil {
		return fmt.Errorf("lease: beat: %w", err)
	}
	if rows, err := res.RowsAffected(); err != nil || rows != 1 {
		return errors.Join(ErrLost, err)
	}
	n.validUntil = start.Add(n.cfg.TTL)
	return n.bury(ctx)
}

// bury deletes expired rows. The row lock orders it against a concurrent beat:
// one of the two sees the other's result.
func (n *Node) bury(ctx context.Context) error {
	_, err := n.db.Write.ExecContext(ctx, `DELETE FROM napkin_nodes WHERE grp = $1 AND expires <= `+n.now(), n.cfg.Group)
	if err != nil {
		return fmt.Errorf("lease: bury the dead: %w", err)
	}
	return nil
}

// Live returns how many nodes of the group are alive, this one included.
func (n *Node) Live(ctx context.Context) (int, error) {
	var count int
	err := n.db.Read.QueryRowContext(ctx, `SELECT count(*) FROM napkin_nodes WHERE grp = $1 AND expires > `+n.now(),
		n.cfg.Group).Scan(&count)
	if err != nil {
		return 0, fmt.Errorf("lease: count nodes: %w", err)
	}
	return count, nil
}

// Leave gives up every lease and the membership.
func (n *Node) Leave(ctx context.Context) error {
	err := sqldb.InTx(ctx, n.db, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `UPDATE napkin_leases SET node = '' WHERE grp = $1 AND node = $2`, n.cfg.Group, n.id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM napkin_nodes WHERE node = $1`, n.id)
		return err
	})
	if err != nil {
		return fmt.Errorf("lease: leave %s: %w", n.cfg.Group, err)
	}
	return nil
}

// Lease is a named right held by a node.
type Lease struct {
	Name string
	// Epoch is the fencing token: it rises with each change of hands.
	Epoch int64

	node *Node
}

// Claim takes up to limit of the named leases that nobody alive holds. Leases
// that this node holds already are not returned again.
func (n *Node) Claim(ctx context.Context, names []string, limit int) ([]Lease, error) {
	if limit <= 0 {
		return nil, nil
	}
	if err := n.settle(ctx); err != nil {
		return nil, err
	}
	if err := n.bury(ctx); err != nil {
		return nil, err
	}
	free, err := n.free(ctx, names)
	if err != nil {
		return nil, err
	}
	var taken []Lease
	for _, f := range free {
		if len(taken) == limit {
			break
		}
		// One transaction each: a short row lock, and a loser just goes on.
		l := Lease{Name: f, node: n}
		err := sqldb.InTx(ctx, n.db, func(ctx context.Context, tx *sql.Tx) error { return n.claim(ctx, tx, &l) })
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			n.doubt(f) // the commit may have come through all the same
			return taken, fmt.Errorf("lease: claim %s: %w", f, err)
		}
		taken = append(taken, l)
	}
	return taken, nil
}

func (n *Node) doubt(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unsure[name] = true
}

// settle gives up what this node may hold unknown to itself: as long as it lives
// nobody else could.
func (n *Node) settle(ctx context.Context) error {
	n.mu.Lock()
	names := slices.Sorted(maps.Keys(n.unsure))
	n.mu.Unlock()
	for _, name := range names {
		// Where the claim's transaction still runs it has the row's lock.
		_, err := n.db.Write.ExecContext(ctx, `UPDATE napkin_leases SET node = '' WHERE grp = $1 AND name = $2 AND node = $3`, n.cfg.Group, name, n.id)
		if err != nil {
			return fmt.Errorf("lease: give up %s: %w", name, err)
		}
		n.mu.Lock()
		delete(n.unsure, name)
		n.mu.Unlock()
	}
	return nil
}

// claim takes one lease, or returns sql.ErrNoRows where another is faster.
func (n *Node) claim(ctx context.Context, tx *sql.Tx, l *Lease) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO napkin_leases (grp, name, node, epoch) VALUES ($1, $2, '', 0) ON CONFLICT DO NOTHING`,
		n.cfg.Group, l.Name)
	if err != nil {
		return err
	}
	// The row first, in a statement of its own. An UPDATE that waits for the row
	// sees its new holder, but looks for that holder among the nodes as of before
	// it waited, where one that has joined since is missing.
	var holder string
	if err := tx.QueryRowContext(ctx, `SELECT node FROM napkin_leases WHERE grp = $1 AND name = $2`+n.db.Dialect.ForUpdate(),
		n.cfg.Group, l.Name).Scan(&holder); err != nil {
		return err
	}
	return tx.QueryRowContext(ctx, `UPDATE napkin_leases SET node = $1, epoch = epoch + 1
WHERE grp = $2 AND name = $3 AND node <> $1
AND (node = '' OR NOT EXISTS (SELECT 1 FROM napkin_nodes n WHERE n.node = napkin_leases.node))
AND EXISTS (SELECT 1 FROM napkin_nodes n WHERE n.node = $1)
RETURNING epoch`, n.id, n.cfg.Group, l.Name).Scan(&l.Epoch)
}

// free returns those of names that seem to have no living holder.
func (n *Node) free(ctx context.Context, names []string) ([]string, error) {
	rows, err := n.db.Read.QueryContext(ctx, `SELECT l.name FROM napkin_leases l
JOIN napkin_nodes n ON n.node = l.node WHERE l.grp = $1`, n.cfg.Group)
	if err != nil {
		return nil, fmt.Errorf("lease: read leases: %w", err)
	}
	defer rows.Close()
	held := map[string]bool{}
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, fmt.Errorf("lease: read leases: %w", err)
		}
		held[name] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("lease: read leases: %w", err)
	}
	var free []string
	for _, name := range names {
		if !held[name] {
			free = append(free, name)
		}
	}
	return free, nil
}

// Release gives the lease up. Releasing a lost lease does nothing. Where it fails,
// the node's next Claim or Share releases it.
func (l Lease) Release(ctx context.Context) error {
	_, err := l.node.db.Write.ExecContext(ctx, `UPDATE napkin_leases SET node = '' WHERE grp = $1 AND name = $2 AND node = $3 AND epoch = $4`,
		l.node.cfg.Group, l.Name, l.node.id, l.Epoch)
	if err != nil {
		l.node.doubt(l.Name)
		return fmt.Errorf("lease: release %s: %w", l.Name, err)
	}
	return nil
}

// Guard returns ErrLost where the lease has another holder. Where it returns
// nil nobody can take the lease before tx ends.
func (l Lease) Guard(ctx context.Context, tx sqldb.Tx) error {
	query := `SELECT epoch FROM napkin_leases WHERE grp = $1 AND name = $2 AND node = $3 AND epoch = $4`
	if l.node.db.Dialect == sqldb.Postgres {
		query += ` FOR SHARE`
	}
	var epoch int64
	err := tx.QueryRow(ctx, query, l.node.cfg.Group, l.Name, l.node.id, l.Epoch).Scan(&epoch)
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("%w: %s, epoch %d", ErrLost, l.Name, l.Epoch)
	}
	if err != nil {
		return fmt.Errorf("lease: guard %s: %w", l.Name, err)
	}
	return nil
}
