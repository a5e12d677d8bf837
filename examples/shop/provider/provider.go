package provider

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/kit/sqldb/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Fault is what goes wrong with one request.
type Fault int

const (
	// NoFault answers as usual.
	NoFault Fault = iota
	// LoseRequest records nothing and leaves the caller without an answer.
	LoseRequest
	// LoseAnswer records the operation and leaves the caller without an answer.
	LoseAnswer
	// Unavailable records nothing and answers 503.
	Unavailable
	// FailAfter records the operation and answers 500.
	FailAfter
)

// Config configures a [Simulator]. DB and Key are required.
type Config struct {
	// DB is the simulator's own ledger. New migrates it.
	DB *sqldb.DB
	// Key is the bearer key of its one merchant.
	Key string
	// HangFor bounds how long a caller is left without an answer, unless it
	// gives up before. Defaults to 30 s.
	HangFor time.Duration
	// LateBy is how long a late capture stays pending. Defaults to 3 s.
	LateBy time.Duration
	// Fault decides, for each POST, what goes wrong beside what the card asks
	// for. It must be safe for concurrent use. Defaults to nothing.
	Fault func(kind Kind, key string) Fault
	// Now is the clock. Defaults to time.Now.
	Now func() time.Time
	// Logger gets one line for each operation, without card data. Defaults to
	// slog.Default().
	Logger *slog.Logger
}

// Simulator is the simulated provider. It is safe for concurrent use.
type Simulator struct {
	cfg    Config
	book   book
	closed chan struct{}
	once   sync.Once
}

// New migrates cfg.DB and returns a simulator on it.
func New(ctx context.Context, cfg Config) (*Simulator, error) {
	switch {
	case cfg.DB == nil:
		return nil, errors.New("provider: Config.DB is nil; give the simulator a database of its own")
	case cfg.Key == "":
		return nil, errors.New("provider: Config.Key is empty; set the merchant's bearer key")
	}
	if cfg.HangFor <= 0 {
		cfg.HangFor = 30 * time.Second
	}
	if cfg.LateBy <= 0 {
		cfg.LateBy = 3 * time.Second
	}
	if cfg.Fault == nil {
		cfg.Fault = func(Kind, string) Fault { return NoFault }
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, fmt.Errorf("provider: migrations: %w", err)
	}
	if err := migrate.Up(ctx, cfg.DB, "provider", files); err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	s := &Simulator{cfg: cfg, closed: make(chan struct{})}
	s.book = book{db: cfg.DB, now: cfg.Now, lateBy: cfg.LateBy}
	return s, nil
}

// Close lets go of the callers that are kept waiting, so that an http.Server
// can shut down. It leaves the database open.
func (s *Simulator) Close() { s.once.Do(func() { close(s.closed) }) }

// hang keeps a caller waiting until it gives up.
func (s *Simulator) hang(r *http.Request) {
	t := time.NewTimer(s.cfg.HangFor)
	defer t.Stop()
	select {
	case <-r.Context().Done():
	case <-s.closed:
	case <-t.C:
	}
}
