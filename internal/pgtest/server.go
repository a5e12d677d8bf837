//go:build unix

package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/napkin-kit/napkin/kit/sqldb/pgxdb"
)

const (
	stopTimeout = 20 * time.Second
	prefix      = "np-pg-"
)

// Server is a PostgreSQL server that this process started. Its methods are safe
// for concurrent use.
type Server struct {
	dir    string // data and log
	socket string // folder of the Unix socket; short, for its path is bounded to 107 bytes
	port   int
	tcp    bool
	own    bool // remove dir when closed
	opts   []string
	bin    string
	cred   *syscall.Credential

	mu   sync.Mutex
	proc *process
}

// process is one run of the server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and been reaped
}

// Find returns the folder with the newest installed PostgreSQL programs.
func Find() (string, error) {
	if p, err := exec.LookPath("initdb"); err == nil {
		if p, err := filepath.EvalSymlinks(p); err == nil && executable(filepath.Join(filepath.Dir(p), "postgres")) {
			return filepath.Dir(p), nil
		}
	}
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin") // the pattern is well-formed
	more, _ := filepath.Glob("/usr/pgsql-*/bin")
	dirs = append(dirs, more...)
	slices.SortFunc(dirs, func(a, b string) int { return len(b) - len(a) + strings.Compare(b, a) })
	for _, dir := range dirs {
		if executable(filepath.Join(dir, "initdb")) && executable(filepath.Join(dir, "postgres")) {
			return dir, nil
		}
	}
	return "", ErrNotInstalled
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && !st.IsDir() && st.Mode()&0o111 != 0
}

// Start starts a server on the data in dir, which is made where it does not
// exist, with fsync on. An empty dir means a temporary folder that Close
// removes. With port 0 the server listens on a Unix socket only; otherwise also
// on 127.0.0.1:port. Options are further settings, "name=value".
//
// The server's user must be able to reach dir: when the tests run as root the
// server runs as the user postgres, which cannot enter a folder of
// testing.T.TempDir. The caller ends the server with Close; it also ends, at
// once, when this process does.
func Start(dir string, port int, options ...string) (*Server, error) {
	bin, err := Find()
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, port: port, tcp: port != 0, bin: bin, opts: options}
	if s.port == 0 {
		s.port = 5432 // names the socket; the folder makes it unique
	}
	if s.cred, err = unprivileged(); err != nil {
		return nil, err
	}
	if err := s.makeDirs(); err != nil {
		return nil, errors.Join(err, s.removeDirs())
	}
	if err := s.initdb(); err != nil {
		return nil, errors.Join(err, s.removeDirs())
	}
	if err := s.Restart(); err != nil {
		return nil, errors.Join(err, s.removeDirs())
	}
	return s, nil
}

// URL returns the URL of a database of this server, for the superuser.
func (s *Server) URL(database string) string {
	if s.tcp {
		return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", s.port, database)
	}
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d&sslmode=disable", database, s.socket, s.port)
}

// Dir returns the folder of the server's data.
func (s *Server) Dir() string { return s.dir }

// Restart starts the server, stopping it first where it runs. It returns once
// the server answers.
func (s *Server) Restart() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stop(syscall.SIGINT); err != nil {
		return err
	}
	if err := s.start(); err != nil {
		return err
	}
	return s.waitReady()
}

// Stop stops the server as an administrator would: clients are disconnected,
// the data is checkpointed. Stopping a stopped server is no error.
func (s *Server) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(syscall.SIGINT)
}

// Crash ends the server without a checkpoint, so that the next start recovers
// from the log.
func (s *Server) Crash() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stop(syscall.SIGQUIT)
}

// Close stops the server and removes its folder where Start made it.
func (s *Server) Close() error {
	err := s.Stop()
	if s.own {
		// What is removed need not be written first, but the processes must be gone.
		return errors.Join(err, s.removeDirs())
	}
	return errors.Join(err, os.RemoveAll(s.socket))
}

func (s *Server) removeDirs() error {
	var err error
	if s.own && s.dir != "" {
		err = os.RemoveAll(s.dir)
	}
	if s.socket != "" {
		err = errors.Join(err, os.RemoveAll(s.socket))
	}
	return err
}

