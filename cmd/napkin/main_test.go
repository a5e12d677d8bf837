package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/contracttest/breaking"
	"github.com/napkin-kit/napkin/internal/pgtest"
)

// TestMain is the program itself in processes that these tests start.
func TestMain(m *testing.M) {
	if os.Getenv("NAPKIN_IS_PROGRAM") == "1" {
		os.Exit(run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

type ran struct {
	code           int
	stdout, stderr string
}

// napkin runs the program as a process, without what CI systems and this machine set. env has "NAME=value".
func napkin(t *testing.T, env []string, args ...string) ran {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute) // far beyond what any command needs
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "PACT_") && !strings.HasPrefix(name, "GITHUB_") && !strings.HasPrefix(name, "CI_") && !strings.HasPrefix(name, "NAPKIN_") {
			cmd.Env = append(cmd.Env, e)
		}
	}
	cmd.Env = append(append(cmd.Env, "NAPKIN_IS_PROGRAM=1"), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() != nil {
		t.Fatalf("napkin %v hangs", args)
	} else if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return ran{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// expect fails the test unless the program ended with code and, where that is not 0, one line on standard error
// that has says.
func (r ran) expect(t *testing.T, code int, says string) {
	t.Helper()
	if r.code != code {
		t.Fatalf("exit code %d, not %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	if code == 0 {
		if !strings.Contains(r.stdout, says) {
			t.Errorf("no %q in:\n%s", says, r.stdout)
		}
		return
	}
	if !strings.HasPrefix(r.stderr, "napkin: ") || strings.Count(r.stderr, "\n") != 1 || !strings.Contains(r.stderr, says) {
		t.Errorf("not one line with %q:\n%s", says, r.stderr)
	}
}

// need skips a test whose tool is missing, unless NAPKIN_TEST_REQUIRE names it, and keeps the tools in PATH for
// when the directory changes.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		p, err := breaking.Tool(tool)
		if err != nil && pgtest.Required(tool) {
			t.Fatal(err)
		} else if err != nil {
			t.Skip(err)
		}
		t.Setenv("PATH", filepath.Dir(p)+string(os.PathListSeparator)+os.Getenv("PATH"))
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func commit(t *testing.T, message string) {
	t.Helper()
	git(t, "add", "-A")
	git(t, "commit", "-q", "--allow-empty", "-m", message)
}

func git(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false", "-c", "init.defaultBranch=main"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// suites reads a JUnit file.
func suites(t *testing.T, name string) (tests, failures, skipped int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Suites []struct {
			Tests    int `xml:"tests,attr"`
			Failures int `xml:"failures,attr"`
			Skipped  int `xml:"skipped,attr"`
			Cases    []struct {
				Failure *struct{} `xml:"failure"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(data, &doc); err != nil && !errors.Is(err, io.EOF) {
		t.Fatalf("%s: %v\n%s", name, err, data)
	}
	for _, s := range doc.Suites {
		tests, failures, skipped = tests+s.Tests, failures+s.Failures, skipped+s.Skipped
		if s.Tests != len(s.Cases) {
			t.Errorf("a suite says %d tests and has %d", s.Tests, len(s.Cases))
		}
	}
	return tests, failures, skipped
}

func TestVersionAndHelp(t *testing.T) {
	if r := napkin(t, nil, "--version"); r.code != 0 || strings.TrimSpace(r.stdout) == "" {
		t.Errorf("%+v", r)
	}
	napkin(t, nil, "contract", "--help").expect(t, 0, "can-i-deploy")
}

// What is wrong about how the program is called, or where, ends it at once with 2 and one line.
func TestWrongUsage(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	write(t, "no-pact/a.json", `{"hello": "world"}`)
	write(t, "cut.json", `{"consumer": {"name"`)
	if err := os.Mkdir("empty", 0o755); err != nil {
		t.Fatal(err)
	}
	nobody := []string{"PACT_BROKER_BASE_URL=http://127.0.0.1:1"}
	for _, tt := range []struct {
		name string
		env  []string
		args []string
		says string
	}{
		{"no command", nil, nil, "expected"},
		{"unknown command", nil, []string{"contract", "sign"}, "sign"},
		{"unknown flag", nil, []string{"contract", "publish", "--force"}, "--force"},
		{"nothing to compare", nil, []string{"contract", "breaking"}, "--proto DIR"},
		{"accept without a list", nil, []string{"contract", "breaking", "--openapi", "a.yaml", "--accept"}, "--accepted FILE"},
		{"no repository", nil, []string{"contract", "breaking", "--openapi", "cut.json"}, "not a git repository"},
		{"no list", nil, []string{"contract", "breaking", "--openapi", "cut.json", "--accepted", "gone"}, "gone"},
		{"no broker", nil, []string{"contract", "publish", "--version", "1", "no-pact"}, ""},
		{"no broker, can-i-deploy", nil, []string{"contract", "can-i-deploy", "--name", "web", "--to", "prod"}, "PACT_BROKER_BASE_URL"},
		{"broker's URL is none", nil, []string{"contract", "can-i-deploy", "--name", "web", "--to", "prod", "--version", "1", "--broker", "localhost"}, "no URL of a Pact Broker"},
		{"broker out of reach", nobody, []string{"contract", "can-i-deploy", "--name", "web", "--version", "1", "--to", "prod"}, "cannot be reached"},
		{"no version", nobody, []string{"contract", "can-i-deploy", "--name", "web", "--to", "prod"}, "--version"},
		{"no name", nobody, []string{"contract", "can-i-deploy", "--to", "prod"}, "--name"},
		{"no contracts", nobody, []string{"contract", "publish"}, "pacts"},
		{"empty directory", nobody, []string{"contract", "publish", "empty"}, "no contract in empty"},
		{"not a contract", nobody, []string{"contract", "publish", "no-pact"}, "malformed pact"},
		{"half a contract", nobody, []string{"contract", "publish", "cut.json"}, "malformed pact cut.json"},
		{"not a duration", nil, []string{"contract", "breaking", "--timeout", "soon"}, "soon"},
	} {
		t.Run(tt.name, func(t *testing.T) { napkin(t, tt.env, tt.args...).expect(t, 2, tt.says) })
	}
}
