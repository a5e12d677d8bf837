package breaking

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// ProtobufConfig has what may be set; nil means defaults.
type ProtobufConfig struct {
	// Beside are directories that the contracts import from and that git does not have, such as third-party
	// files which a script fetches. They are put beside the earlier contracts at the same place, so that both
	// sides compile alike. Relative to the repository's root. Defaults to none.
	Beside []string
}

// Protobuf compares the .proto files under dir with what they were, by the rules that buf.yaml of today
// names (buf's default is the category FILE; for contracts that are read as JSON too, WIRE_JSON and PACKAGE
// are the usual ones). Imported files are not compared. With [Saved] the earlier contracts are an image that
// `buf build -o` wrote, or a directory; with [Ref], the same directory in that commit.
func Protobuf(ctx context.Context, dir string, against Against, config *ProtobufConfig) ([]Change, error) {
	if config == nil {
		config = &ProtobufConfig{}
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("protobuf: %s is not a directory of .proto files", dir)
	}
	before := against.saved
	if before == "" {
		tmp, err := os.MkdirTemp("", "napkin-breaking-")
		if err != nil {
			return nil, err
		}
		defer os.RemoveAll(tmp)
		if before, err = protobufAt(ctx, dir, against.ref, tmp, config.Beside); err != nil {
			return nil, err
		}
	} else if _, err := os.Stat(before); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("protobuf: %w: %s does not exist", ErrNothingBefore, before)
	}
	out, stderr, code, err := runTool(ctx, "buf", "", "breaking", dir, "--against", before, "--exclude-imports", "--error-format", "json")
	if err != nil {
		return nil, fmt.Errorf("protobuf: %w", err)
	}
	changes, err := readBuf(out, before)
	switch {
	case err != nil:
		return nil, fmt.Errorf("protobuf: %w", err)
	case code != 0 && len(changes) == 0:
		return nil, fmt.Errorf("protobuf: buf breaking: %s", firstLine(stderr, fmt.Errorf("exit status %d", code)))
	}
	return order(changes), nil
}

// protobufAt puts the contracts of a commit into tmp and returns where dir is there.
func protobufAt(ctx context.Context, dir, ref, tmp string, beside []string) (string, error) {
	root, rel, err := toplevel(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("protobuf: %w", err)
	}
	hash, err := commit(ctx, root, ref)
	if err != nil {
		return "", fmt.Errorf("protobuf: %w", err)
	}
	found := false
	_, err = extract(ctx, root, hash, tmp, func(name string) bool {
		switch path.Base(name) {
		case "buf.yaml", "buf.lock", "buf.work.yaml":
			return true
		}
		if path.Ext(name) != ".proto" {
			return false
		}
		found = found || rel == "." || strings.HasPrefix(name, rel+"/")
		return true
	})
	if err != nil {
		return "", fmt.Errorf("protobuf: %w", err)
	}
	if !found {
		return "", fmt.Errorf("protobuf: %w: %s has no .proto file at %s", ErrNothingBefore, dir, ref)
	}
	for _, b := range beside {
		if !filepath.IsLocal(b) {
			return "", fmt.Errorf("protobuf: %s is to be inside the repository", b)
		}
		to := filepath.Join(tmp, b)
		if _, err := os.Stat(to); err == nil {
			continue // that commit has it
		}
		if err := os.CopyFS(to, os.DirFS(filepath.Join(root, b))); err != nil {
			return "", fmt.Errorf("protobuf: files that are not in git: %w", err)
		}
	}
	return filepath.Join(tmp, filepath.FromSlash(rel)), nil
}

// readBuf reads buf's JSON lines. Files that do not compile come in the same form, and are an error.
func readBuf(out []byte, before string) ([]Change, error) {
	var changes []Change
	for line := range bytes.Lines(out) {
		var l struct {
			Path    string `json:"path"`
			Line    int    `json:"start_line"`
			Column  int    `json:"start_column"`
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			return nil, fmt.Errorf("buf breaking: %q is not its JSON", bytes.TrimSpace(line))
		}
		if l.Type == "COMPILE" {
			side := ""
			if strings.HasPrefix(filepath.Clean(l.Path), filepath.Clean(before)) {
				side = "earlier "
			}
			return nil, fmt.Errorf("the %scontracts do not compile: %s:%d:%d: %s", side, l.Path, l.Line, l.Column, l.Message)
		}
		changes = append(changes, Change{Rule: l.Type, File: filepath.ToSlash(l.Path), Line: l.Line, Column: l.Column, Text: l.Message})
	}
	return changes, nil
}