func (s *Server) makeDirs() error {
	sweep()
	var err error
	if s.dir == "" {
		s.own = true
		if s.dir, err = s.tempDir("d"); err != nil {
			return err
		}
	} else {
		if s.dir, err = filepath.Abs(s.dir); err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		if err := os.MkdirAll(s.dir, 0o700); err != nil {
			return fmt.Errorf("pgtest: %w", err)
		}
		if err := s.give(s.dir); err != nil {
			return err
		}
	}
	s.socket, err = s.tempDir("s")
	return err
}

// tempDir makes a folder that carries this process's id, for sweep.
func (s *Server) tempDir(kind string) (string, error) {
	dir, err := os.MkdirTemp("/tmp", fmt.Sprintf("%s%d-%s", prefix, os.Getpid(), kind))
	if err != nil {
		return "", fmt.Errorf("pgtest: %w", err)
	}
	return dir, s.give(dir)
}

func (s *Server) give(dir string) error {
	if s.cred == nil {
		return nil
	}
	if err := os.Chown(dir, int(s.cred.Uid), int(s.cred.Gid)); err != nil {
		return fmt.Errorf("pgtest: give the folder to the server's user: %w", err)
	}
	return nil
}

// sweep removes what killed processes left behind.
func sweep() {
	dirs, _ := filepath.Glob(filepath.Join("/tmp", prefix+"*")) // the pattern is well-formed
	for _, dir := range dirs {
		id, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		pid, err := strconv.Atoi(id)
		if err == nil && pid > 0 && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			_ = os.RemoveAll(dir) // best effort: another process may be sweeping too
		}
	}
}

// unprivileged returns the user to run the server as: PostgreSQL refuses root.
func unprivileged() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 == nil && err2 == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
		}
	}
	return nil, errors.New("pgtest: PostgreSQL does not run as root and there is no user postgres or nobody: run the tests as an ordinary user")
}

func (s *Server) initdb() error {
	if _, err := os.Stat(filepath.Join(s.dir, "PG_VERSION")); err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "initdb"), "-D", s.dir, "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8", "--no-sync")
	cmd.Dir = "/"
	cmd.SysProcAttr = attributes(s.cred)
	runtime.LockOSThread() // see process_linux.go: the thread must outlive the child
	defer runtime.UnlockOSThread()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgtest: initdb in %s as uid %d: %w: %s", s.dir, uid(s.cred), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func uid(c *syscall.Credential) int {
	if c == nil {
		return os.Geteuid()
	}
	return int(c.Uid)
}

func (s *Server) log() string { return filepath.Join(s.dir, "server.log") }

// start runs the server. s.mu is held.
func (s *Server) start() error {
	listen := ""
	if s.tcp {
		listen = "127.0.0.1"
	}
	args := []string{"-D", s.dir, "-k", s.socket, "-p", strconv.Itoa(s.port), "-c", "listen_addresses=" + listen}
	for _, o := range append([]string{"wal_level=logical", "max_connections=200", "shared_buffers=64MB"}, s.opts...) {
		args = append(args, "-c", o)
	}
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("pgtest: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...) //nolint:noctx // lives until stop, not for a call
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = attributes(s.cred)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The parent-death signal is sent when the starting thread ends, so this
		// goroutine keeps its thread until the server has ended.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("pgtest: start postgres: %w", err)
	}
	s.proc = p
	return nil
}

// waitReady waits until the server answers. s.mu is held.
func (s *Server) waitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		db, err := pgxdb.Open(ctx, s.URL("postgres"), &pgxdb.Config{MaxConns: 1})
		if err == nil {
			return db.Close()
		}
		select {
		case <-s.proc.done:
			s.proc = nil
			return fmt.Errorf("pgtest: postgres ended while starting; its log: %s", s.tail())
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("pgtest: postgres does not answer: %w", err), s.stop(syscall.SIGQUIT))
		case <-tick.C:
		}
	}
}

// stop ends the server and waits for it. s.mu is held.
func (s *Server) stop(sig syscall.Signal) error {
	if s.proc == nil {
		return nil
	}
	p := s.proc
	s.proc = nil
	_ = p.cmd.Process.Signal(sig) // fails only where it has ended
	select {
	case <-p.done:
		return nil
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("pgtest: postgres did not stop within %v and was killed; its log: %s", stopTimeout, s.tail())
	}
}

func (s *Server) tail() string {
	text, _ := os.ReadFile(s.log()) // only for an error's text
	return string(text[max(0, len(text)-1000):])
}
