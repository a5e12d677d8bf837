package docstest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// changes are the parts of the tour's output that differ from run to run.
var changes = regexp.MustCompile(`ord_[a-z0-9]+|^id: \d+|ready in [0-9.]+ s|\d+ events? in the outbox`)

// TestTour runs the README's tour as it stands there, from a built store to the last comparison of the
// books, and looks for every line of output that the README shows. It needs ports 8080 and 8081, curl and
// jq, and is run with NAPKIN_TOUR=1.
func TestTour(t *testing.T) {
	if os.Getenv("NAPKIN_TOUR") == "" {
		t.Skip("set NAPKIN_TOUR=1 to run the README's tour on ports 8080 and 8081")
	}
	_, section, _ := strings.Cut(read(t, "README.md"), "\n## A ten-minute tour\n")
	section, _, _ = strings.Cut(section, "\n## ")
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "shop"), "./examples/shop/cmd/shop")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	script, shown := "set -u\nstop() { kill $STORE; wait $STORE; }; trap stop EXIT\n", ""
	for _, m := range fence.FindAllStringSubmatch(section, -1) {
		switch m[1] {
		case "sh":
			for line := range strings.Lines(m[2]) {
				if strings.HasPrefix(line, "go build ") {
					continue
				}
				script += line
				if strings.Contains(line, "& STORE=$!") { // a reader waits for the last line
					script += "until curl -sf -o /dev/null http://localhost:8080/v1/products; do sleep 0.2; done\nsleep 2\n"
				}
			}
		case "text":
			shown += m[2]
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	run := exec.CommandContext(ctx, "bash", "-c", script)
	run.Dir = dir
	run.Cancel = func() error { return run.Process.Signal(os.Interrupt) }
	run.WaitDelay = 10 * time.Second
	raw, err := run.CombinedOutput()
	if err != nil {
		t.Errorf("the tour ended with %v", err)
	}
	var got strings.Builder
	for line := range strings.Lines(strings.ReplaceAll(string(raw), "\r", "")) {
		got.WriteString(changes.ReplaceAllString(line, "*"))
	}
	for line := range strings.Lines(shown) {
		for part := range strings.SplitSeq(changes.ReplaceAllString(strings.TrimRight(line, "\n"), "*"), "…") {
			if part = strings.TrimSpace(part); !strings.Contains(got.String(), part) {
				t.Errorf("the tour does not print %q", part)
			}
		}
	}
	if t.Failed() {
		t.Logf("it printed:\n%s", raw)
	}
}
