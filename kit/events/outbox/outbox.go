package outbox

import (
	"embed"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Config tunes [New]. The zero value is ready to use.
type Config struct {
	// Hooks carry the trace context into events; Inject is used.
	Hooks events.Hooks
	// MaxData bounds an event's data, in bytes. Larger ones are refused by
	// Append, where their author sees it, rather than by the broker, where they
	// would hold up their key. Defaults to 512 KiB (NATS takes 1 MiB at most).
	MaxData int
	// Retention is how long published rows are kept, to be published again
	// should the broker lose them. Keep it longer than the broker may take to
	// make its writes durable, and shorter than the consumers' inboxes. On
	// PostgreSQL rows go a segment at a time, so they stay up to twice as long.
	// Processes that share an outbox give the same. Defaults to 24 h.
	Retention time.Duration
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
}

// Outbox writes events into the caller's transactions. It is safe for
// concurrent use and holds no connection.
type Outbox struct {
	dialect sqldb.Dialect
	source  string
	cfg     Config

	mu     sync.Mutex
	sleeps map[*sleeper]struct{} // one for each running relay
}

// New returns an Outbox. source becomes the Source of every event: the
// service's name. The tables come from [Migrations].
func New(d sqldb.Dialect, source string, cfg *Config) (*Outbox, error) {
	o := &Outbox{dialect: d, source: source, sleeps: make(map[*sleeper]struct{})}
	if cfg != nil {
		o.cfg = *cfg
	}
	if !d.Valid() {
		return nil, fmt.Errorf("outbox: dialect %v: use sqldb.Postgres or sqldb.SQLite", d)
	}
	if source == "" || len(source) > events.MaxNameLength {
		return nil, fmt.Errorf("outbox: source %q: give the service's name, at most %d bytes", source, events.MaxNameLength)
	}
	if o.cfg.MaxData < 0 {
		return nil, fmt.Errorf("outbox: MaxData %d: must not be negative", o.cfg.MaxData)
	}
	if o.cfg.MaxData == 0 {
		o.cfg.MaxData = 512 << 10
	}
	if o.cfg.Retention < 0 {
		return nil, fmt.Errorf("outbox: Retention %v: must not be negative", o.cfg.Retention)
	}
	if o.cfg.Retention == 0 {
		o.cfg.Retention = 24 * time.Hour
	}
	if o.cfg.Now == nil {
		o.cfg.Now = time.Now
	}
	return o, nil
}

// Set is the name of the migrations' set for migrate.Up.
const Set = "napkin_outbox"

//go:embed migrations
var migrations embed.FS

// Migrations returns the outbox's tables as goose migrations (plain up and down
// SQL) for the dialect. Their set is [Set].
func Migrations(d sqldb.Dialect) fs.FS {
	sub, err := fs.Sub(migrations, "migrations/"+d.String())
	if err != nil {
		panic(err) // only a malformed path fails, and ours are constants
	}
	return sub
}
