package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/contracttest/broker"
	"github.com/napkin-kit/napkin/contracttest/broker/brokertest"
	"github.com/napkin-kit/napkin/contracttest/install"
	"github.com/napkin-kit/napkin/internal/pgtest"
)

// needLibrary skips a test that links the native library where it is missing.
func needLibrary(t *testing.T) {
	t.Helper()
	if _, err := install.Dir(install.Config{}); err != nil && pgtest.Required("pact") {
		t.Fatal(err)
	} else if err != nil {
		t.Skip(err)
	}
}

// team makes a repository in the current directory whose module uses Napkin as it is in this tree, puts the program into PATH, and
// starts a broker with one environment.
func team(t *testing.T) {
	t.Helper()
	tree, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Napkin's own requirements, so that nothing has to be resolved.
	mod, sum := read(t, filepath.Join(tree, "go.mod")), read(t, filepath.Join(tree, "go.sum"))
	t.Chdir(t.TempDir())
	write(t, "go.mod", strings.Replace(mod, "module github.com/napkin-kit/napkin\n", "module team.example\n", 1)+
		"\nrequire github.com/napkin-kit/napkin v0.0.0\nreplace github.com/napkin-kit/napkin => "+tree+"\n")
	write(t, "go.sum", sum)
	write(t, ".gitignore", "/bin/\n/out/\n")
	bin := t.TempDir()
	write(t, filepath.Join(bin, "napkin"), "#!/bin/sh\nNAPKIN_IS_PROGRAM=1 exec '"+program+"' \"$@\"\n")
	if err := os.Chmod(filepath.Join(bin, "napkin"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	git(t, "init", "-q")
	for name, value := range map[string]string{"user.name": "t", "user.email": "t@example.com", "commit.gpgsign": "false"} {
		git(t, "config", name, value)
	}
	s := brokertest.Start(nil)
	t.Cleanup(s.Close)
	c, err := broker.New(s.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateEnvironment(t.Context(), broker.Environment{Name: "production", Production: true}); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PACT_BROKER_BASE_URL", s.URL)
	for _, name := range []string{"GITHUB_ACTIONS", "GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_BRANCH", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "NAPKIN_BREAKING_BASE"} {
		t.Setenv(name, "") // of the system that runs this test
	}
}

// shell runs a script as CI systems do, and returns what it says and its exit code.
func shell(t *testing.T, script string) (string, int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-eo", "pipefail", "-c", script)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// step is a fenced block with the comment before it that says what it is, and the output that is shown after it.
var step = regexp.MustCompile("(?ms)^<!-- (file|edit|run): (\\S+) -->\n```\\w*\n(.*?)^```\n(?:```text\n(.*?)^```\n)?")

// TestWorkedChange makes the change of docs/adopting/breaking-changes.md: it writes its files, edits them, and
// runs its commands, each of which has to end and to say what the page says.
func TestWorkedChange(t *testing.T) {
	if testing.Short() {
		t.Skip("links the native library into another team's tests; run without -short")
	}
	if runtime.GOOS == "windows" {
		t.Skip("the page's commands are for a POSIX shell")
	}
	need(t, "buf", "oasdiff")
	needLibrary(t)
	page := read(t, "../../docs/adopting/breaking-changes.md")
	team(t)
	steps := step.FindAllStringSubmatch(page, -1)
	if n := strings.Count(page, "<!-- "); n != len(steps) || n < 20 {
		t.Fatalf("the page has %d steps, of which %d have the form of one", n, len(steps))
	}
	for _, s := range steps {
		kind, what, block := s[1], s[2], s[3]
		switch kind {
		case "file":
			write(t, what, block)
		case "edit":
			edit(t, what, block)
		case "run":
			out, code := shell(t, block)
			if strconv.Itoa(code) != what {
				t.Fatalf("exit code %d, not %s:\n%s\n%s", code, what, block, out)
			}
			for line := range strings.Lines(s[4]) {
				if line = strings.TrimSpace(line); !strings.Contains(out, line) {
					t.Errorf("%s\ndoes not say %q, but:\n%s", block, line, out)
				}
			}
		}
	}
}

// edit replaces in a file what a diff's lines with - and a space have by what those with + and a space have. A
// single line may be part of one.
func edit(t *testing.T, name, diff string) {
	t.Helper()
	var before, after []string
	for line := range strings.Lines(diff) {
		text := strings.TrimSuffix(line[1:], "\n")
		switch line[0] {
		case '-':
			before = append(before, text)
		case '+':
			after = append(after, text)
		case ' ':
			before, after = append(before, text), append(after, text)
		default:
			t.Fatalf("not a line of a diff: %q", line)
		}
	}
	from, to := strings.Join(before, "\n"), strings.Join(after, "\n")
	if len(after) == 0 {
		from += "\n"
	}
	content := read(t, name)
	if strings.Count(content, from) != 1 {
		t.Fatalf("%s does not have %q exactly once:\n%s", name, from, content)
	}
	write(t, name, strings.Replace(content, from, to, 1))
}

var (
	pipeline = regexp.MustCompile("(?ms)^<!-- pipeline: (\\w+) -->\n```yaml\n(.*?)^```\n")
	item     = regexp.MustCompile(`(?m)^ +- (?:run: )?(\S.*)$`)
)

// TestPipelines runs the commands of the pipelines in docs/adopting/contracts-ci.md in a clone of the repository
// that docs/adopting/breaking-changes.md begins with.
func TestPipelines(t *testing.T) {
	if testing.Short() {
		t.Skip("links the native library into another team's tests; run without -short")
	}
	if runtime.GOOS == "windows" {
		t.Skip("the pipelines' commands are for a POSIX shell")
	}
	need(t, "buf", "oasdiff")
	needLibrary(t)
	page, worked := read(t, "../../docs/adopting/contracts-ci.md"), read(t, "../../docs/adopting/breaking-changes.md")
	pipelines := pipeline.FindAllStringSubmatch(page, -1)
	if len(pipelines) != 2 {
		t.Fatalf("the page has %d pipelines", len(pipelines))
	}
	for _, p := range pipelines {
		t.Run(p[1], func(t *testing.T) {
			team(t)
			for _, s := range step.FindAllStringSubmatch(worked, -1) {
				if s[1] == "file" {
					write(t, s[2], s[3])
				}
			}
			write(t, "go.mod", read(t, "go.mod")+"\ntool github.com/napkin-kit/napkin/cmd/napkin\n")
			write(t, "deploy", "#!/bin/sh\necho deployed $1\n")
			if err := os.Chmod("deploy", 0o755); err != nil {
				t.Fatal(err)
			}
			commit(t, "order and web")
			commit(t, "and once more")
			here, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(t.TempDir())
			git(t, "clone", "-q", here, ".")
			t.Setenv("VERSION", git(t, "rev-parse", "HEAD"))
			ran := 0
			for _, m := range item.FindAllStringSubmatch(p[2], -1) {
				command := m[1]
				switch {
				case strings.HasPrefix(command, "go tool "), strings.HasPrefix(command, "./deploy "):
					ran++
				case strings.HasPrefix(command, "uses:"), strings.HasPrefix(command, "if:"), strings.HasPrefix(command, "apt-get "):
					continue // the system's own
				default:
					t.Fatalf("what is %q?", command)
				}
				if out, code := shell(t, command); code != 0 {
					t.Fatalf("%s: exit code %d\n%s", command, code, out)
				}
			}
			if ran != 11 {
				t.Errorf("%d commands were run", ran)
			}
		})
	}
}
