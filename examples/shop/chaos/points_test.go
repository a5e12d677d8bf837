package chaos

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// control is the file by which a running process is told where to kill itself, and where to hold.
type control struct {
	path string

	mu   sync.Mutex
	kill string
	held map[string]int
}

func newControl(path string) *control { return &control{path: path, held: map[string]int{}} }

// arm orders the process to kill itself the n-th time it comes by point; "" takes the order back.
func (c *control) arm(t testing.TB, point string, n int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kill = ""
	if point != "" {
		c.kill = fmt.Sprintf("%s#%d", point, n)
	}
	if err := c.write(); err != nil {
		t.Fatal(err)
	}
}

// hold makes everyone wait at a point until release is called.
func (c *control) hold(point string) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held[point]++
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.held[point]--; c.held[point] == 0 {
			delete(c.held, point)
		}
		_ = c.write() // as hold could
	}), c.write()
}

// write replaces the file at once: its reader never sees half of it.
func (c *control) write() error {
	var text strings.Builder
	if c.kill != "" {
		fmt.Fprintln(&text, "kill", c.kill)
	}
	for point := range c.held {
		fmt.Fprintln(&text, "hold", point)
	}
	next := c.path + ".new"
	if err := os.WriteFile(next, []byte(text.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(next, c.path)
}

// record is the file in which a process notes the points that it passes.
type record struct{ path string }

// since returns the lines after an offset, and the offset after them.
func (r record) since(offset int) (lines []string, next int) {
	text, _ := os.ReadFile(r.path) // not there: nothing was passed
	end := bytes.LastIndexByte(text, '\n') + 1
	if offset >= end {
		return nil, offset
	}
	return strings.Split(strings.TrimSuffix(string(text[offset:end]), "\n"), "\n"), end
}

func (r record) end() int {
	_, end := r.since(0)
	return end
}

// passed waits until point is passed after offset.
func (r record) passed(ctx context.Context, offset int, point string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		lines, _ := r.since(offset)
		if slices.Contains(lines, point) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s was not passed: %w", point, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// point is a place at which a process kills itself.
type point struct {
	name     string
	scenario string // the one that passes it at the least cost
	passes   int    // how often that scenario does
}

// service is the first part of a point's name.
func (p point) service() string {
	service, _, _ := strings.Cut(p.name, "/")
	return service
}

// kind is what the short form takes one point of: service, component and where; of a saga also the
// direction, and of the outside each call by itself.
func (p point) kind() string {
	parts := strings.SplitN(p.name, "/", 4)
	if len(parts) < 4 {
		return p.name // outside/<what>.<where>
	}
	kind := strings.Join(parts[:3], "/")
	if parts[1] == "saga" {
		kind += parts[3][strings.LastIndex(parts[3], "."):]
	}
	return kind
}
