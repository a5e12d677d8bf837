package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// contractVerifyCmd is `napkin contract verify`. This program never links the native library: it runs the go
// command, which links it into the tests.
type contractVerifyCmd struct {
	Packages []string      `arg:"" optional:"" help:"Packages with contract tests. Defaults to ./..."`
	Only     string        `name:"run" placeholder:"REGEXP" help:"Run only these tests."`
	Race     bool          `help:"With the race detector."`
	Tags     string        `help:"Further build tags, with commas."`
	Verbose  bool          `short:"v" help:"Print what passes too."`
	Timeout  time.Duration `default:"10m" help:"When to give up on a package."`
	Library  libraryFlags  `embed:""`
	Reports  reports       `embed:""`
}

// Run runs the tests: consumers' tests write contracts, providers' verify them.
func (c *contractVerifyCmd) Run(ctx context.Context) error {
	env, err := c.Library.environment()
	if err != nil {
		return err
	}
	packages := c.Packages
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	tags := "pact"
	if c.Tags != "" {
		tags += "," + c.Tags
	}
	// -count=1: a provider's state and a broker are outside of what the go command takes into account.
	args := []string{"test", "-json", "-count=1", "-tags", tags, "-timeout", c.Timeout.String()}
	if c.Only != "" {
		args = append(args, "-run", c.Only)
	}
	if c.Race {
		args = append(args, "-race")
	}
	for _, p := range packages {
		if strings.HasPrefix(p, "-") {
			return fmt.Errorf("%s is no package", p)
		}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, packages...)...)
	cmd.Env = append(os.Environ(), env...)
	// A contract test that is skipped proves nothing here.
	cmd.Env = append(cmd.Env, "NAPKIN_TEST_REQUIRE="+strings.Trim(os.Getenv("NAPKIN_TEST_REQUIRE")+",pact", ","))
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("the go command cannot run: %w", err)
	}
	run := readTests(out, os.Stdout, c.Verbose)
	err = cmd.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return err
	}
	results := run.outcomes(directories(ctx, packages, cmd.Env, tags))
	if err := c.Reports.write(os.Stdout, results); err != nil {
		return err
	}
	failed, held := 0, 0
	for _, o := range results {
		switch {
		case o.failed():
			failed++
		case !o.Skipped:
			held++
		}
	}
	switch {
	case run.broken != "":
		return fmt.Errorf("%s does not build", run.broken)
	case failed > 0:
		return found("%d of %s failed", failed, tests(len(results)))
	case err != nil:
		return fmt.Errorf("go test: %s", cmp.Or(firstLine(stderr.String()), err.Error()))
	case held == 0:
		return errors.New("no contract test ran: nothing was proven")
	}
	fmt.Println(tests(held) + " passed")
	return nil
}

func tests(n int) string {
	if n == 1 {
		return "1 contract test"
	}
	return fmt.Sprint(n, " contract tests")
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	return line
}

// testRun is what go test said.
type testRun struct {
	tests  map[testID]*testState
	order  []testID
	broken string // a package that does not build
}

type testID struct{ pkg, test string }

type testState struct {
	action  string
	seconds float64
	output  strings.Builder
}

// readTests reads go test's JSON (go doc test2json) and prints, for people, what fails: a package's build errors
// at once, and a test's output as soon as it ended.
func readTests(r io.Reader, w io.Writer, verbose bool) *testRun {
	run := &testRun{tests: map[testID]*testState{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct {
			Action, Package, Test, Output, ImportPath, FailedBuild string
			Elapsed                                                float64
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(w, lines.Text())
			continue
		}
		if e.FailedBuild != "" {
			run.broken = e.Package
		}
		if e.Action == "build-output" {
			fmt.Fprint(w, e.Output)
			continue
		}
		id := testID{e.Package, e.Test}
		t := run.tests[id]
		if t == nil {
			t = &testState{}
			run.tests[id] = t
			run.order = append(run.order, id)
		}
		switch e.Action {
		case "output":
			t.output.WriteString(e.Output)
			if verbose {
				fmt.Fprint(w, e.Output)
			}
		case "pass", "fail", "skip":
			t.action, t.seconds = e.Action, e.Elapsed
			if !verbose && e.Action == "fail" {
				fmt.Fprint(w, t.output.String())
			}
		}
	}
	_, _ = io.Copy(io.Discard, r) // after a line that is too long, so that go test does not stall
	return run
}

var position = regexp.MustCompile(`(?m)^\s+([\w.-]+_test\.go|[\w.-]+\.go):(\d+): `)

// outcomes are the tests that have no subtests, which repeat what those say; and packages that fail outside of a test.
func (r *testRun) outcomes(dirs map[string]string) []outcome {
	parent := map[testID]bool{}
	failing := map[string]bool{}
	for id, t := range r.tests {
		for name := id.test; strings.Contains(name, "/"); {
			name = name[:strings.LastIndex(name, "/")]
			parent[testID{id.pkg, name}] = true
		}
		if id.test != "" && t.action != "pass" && t.action != "skip" { // a test that never ended says nothing
			failing[id.pkg] = true
		}
	}
	var out []outcome
	for _, id := range r.order {
		t := r.tests[id]
		switch {
		case id.test == "" && (t.action != "fail" || failing[id.pkg] || id.pkg == r.broken):
			continue
		case parent[id] && !position.MatchString(t.output.String()):
			continue
		case t.action == "skip":
			out = append(out, outcome{Suite: id.pkg, Name: id.test, Seconds: t.seconds, Skipped: true, Problem: strings.TrimSpace(said(t.output.String()))})
			continue
		}
		o := outcome{Suite: id.pkg, Name: cmp.Or(id.test, "package"), Seconds: t.seconds}
		if t.action != "pass" {
			text := said(t.output.String())
			o.Problem = cmp.Or(firstLine(position.ReplaceAllString(text, "")), "it failed")
			o.Details = text
			if m := position.FindStringSubmatch(text); m != nil {
				o.File = filepath.ToSlash(filepath.Join(dirs[id.pkg], m[1]))
				o.Line, _ = strconv.Atoi(m[2])
			}
		}
		out = append(out, o)
	}
	return out
}

// said is a test's output without the frame that go test puts around it.
func said(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		t := strings.TrimSpace(line)
		if strings.HasPrefix(t, "=== ") || strings.HasPrefix(t, "--- ") || t == "FAIL" || t == "PASS" {
			continue
		}
		b.WriteString(line)
	}
	return strings.TrimRight(b.String(), "\n")
}

// directories maps packages to where they are, seen from here. A package that is left out is reported without its path.
func directories(ctx context.Context, packages, env []string, tags string) map[string]string {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-e", "-tags", tags, "-f", "{{.ImportPath}}\t{{.Dir}}"}, packages...)...)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		return nil
	}
	here, err := os.Getwd()
	if err != nil {
		return nil
	}
	dirs := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, dir, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			continue
		}
		if rel, err := filepath.Rel(here, dir); err == nil {
			dir = rel
		}
		dirs[path] = dir
	}
	return dirs
}
