// Package deptest keeps the import rules of docs/adr/0002-dependency-direction.md: which package may
// depend on what, and that every module a user takes on is listed with its reason.
package deptest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	root = "github.com/napkin-kit/napkin"
	shop = root + "/examples/shop"
)

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Module     *struct{ Path string }
}

// list runs `go list` in a module of this repository.
func list(t *testing.T, dir string, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,Deps,Module"}, args...)...)
	cmd.Dir = filepath.Join("..", "..", dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v in %s: %v\n%s", args, dir, err, stderr.String())
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var p pkg
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

func hasPrefix(path, prefix string) bool {
	return path == prefix || strings.HasPrefix(path, prefix+"/")
}

// heavy is what a core package never brings along.
var heavy = []string{
	"google.golang.org/grpc", "go.opentelemetry.io", "github.com/jackc/pgx", "modernc.org/sqlite",
	"github.com/nats-io", "github.com/prometheus", "github.com/pressly/goose",
	root + "/telemetry",
}

// TestCorePackagesStayLight holds the packages that a team takes alone to the standard library,
// each other, and the few modules named in docs/dependencies.txt.
func TestCorePackagesStayLight(t *testing.T) {
	core := []string{
		"kit/correlation", "kit/problem", "kit/sqldb", "kit/idempotency", "kit/idempotency/sqlidempotency",
		"kit/events", "kit/events/outbox", "kit/events/inbox", "kit/events/memevents",
		"resilience", "saga", "saga/sqlsaga", "saga/participant", "authn",
	}
	for _, name := range core {
		for _, p := range list(t, ".", "./"+name) {
			for _, dep := range p.Deps {
				for _, bad := range heavy {
					if hasPrefix(dep, bad) {
						t.Errorf("%s depends on %s: put that behind a leaf package", name, dep)
					}
				}
				if dep == root+"/kit" || (name != "authn" && hasPrefix(dep, root+"/authn")) {
					t.Errorf("%s depends on %s: the core never looks up at the chassis", name, dep)
				}
			}
		}
	}
}

// TestPactStaysInItsEngine: pact-go needs cgo and a native library, so one package imports it, behind the
// tag pact; everything else builds and is documented without either.
func TestPactStaysInItsEngine(t *testing.T) {
	const engine = root + "/contracttest/internal/engine"
	seen := false
	for _, args := range [][]string{{"./..."}, {"-tags", "pact", "./..."}} {
		for _, p := range list(t, ".", args...) {
			for _, imp := range p.Imports {
				pact := hasPrefix(imp, "github.com/pact-foundation") || imp == "C"
				if pact && p.ImportPath != engine {
					t.Errorf("%s imports %s: only %s does", p.ImportPath, imp, engine)
				}
				if pact && p.ImportPath == engine {
					seen = true
					if !slices.Contains(args, "pact") {
						t.Errorf("%s imports %s without the tag pact", engine, imp)
					}
				}
			}
		}
	}
	if !seen {
		t.Errorf("%s does not import pact-go: is the tag still pact?", engine)
	}
}

// TestProductionCodeIsFreeOfTestCode: packages whose name ends in "test" are for tests, and only they may import testing.
// One program may too: the simulator, whose virtual time is that of testing/synctest.
func TestProductionCodeIsFreeOfTestCode(t *testing.T) {
	for _, dir := range []string{".", "examples/shop"} {
		for _, p := range list(t, dir, "./...") {
			name := filepath.Base(p.ImportPath)
			if strings.HasSuffix(name, "test") || p.ImportPath == root+"/resilience/sim" {
				continue
			}
			for _, imp := range p.Imports {
				own := hasPrefix(imp, root)
				if imp == "testing" || (own && strings.HasSuffix(imp, "test")) {
					t.Errorf("%s imports %s outside its tests", p.ImportPath, imp)
				}
			}
		}
	}
}

// TestShopIsAnOrdinaryConsumer: the shop takes from the library only what another team could, and its
// services share nothing but api/.
func TestShopIsAnOrdinaryConsumer(t *testing.T) {
	services := []string{"auth", "user", "catalog", "cart", "order", "payment", "inventory", "notification", "gateway"}
	for _, p := range list(t, "examples/shop", "./...") {
		rel := strings.TrimPrefix(p.ImportPath, shop+"/")
		from, _, _ := strings.Cut(rel, "/")
		if strings.HasSuffix(from, "test") {
			continue // test code may use the library's own test servers
		}
		for _, imp := range p.Imports {
			if hasPrefix(imp, root+"/internal") {
				t.Errorf("%s imports %s: the shop may use only exported packages", p.ImportPath, imp)
			}
			other, ok := strings.CutPrefix(imp, shop+"/")
			if !ok || !slices.Contains(services, from) {
				continue
			}
			to, _, _ := strings.Cut(other, "/")
			if to != from && slices.Contains(services, to) {
				t.Errorf("%s imports %s: services talk only through api/", p.ImportPath, imp)
			}
		}
	}
}

// TestDependenciesAreListed compares each module's direct requirements with docs/dependencies.txt.
func TestDependenciesAreListed(t *testing.T) {
	listed := map[string]bool{}
	f, err := os.Open(filepath.Join("..", "..", "docs", "dependencies.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		mod, reason, _ := strings.Cut(line, " ")
		if len(strings.TrimSpace(reason)) < 10 {
			t.Errorf("docs/dependencies.txt: %s has no reason", mod)
		}
		listed[mod] = true
	}
	required := map[string]bool{}
	for _, dir := range []string{".", "examples/shop"} {
		cmd := exec.Command("go", "mod", "edit", "-json")
		cmd.Dir = filepath.Join("..", "..", dir)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		var mod struct {
			Require []struct {
				Path     string
				Indirect bool
			}
		}
		if err := json.Unmarshal(out, &mod); err != nil {
			t.Fatal(err)
		}
		for _, r := range mod.Require {
			if r.Indirect || hasPrefix(r.Path, root) {
				continue
			}
			required[r.Path] = true
			if !listed[r.Path] {
				t.Errorf("%s/go.mod requires %s: add it to docs/dependencies.txt with its reason, or do without it", dir, r.Path)
			}
		}
	}
	for mod := range listed {
		if !required[mod] {
			t.Errorf("docs/dependencies.txt lists %s, which no module requires any more", mod)
		}
	}
}
