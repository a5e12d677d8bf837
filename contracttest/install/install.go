// Package install puts the native Pact library where contract tests can link it.
//
// The library is the Pact core, built by its authors and published by them as npm
// packages. [Install] fetches the one for this platform by name and version with the
// ordinary npm client, compares its SHA-256 with the one that is kept here, and
// stores it in the user's cache. Where npm is missing, pact-go's own installer
// fetches the same file from the core's releases.
package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// Version is the version of the Pact core that pact-go links.
const Version = "0.4.28"

// pactGo is the module whose installer stands in for npm.
const pactGo = "github.com/pact-foundation/pact-go/v2@v2.4.2"

const timeout = 5 * time.Minute

// ErrMissing is what the error of [Dir] wraps where the library is not installed.
var ErrMissing = errors.New("the native Pact library is not installed: run 'napkin contract install'")

// library is the core for one platform.
type library struct {
	pkg, version string // npm's
	file         string // in the package
	sha256       string
	name         string // as the linker looks for it
}

// libraries are by GOOS/GOARCH, on Linux with the C library. linux/amd64/glibc is
// what Napkin's own tests run on.
var libraries = map[string]library{
	"linux/amd64/glibc": {"@pact-foundation/pact-core-linux-x64-glibc", "17.1.0", "prebuilds/linux-x64/libpact_ffi.so", "f2e805e6433afa2cabc3ad3c309786a975075319dcb370c737e0041b4bff9887", "libpact_ffi.so"},
	"linux/amd64/musl":  {"@pact-foundation/pact-core-linux-x64-musl", "17.0.0", "prebuilds/linux-x64/libpact_ffi_musl.so", "68b185ad69f0d4ce7225ddf7031d1b88ab25bb136cc7eda864f98657083fa1f9", "libpact_ffi.so"},
	"linux/arm64/glibc": {"@pact-foundation/pact-core-linux-arm64-glibc", "17.0.0", "prebuilds/linux-arm64/libpact_ffi.so", "4ac9db05a655e75d874f3bee73eb43e69bbf1f9eacbaf93c52c2a5ba74fe0ec1", "libpact_ffi.so"},
	"linux/arm64/musl":  {"@pact-foundation/pact-core-linux-arm64-musl", "17.0.0", "prebuilds/linux-arm64/libpact_ffi_musl.so", "80e60fcfb54b7307378bfb82be33fa60cda92b7fe241177f1dfd584c886eb04f", "libpact_ffi.so"},
	"darwin/amd64":      {"@pact-foundation/pact-core-darwin-x64", "17.0.0", "prebuilds/darwin-x64/libpact_ffi.dylib", "987992b862e00544d7b03caf93ada69599c1689b0be8f6cb795c8d7162d20740", "libpact_ffi.dylib"},
	"darwin/arm64":      {"@pact-foundation/pact-core-darwin-arm64", "17.0.0", "prebuilds/darwin-arm64/libpact_ffi.dylib", "4c2a762fb7d930bcc1296751a4c3270cf3d36aab5eb2152692f0e0108bf943a7", "libpact_ffi.dylib"},
	"windows/amd64":     {"@pact-foundation/pact-core-windows-x64", "17.0.0", "prebuilds/win32-x64/pact_ffi.dll", "47ec00026ab65e19bed047a28bb122fc557ac154236e6b46b49d376de1587677", "pact_ffi.dll"},
}

// Config says where and how. The zero value is what everybody wants.
type Config struct {
	// Root is where libraries are kept, each in a folder of its own. Defaults to
	// napkin/pact in the user's cache directory.
	Root string
	// NPM is the npm client. Defaults to the one on the PATH; "none" goes without.
	NPM string
	// Log gets a line per step. nil: nothing is said.
	Log io.Writer
}

// Dir returns the folder of the installed library. The error wraps [ErrMissing]
// where there is none.
func Dir(c Config) (string, error) {
	_, dir, file, err := c.place()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(file); err != nil {
		return "", ErrMissing
	}
	return dir, nil
}

