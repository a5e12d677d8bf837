// Package shoptest runs the store as its operators do, in processes of its own, so that tests can kill
// them. The end-to-end suite and the crash drills share it.
package shoptest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Build compiles the shop's command with the given build tags and returns its path. One build serves all
// tests of a process.
func Build(t testing.TB, tags string) string {
	t.Helper()
	return build(t, "github.com/napkin-kit/napkin/examples/shop/cmd/shop", tags)
}

// BuildNATS compiles the stock nats-server of the version in go.mod.
func BuildNATS(t testing.TB) string {
	t.Helper()
	return build(t, "github.com/nats-io/nats-server/v2", "")
}

var builds struct {
	mu   sync.Mutex
	dir  string
	done map[string]string
}

func build(t testing.TB, pkg, tags string) string {
	t.Helper()
	builds.mu.Lock()
	defer builds.mu.Unlock()
	key := pkg + " " + tags
	if path := builds.done[key]; path != "" {
		return path
	}
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "shop-bin-")
		if err != nil {
			t.Fatal(err)
		}
		builds.dir, builds.done = dir, map[string]string{}
	}
	path := filepath.Join(builds.dir, strings.NewReplacer("/", "_", " ", "_", ".", "_").Replace(key))
	cmd := exec.Command("go", "build", "-tags", tags, "-o", path, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	builds.done[key] = path
	return path
}

// Clean removes what Build made; TestMain calls it at the end.
func Clean() {
	builds.mu.Lock()
	defer builds.mu.Unlock()
	if builds.dir != "" {
		_ = os.RemoveAll(builds.dir)
		builds.dir, builds.done = "", nil
	}
}

// Process is a running program. Its output is kept, and shown when the test fails.
type Process struct {
	Name string
	cmd  *exec.Cmd
	out  *logBuffer
	done chan struct{}
	err  error
}

// Spec says how a program is started.
type Spec struct {
	Name string
	Path string
	Args []string
	Env  []string // beside PATH, HOME and TMPDIR
	Dir  string
}

// Start starts a program, which is killed when the test ends.
func Start(t testing.TB, s Spec) *Process {
	t.Helper()
	p := &Process{Name: s.Name, cmd: exec.Command(s.Path, s.Args...), out: &logBuffer{}, done: make(chan struct{})}
	p.cmd.Dir = s.Dir
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}, s.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", s.Name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		p.out.keep(64 << 10) // a drill starts hundreds
		close(p.done)
	}()
	t.Cleanup(func() {
		select {
		case <-p.done:
			if p.Killed() {
				return // it was killed before the test ended: what it said is old
			}
		default:
		}
		p.Kill()
		if t.Failed() {
			t.Logf("---- last output of %s ----\n%s", p.Name, p.out.Tail(6000))
		}
	})
	return p
}

// Kill ends the process as a crash does, and waits until it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Stop asks the process to drain, and returns the error with which it ended.
func (p *Process) Stop(timeout time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.done:
		return p.err
	case <-time.After(timeout):
		p.Kill()
		return fmt.Errorf("%s did not stop within %s", p.Name, timeout)
	}
}

// Done is closed once the process is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Killed reports whether the process ended by SIGKILL, its own or another's.
func (p *Process) Killed() bool {
	<-p.done
	ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL
}

// Output is what the process has printed.
func (p *Process) Output() string { return p.out.Tail(1 << 20) }

// WaitOutput waits until the process has printed text.
func (p *Process) WaitOutput(t testing.TB, text string, timeout time.Duration) {
	t.Helper()
	p.await(t, timeout, fmt.Sprintf("to print %q", text), func() bool { return strings.Contains(p.Output(), text) })
}

// WaitReady waits until url answers 200.
func (p *Process) WaitReady(t testing.TB, url string, timeout time.Duration) {
	t.Helper()
	c := &http.Client{Timeout: 2 * time.Second}
	p.await(t, timeout, url+" to answer 200", func() bool {
		resp, err := c.Get(url)
		if err != nil {
			return false
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (p *Process) await(t testing.TB, timeout time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-p.done:
			t.Fatalf("%s ended (%v) while a test waited for it %s\n%s", p.Name, p.err, what, p.out.Tail(4000))
		case <-ctx.Done():
			t.Fatalf("%s: waited %s for it %s\n%s", p.Name, timeout, what, p.out.Tail(4000))
		case <-tick.C:
		}
	}
}

// FreeAddr returns a loopback address that was free a moment ago.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// logBuffer keeps the end of a process's output.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.buf.Len() > 4<<20 {
		l.buf.Next(2 << 20)
	}
	return l.buf.Write(b)
}

// keep drops all but the last n bytes.
func (l *logBuffer) keep(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.buf = *bytes.NewBuffer(bytes.Clone(l.buf.Bytes()[max(0, l.buf.Len()-n):]))
}

// Tail is the last n bytes.
func (l *logBuffer) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.buf.Bytes()
	return string(b[max(0, len(b)-n):])
}
