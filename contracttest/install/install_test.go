package install

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// fakeNPM writes an npm that packs these bytes as every package's library.
func fakeNPM(t *testing.T, library []byte) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the stand-in for npm is a shell script")
	}
	lib, ok := libraries[platform()]
	if !ok {
		t.Skipf("no library for %s", platform())
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	if err := errors.Join(
		w.WriteHeader(&tar.Header{Name: "package/" + lib.file, Mode: 0o644, Size: int64(len(library))}),
		func() error { _, err := w.Write(library); return err }(), w.Close(), z.Close(),
	); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	archive, npm := filepath.Join(dir, "archive"), filepath.Join(dir, "npm")
	script := "#!/bin/sh\nwhile [ \"$1\" != --pack-destination ]; do shift; done\ncp '" + archive + "' \"$2/x.tgz\"\n"
	if err := errors.Join(os.WriteFile(archive, b.Bytes(), 0o600), os.WriteFile(npm, []byte(script), 0o700)); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	return npm
}

func TestInstallRefusesWhatIsNotTheLibrary(t *testing.T) {
	c := Config{Root: t.TempDir(), NPM: fakeNPM(t, []byte("something else"))}
	if _, err := Install(t.Context(), c); err == nil || !strings.Contains(err.Error(), "it was not installed") {
		t.Fatalf("got %v", err)
	}
	if _, err := Dir(c); !errors.Is(err, ErrMissing) {
		t.Errorf("Dir: %v", err)
	}
}

func TestInstallSaysWhatFailed(t *testing.T) {
	npm := filepath.Join(t.TempDir(), "npm")
	if runtime.GOOS == "windows" {
		t.Skip("the stand-in for npm is a shell script")
	}
	if err := os.WriteFile(npm, []byte("#!/bin/sh\necho no such package\nexit 1\n"), 0o700); err != nil { //nolint:gosec // it is to be run
		t.Fatal(err)
	}
	_, err := Install(t.Context(), Config{Root: t.TempDir(), NPM: npm})
	if err == nil || !strings.Contains(err.Error(), "no such package") {
		t.Errorf("got %v", err)
	}
	if _, err := Dir(Config{Root: "a folder"}); err == nil || errors.Is(err, ErrMissing) {
		t.Errorf("a folder that the linker cannot take: %v", err)
	}
}

func TestLibrariesAreWhole(t *testing.T) {
	sum := regexp.MustCompile(`^[0-9a-f]{64}$`)
	for platform, l := range libraries {
		if !sum.MatchString(l.sha256) || l.file == "" || l.name == "" || !strings.HasPrefix(l.pkg, "@pact-foundation/") || !strings.HasPrefix(l.version, "17.") {
			t.Errorf("%s: %+v", platform, l)
		}
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("CGO_LDFLAGS", "-L/elsewhere")
	env := Environment("/libs")
	if !slices.ContainsFunc(env, func(v string) bool {
		return strings.HasPrefix(v, "CGO_LDFLAGS=-L/libs") && strings.HasSuffix(v, "-L/elsewhere")
	}) {
		t.Errorf("got %q", env)
	}
	if !slices.Contains(env, "PACT_DO_NOT_TRACK=true") {
		t.Errorf("got %q", env)
	}
}