// Install installs the library, unless it is there already, and returns its folder.
// It takes seconds, and at most 5 minutes.
func Install(ctx context.Context, c Config) (string, error) {
	lib, dir, file, err := c.place()
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(file); err == nil {
		c.say("the Pact library %s is installed in %s", Version, dir)
		return dir, nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tmp, err := os.MkdirTemp("", "napkin-pact-")
	if err != nil {
		return "", fmt.Errorf("install: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	data, err := c.fetch(ctx, lib, tmp)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	if got := hex.EncodeToString(sum[:]); got != lib.sha256 {
		return "", fmt.Errorf("install: the Pact library that was fetched has the SHA-256 %s, not %s; it was not installed", got, lib.sha256)
	}
	if err := place(ctx, lib, dir, file, data); err != nil {
		return "", err
	}
	c.say("the Pact library %s is now in %s", Version, dir)
	return dir, nil
}

// Environment returns the variables, as NAME=value, with which the go command links
// and runs contract tests against the library in dir.
func Environment(dir string) []string {
	env := []string{"CGO_ENABLED=1", "PACT_DO_NOT_TRACK=true"}
	flags := "-L" + dir
	if runtime.GOOS == "windows" {
		env = append(env, "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	} else {
		flags += " -Wl,-rpath," + dir
	}
	if own := os.Getenv("CGO_LDFLAGS"); own != "" && !strings.Contains(own, flags) {
		flags += " " + own
	}
	return append(env, "CGO_LDFLAGS="+flags)
}

func (c Config) say(format string, args ...any) {
	if c.Log != nil {
		_, _ = fmt.Fprintf(c.Log, format+"\n", args...)
	}
}

// place says which library this platform needs and where it goes. Only a library
// with the right sum is ever put there.
func (c Config) place() (lib library, dir, file string, err error) {
	platform := platform()
	lib, ok := libraries[platform]
	if !ok {
		return lib, "", "", fmt.Errorf("install: there is no Pact library for %s", platform)
	}
	root := c.Root
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return lib, "", "", fmt.Errorf("install: %w", err)
		}
		root = filepath.Join(cache, "napkin", "pact")
	}
	if root, err = filepath.Abs(root); err != nil {
		return lib, "", "", fmt.Errorf("install: %w", err)
	}
	if strings.ContainsAny(root, " ,") {
		return lib, "", "", fmt.Errorf("install: the linker's flags cannot say %q; name a folder without spaces and commas", root)
	}
	dir = filepath.Join(root, Version+"-"+lib.sha256[:12])
	return lib, dir, filepath.Join(dir, lib.name), nil
}

func platform() string {
	p := runtime.GOOS + "/" + runtime.GOARCH
	if runtime.GOOS != "linux" {
		return p
	}
	if loaders, _ := filepath.Glob("/lib/ld-musl-*"); len(loaders) > 0 {
		if glibc, _ := filepath.Glob("/lib*/ld-linux-*"); len(glibc) == 0 {
			return p + "/musl"
		}
	}
	return p + "/glibc"
}

// fetch returns the library's bytes, unchecked.
func (c Config) fetch(ctx context.Context, lib library, tmp string) ([]byte, error) {
	npm := c.NPM
	if npm == "" {
		npm = "npm"
	}
	if npm != "none" {
		if _, err := exec.LookPath(npm); err == nil {
			return c.npm(ctx, npm, lib, tmp)
		}
	}
	if runtime.GOOS == "darwin" {
		// pact-go's installer alters what it has fetched: its sum would say nothing.
		return nil, errors.New("install: npm was not found; install Node.js, of which it is a part")
	}
	c.say("npm was not found; fetching the Pact library %s with pact-go's installer", Version)
	cmd := exec.CommandContext(ctx, "go", "run", pactGo, "install", "--force", "--libDir", tmp)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GOWORK=off")
	if out, err := run(cmd); err != nil {
		return nil, fmt.Errorf("install: pact-go's installer: %w: %s", err, out)
	}
	return os.ReadFile(filepath.Join(tmp, lib.name))
}

// npm fetches the package as it was published, and runs none of its scripts.
func (c Config) npm(ctx context.Context, npm string, lib library, tmp string) ([]byte, error) {
	what := lib.pkg + "@" + lib.version
	c.say("fetching %s", what)
	cmd := exec.CommandContext(ctx, npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", tmp, what)
	cmd.Dir = tmp
	if out, err := run(cmd); err != nil {
		return nil, fmt.Errorf("install: npm pack %s: %w: %s", what, err, out)
	}
	archives, err := filepath.Glob(filepath.Join(tmp, "*.tgz"))
	if err != nil || len(archives) != 1 {
		return nil, fmt.Errorf("install: npm pack %s left %d archives instead of one", what, len(archives))
	}
	f, err := os.Open(archives[0])
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	defer func() { _ = f.Close() }()
	return unpack(f, path.Join("package", lib.file))
}

// maxLibrary bounds what is unpacked; the largest of them has 20 MB.
const maxLibrary = 200 << 20

func unpack(archive io.Reader, name string) ([]byte, error) {
	z, err := gzip.NewReader(archive)
	if err != nil {
		return nil, fmt.Errorf("install: %w", err)
	}
	for t := tar.NewReader(z); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("install: the package has no %s", name)
		}
		if err != nil {
			return nil, fmt.Errorf("install: %w", err)
		}
		if path.Clean(h.Name) == name {
			return io.ReadAll(io.LimitReader(t, maxLibrary))
		}
	}
}

// place moves the checked library into its folder, whole or not at all.
func place(ctx context.Context, lib library, dir, file string, data []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	tmp, err := os.CreateTemp(dir, "."+lib.name+"-*")
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	_, werr := tmp.Write(data)
	err = errors.Join(werr, tmp.Chmod(0o755), tmp.Close())
	if err == nil && runtime.GOOS == "darwin" {
		// It was built to be found beside the program.
		var out string
		if out, err = run(exec.CommandContext(ctx, "install_name_tool", "-id", "@rpath/"+lib.name, tmp.Name())); err != nil {
			err = fmt.Errorf("install_name_tool: %w: %s", err, out)
		}
	}
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the first error is the one to tell
		return fmt.Errorf("install: %w", err)
	}
	return nil
}

// run runs a command and returns the end of what it said.
func run(cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	said := strings.TrimSpace(out.String())
	const most = 2000
	if len(said) > most {
		said = said[len(said)-most:]
	}
	return said, err
}
