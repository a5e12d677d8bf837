package resilience_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"slices"
	"strings"
	"testing"
)

// Every exported function is shown in an Example.
func TestEveryFunctionHasAnExample(t *testing.T) {
	fset := token.NewFileSet()
	parse := func(dir string, tests bool) (files []*ast.File) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") != tests {
				continue
			}
			f, err := parser.ParseFile(fset, dir+"/"+e.Name(), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		return files
	}
	for _, dir := range []string{".", "grpcresilience", "eventresilience"} {
		shown := map[string]bool{}
		for _, example := range doc.Examples(parse(dir, true)...) {
			if example.Output == "" && !example.EmptyOutput {
				t.Errorf("%s: Example%s is not run: it has no output", dir, example.Name)
			}
			ast.Inspect(example.Code, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok {
					shown[s.Sel.Name] = true
				}
				return true
			})
		}
		var missing []string
		for _, f := range parse(dir, false) {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.IsExported() && !shown[fn.Name.Name] {
					missing = append(missing, fn.Name.Name)
				}
			}
		}
		slices.Sort(missing)
		if len(missing) > 0 {
			t.Errorf("%s: no Example shows %s", dir, strings.Join(missing, ", "))
		}
	}
}
