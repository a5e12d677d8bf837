package breaking

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// Versions that the checks were made with and are tested with.
const (
	BufVersion     = "v1.75.0"
	OasdiffVersion = "v1.35.0"
)

// Modules are what `go install` builds the tools from, by their names.
func Modules() map[string]string {
	return map[string]string{
		"buf":     "github.com/bufbuild/buf/cmd/buf@" + BufVersion,
		"oasdiff": "github.com/oasdiff/oasdiff@" + OasdiffVersion,
	}
}

// ToolError says that a program is missing which the check runs.
type ToolError struct {
	Tool    string // such as "buf"
	Install string // the line that installs it
}

func (e *ToolError) Error() string { return e.Tool + " is not installed; run: " + e.Install }

// Tool finds buf or oasdiff: in PATH, else in .cache/bin of the current directory or one above it, up to the
// root of the repository. The error is a [*ToolError].
func Tool(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	file := name
	if runtime.GOOS == "windows" {
		file += ".exe"
	}
	dir, err := os.Getwd()
	for err == nil {
		p := filepath.Join(dir, ".cache", "bin", file)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() {
			return p, nil
		}
		if _, err := os.Stat(filepath.Join(dir, ".git")); err == nil || filepath.Dir(dir) == dir {
			break
		}
		dir = filepath.Dir(dir)
	}
	return "", &ToolError{Tool: name, Install: "go install " + Modules()[name] + ", or napkin contract install --tools"}
}

// runTool runs a tool. Exit codes are the tool's business; err is for a tool that could not run.
func runTool(ctx context.Context, name, dir string, args ...string) (stdout, stderr []byte, code int, err error) {
	file, err := Tool(name)
	if err != nil {
		return nil, nil, 0, err
	}
	cmd := exec.CommandContext(ctx, file, args...)
	cmd.Dir, cmd.WaitDelay = dir, 5*time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, nil, 0, fmt.Errorf("%s: %w", name, ctx.Err())
	case errors.As(err, &exit):
		return out.Bytes(), errs.Bytes(), exit.ExitCode(), nil
	case err != nil:
		return nil, nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	return out.Bytes(), errs.Bytes(), 0, nil
}
