package contracttest_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPageIsCompiledCode: each block of Go in docs/adopting/contracts.md stands in a
// test or a source file that the build compiles, to the letter but for indentation.
func TestPageIsCompiledCode(t *testing.T) {
	page := source(t, "../docs/adopting/contracts.md")
	sources := flat(source(t, "example_test.go"))
	files, err := filepath.Glob("../docs/adopting/tenminutes/*/*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err, files)
	}
	for _, f := range files {
		sources += flat(source(t, f))
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(page, -1)
	if len(blocks) < 4 {
		t.Errorf("the page shows %d blocks of Go", len(blocks))
	}
	for _, b := range blocks {
		if !strings.Contains(sources, flat(b[1])) {
			first, _, _ := strings.Cut(b[1], "\n")
			t.Errorf("the block that begins %q is in no source file", first)
		}
	}
}

func source(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// flat takes the indentation away.
func flat(s string) string { return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(s, "") }
