// Package natstest runs real NATS servers with JetStream for tests, inside the
// test's process.
//
//	s := natstest.Start(t)
//	nc := s.Conn(t)
//	s.Restart()                    // same port, same files
//	s.Rollback(s.Snapshot())       // forgets what was stored in between
//
// [Serve] runs a server until a context ends: the body of a process of its own.
package natstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

const startTimeout = 20 * time.Second

// Config says where a server listens and keeps its streams.
type Config struct {
	// Addr is a loopback address with its port; port 0 picks a free one.
	Addr string
	// Dir holds the streams.
	Dir string
	// MaxPayload bounds a message, in bytes. Defaults to 1 MiB.
	MaxPayload int
}

// Server is a NATS server in this process. Its methods are not safe for
// concurrent use.
type Server struct {
	URL string // "nats://127.0.0.1:port"; stays the same over a restart

	t   testing.TB
	cfg Config
	s   *server.Server
}

// Start runs a server until the test ends.
func Start(t testing.TB) *Server { return StartConfig(t, Config{}) }

// StartConfig is Start with a Config; what is empty is chosen.
func StartConfig(t testing.TB, cfg Config) *Server {
	t.Helper()
	if cfg.Addr == "" {
		cfg.Addr = "127.0.0.1:0"
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	s := &Server{t: t, cfg: cfg}
	s.up()
	s.cfg.Addr = s.s.Addr().String()
	s.URL = "nats://" + s.cfg.Addr
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) up() {
	s.t.Helper()
	srv, err := run(s.cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.s = srv
}

func run(cfg Config) (*server.Server, error) {
	host, port, err := net.SplitHostPort(cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("natstest: address %q: %w", cfg.Addr, err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, fmt.Errorf("natstest: port of %q: %w", cfg.Addr, err)
	}
	if n == 0 {
		n = server.RANDOM_PORT
	}
	srv, err := server.NewServer(&server.Options{
		Host: host, Port: n,
		JetStream: true, StoreDir: cfg.Dir,
		MaxPayload: int32(cfg.MaxPayload), //nolint:gosec // a test's number; 0 means the default
		NoSigs:     true, NoLog: true,
	})
	if err != nil {
		return nil, fmt.Errorf("natstest: %w", err)
	}
	srv.Start()
	if !srv.ReadyForConnections(startTimeout) {
		srv.Shutdown()
		return nil, fmt.Errorf("natstest: the server on %s was not ready within %v", cfg.Addr, startTimeout)
	}
	return srv, nil
}

// Stop ends the server; its files stay. Stopping a stopped server does nothing.
func (s *Server) Stop() {
	if s.s != nil {
		s.s.Shutdown()
		s.s.WaitForShutdown()
		s.s = nil
	}
}

// Restart stops the server, where it runs, and starts it on the same port and
// files.
func (s *Server) Restart() {
	s.t.Helper()
	s.Stop()
	s.up()
}

// Snapshot stops the server, copies its files, starts it again and returns the
// copy.
func (s *Server) Snapshot() string {
	s.t.Helper()
	s.Stop()
	dir := filepath.Join(s.t.TempDir(), "snapshot")
	if err := os.CopyFS(dir, os.DirFS(s.cfg.Dir)); err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	s.up()
	return dir
}

// Rollback stops the server and starts it on the files of a snapshot: whatever
// it acknowledged since is lost, as after a power failure between two syncs.
func (s *Server) Rollback(snapshot string) {
	s.t.Helper()
	s.Stop()
	err := os.RemoveAll(s.cfg.Dir)
	if err == nil {
		err = os.CopyFS(s.cfg.Dir, os.DirFS(snapshot))
	}
	if err != nil {
		s.t.Fatalf("natstest: %v", err)
	}
	s.up()
}

// Conn returns a connection that reconnects for ever, closed when the test
// ends.
func (s *Server) Conn(t testing.TB, options ...nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond),
		nats.ReconnectJitter(time.Millisecond, time.Millisecond), nats.ReconnectBufSize(-1),
	}, options...)
	nc, err := nats.Connect(s.URL, options...)
	if err != nil {
		t.Fatalf("natstest: %v", err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// Serve runs a server until ctx ends. ready is called with its URL.
func Serve(ctx context.Context, cfg Config, ready func(url string)) error {
	if cfg.Dir == "" || cfg.Addr == "" {
		return errors.New("natstest: Serve needs Config.Addr and Config.Dir")
	}
	srv, err := run(cfg)
	if err != nil {
		return err
	}
	defer srv.WaitForShutdown()
	defer srv.Shutdown()
	ready("nats://" + srv.Addr().String())
	<-ctx.Done()
	return nil
}
