package breaking

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Against says what a contract is compared with.
type Against struct{ ref, saved string }

// Ref is the contract as a commit of its git repository has it. ref is anything git resolves: a branch, a tag, a hash.
func Ref(ref string) Against { return Against{ref: ref} }

// Saved is the contract as it was put aside: a directory of .proto files or an image that `buf build -o` wrote,
// an OpenAPI document, a directory of event schemas.
func Saved(path string) Against { return Against{saved: path} }

func (a Against) String() string {
	if a.saved != "" {
		return a.saved
	}
	return a.ref
}

// Base finds the commit to compare the current one with: where it leaves branch (such as origin/main), and
// on that branch itself the commit before. It returns [ErrNothingBefore] for the first commit of a
// repository, and an error where history was cut off, as CI systems do unless told otherwise.
func Base(ctx context.Context, dir, branch string) (string, error) {
	head, err := commit(ctx, dir, "HEAD")
	if err != nil {
		return "", err
	}
	if _, err := commit(ctx, dir, branch); err == nil {
		base, err := git(ctx, dir, nil, "merge-base", "HEAD", branch)
		if b := strings.TrimSpace(string(base)); err == nil && b != head {
			return b, nil
		}
	}
	if before, err := commit(ctx, dir, "HEAD~1"); err == nil {
		return before, nil
	}
	shallow, err := git(ctx, dir, nil, "rev-parse", "--is-shallow-repository")
	if err != nil {
		return "", err
	}
	if strings.TrimSpace(string(shallow)) == "true" {
		return "", fmt.Errorf("git has neither %s nor an earlier commit: fetch the history (GitHub: fetch-depth: 0; GitLab: GIT_DEPTH: 0)", branch)
	}
	return "", ErrNothingBefore
}

// commit resolves a name to a commit's hash.
func commit(ctx context.Context, dir, ref string) (string, error) {
	if _, err := git(ctx, dir, nil, "rev-parse", "--git-dir"); err != nil {
		return "", err
	}
	out, err := git(ctx, dir, nil, "rev-parse", "--verify", "--quiet", "--end-of-options", ref+"^{commit}")
	if err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", fmt.Errorf("git knows no commit %q: fetch it, or name another one", ref)
	}
	return strings.TrimSpace(string(out)), nil
}

// toplevel is the root of the work tree that path is in, and path as seen from there.
func toplevel(ctx context.Context, p string) (root, rel string, err error) {
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", "", err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", "", err
	}
	dir, last := abs, "."
	if !info.IsDir() {
		dir, last = filepath.Split(abs)
	}
	out, err := git(ctx, dir, nil, "rev-parse", "--show-toplevel", "--show-prefix")
	if err != nil {
		return "", "", err
	}
	root, prefix, _ := strings.Cut(strings.TrimRight(string(out), "\r\n"), "\n")
	return filepath.FromSlash(strings.TrimSpace(root)), path.Join(strings.TrimSpace(prefix), filepath.ToSlash(last)), nil
}

// extract writes those files of a commit that keep accepts (paths from the root, with slashes) to dest.
func extract(ctx context.Context, root, hash, dest string, keep func(string) bool) (n int, err error) {
	list, err := git(ctx, root, nil, "ls-tree", "-r", "-z", "--full-tree", hash)
	if err != nil {
		return 0, err
	}
	var names []string
	var ask bytes.Buffer
	for entry := range strings.SplitSeq(string(list), "\x00") {
		meta, name, ok := strings.Cut(entry, "\t")
		fields := strings.Fields(meta) // mode, type, hash
		if !ok || len(fields) != 3 || fields[1] != "blob" || !strings.HasPrefix(fields[0], "100") || !filepath.IsLocal(filepath.FromSlash(name)) || !keep(name) {
			continue
		}
		names = append(names, name)
		fmt.Fprintln(&ask, fields[2])
	}
	out, err := git(ctx, root, &ask, "cat-file", "--batch")
	if err != nil {
		return 0, err
	}
	// Each answer is "<hash> blob <size>\n<content>\n".
	r := bufio.NewReader(bytes.NewReader(out))
	for _, name := range names {
		var id, kind string
		var size int64
		if _, err := fmt.Fscanf(r, "%s %s %d\n", &id, &kind, &size); err != nil {
			return 0, fmt.Errorf("git cat-file: %w", err)
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(r, data); err != nil {
			return 0, fmt.Errorf("git cat-file: %w", err)
		}
		if _, err := r.Discard(1); err != nil {
			return 0, fmt.Errorf("git cat-file: %w", err)
		}
		file := filepath.Join(dest, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return 0, err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return 0, err
		}
	}
	return len(names), nil
}

// git runs git and returns what it prints.
func git(ctx context.Context, dir string, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Stdin, cmd.WaitDelay = dir, stdin, 5*time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	switch {
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, &ToolError{Tool: "git", Install: "apt-get install git"}
	}
	return nil, fmt.Errorf("git %s: %s", args[0], firstLine(stderr.Bytes(), err))
}

// firstLine is what a program said of its failure.
func firstLine(stderr []byte, err error) string {
	for line := range strings.SplitSeq(string(stderr), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			return line
		}
	}
	return err.Error()
}
