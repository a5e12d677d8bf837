// Package docstest keeps the documentation true: links lead somewhere, code that is quoted compiles, and
// tests that are named exist.
package docstest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const root = "../.."

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(b), "\r\n", "\n")
}

// pages are the Markdown files of the repository, relative to its root.
func pages(t *testing.T) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "shop-data" || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if strings.HasSuffix(path, ".md") {
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			out = append(out, filepath.ToSlash(rel))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	fence    = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	link     = regexp.MustCompile(`\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#{1,6} +(.+?) *$`)
	testName = regexp.MustCompile("^`(Test\\w+|Fuzz\\w+|Example\\w*)((?:/\\w+)*)`$")
	anyTest  = regexp.MustCompile("`(?:Test|Fuzz)[A-Z]\\w*[^`]*`")
)

// anchors are the fragments that GitHub gives a page's headings.
func anchors(page string) map[string]bool {
	out := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(page, ""), -1) {
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r > 127:
				return r
			}
			return -1
		}, strings.ToLower(h[1]))
		out[slug] = true
	}
	return out
}

// TestLinksResolve follows every relative link of every page, to its heading too.
func TestLinksResolve(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(read(t, page), ""), -1) {
			target, fragment, _ := strings.Cut(m[2], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := page
			if target != "" {
				file = filepath.Join(filepath.Dir(page), filepath.FromSlash(target))
			}
			info, err := os.Stat(filepath.Join(root, file))
			if err != nil {
				t.Errorf("%s links to %s, which does not exist", page, m[2])
				continue
			}
			if fragment != "" && !info.IsDir() && strings.HasSuffix(file, ".md") && !anchors(read(t, file))[fragment] {
				t.Errorf("%s links to %s, which has no such heading", page, m[2])
			}
		}
	}
}

// TestGoSnippetsAreCompiledCode: each block of Go in README.md stands in a source file of the repository,
// which the build compiles, to the letter.
func TestGoSnippetsAreCompiledCode(t *testing.T) {
	var sources []string
	for _, glob := range []string{"docs/smallest/*.go", "kit/*_test.go", "kit/*/*_test.go", "saga/*_test.go", "resilience/*_test.go", "authn/*_test.go"} {
		files, err := filepath.Glob(filepath.Join(root, glob))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			rel, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, read(t, rel))
		}
	}
	blocks := 0
	for _, m := range fence.FindAllStringSubmatch(read(t, "README.md"), -1) {
		if m[1] != "go" {
			continue
		}
		blocks++
		found := false
		for _, s := range sources {
			found = found || strings.Contains(s, m[2])
		}
		if !found {
			first, _, _ := strings.Cut(m[2], "\n")
			t.Errorf("README.md: the block of Go that begins %q is in no source file; copy it from docs/smallest or from an example", first)
		}
	}
	if blocks == 0 {
		t.Error("README.md shows no Go")
	}
}

// TestNamedTestsExist: wherever a page names a test, it links to the file that has it.
func TestNamedTestsExist(t *testing.T) {
	named := 0
	for _, page := range pages(t) {
		text := fence.ReplaceAllString(read(t, page), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			name := testName.FindStringSubmatch(m[1])
			if name == nil {
				continue
			}
			named++
			file := filepath.Join(filepath.Dir(page), filepath.FromSlash(m[2]))
			b, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Errorf("%s: %s is said to be in %s, which does not exist", page, name[0], m[2])
				continue
			}
			if !strings.Contains(string(b), "\nfunc "+name[1]+"(") {
				t.Errorf("%s: %s has no test %s", page, m[2], name[1])
			}
			for sub := range strings.SplitSeq(strings.TrimPrefix(name[2], "/"), "/") {
				if sub != "" && sub != "suite" && !subtestIn(t, filepath.Dir(filepath.Join(root, file)), sub) {
					t.Errorf("%s: no subtest %s of %s", page, sub, name[1])
				}
			}
		}
		if page == "docs/napkin.md" {
			for _, bare := range anyTest.FindAllString(link.ReplaceAllString(text, ""), -1) {
				t.Errorf("%s names %s without a link to its file", page, bare)
			}
		}
	}
	if named == 0 {
		t.Error("no page names a test; docs/napkin.md should")
	}
}

// subtestIn reports whether a test file in dir has the subtest's name as a string.
func subtestIn(t *testing.T, dir, name string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), `"`+strings.ReplaceAll(name, "_", " ")+`"`) || strings.Contains(string(b), `"`+name+`"`) {
			return true
		}
	}
	return false
}

// TestEnvironmentVariablesAreDocumented compares examples/shop/README.md with the variables in the code.
func TestEnvironmentVariablesAreDocumented(t *testing.T) {
	page := read(t, "examples/shop/README.md")
	known := map[string]bool{}
	shop := regexp.MustCompile(`\{Name: "([A-Z_]+)", Accepts:`).FindAllStringSubmatch(read(t, "examples/shop/external.go"), -1)
	kit := regexp.MustCompile(`(?m)^\t\{"(NAPKIN_[A-Z_]+)", `).FindAllStringSubmatch(read(t, "kit/env.go"), -1)
	if len(shop) == 0 || len(kit) == 0 {
		t.Fatal("the lists of variables are no longer where this test looks for them")
	}
	for _, m := range append(shop, kit...) {
		known[m[1]] = true
		if !strings.Contains(page, "`"+m[1]+"`") {
			t.Errorf("examples/shop/README.md does not say what %s is", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`((?:NAPKIN|SHOP|NATS|DATABASE)_[A-Z_]+)`").FindAllStringSubmatch(page, -1) {
		if !known[m[1]] {
			t.Errorf("examples/shop/README.md describes %s, which nothing reads", m[1])
		}
	}
}

// TestDecisionsAreNumbered: docs/adr/NNNN-title.md, without gaps, each with its number, status and parts.
func TestDecisionsAreNumbered(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(root, "docs", "adr", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		name := filepath.Base(f)
		if want := number(i + 1); !strings.HasPrefix(name, want+"-") {
			t.Errorf("docs/adr/%s: its number should be %s", name, want)
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range []string{"# " + strings.TrimLeft(name[:4], "0") + ". ", "\nStatus: ", "\n## Context\n", "\n## Decision\n", "\n## Consequences\n"} {
			if !strings.Contains(string(b), part) {
				t.Errorf("docs/adr/%s lacks %q", name, strings.TrimSpace(part))
			}
		}
	}
}

func number(n int) string {
	digits := []byte("0000")
	for i := 3; n > 0; i, n = i-1, n/10 {
		digits[i] = byte('0' + n%10)
	}
	return string(digits)
}
