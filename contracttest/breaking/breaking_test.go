package breaking_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/contracttest/breaking"
	"github.com/napkin-kit/napkin/internal/pgtest"
)

// need skips a test whose tool is missing, unless NAPKIN_TEST_REQUIRE names it.
func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		_, err := breaking.Tool(tool)
		if err != nil && pgtest.Required(tool) {
			t.Fatal(err)
		} else if err != nil {
			t.Skip(err)
		}
	}
}

// repo is a git repository in a directory that becomes the current one.
type repo struct {
	t       *testing.T
	commits *int
}

func newRepo(t *testing.T) repo {
	t.Helper()
	for _, tool := range []string{"buf", "oasdiff"} {
		if p, err := breaking.Tool(tool); err == nil { // the directory that holds them is about to be left
			t.Setenv("PATH", filepath.Dir(p)+string(os.PathListSeparator)+os.Getenv("PATH"))
		}
	}
	t.Chdir(t.TempDir())
	r := repo{t, new(int)}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r repo) git(args ...string) {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func (r repo) write(name, content string) {
	r.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r repo) commit() {
	r.t.Helper()
	r.git("add", "-A")
	*r.commits++ // two commits of one second differ
	r.git("commit", "-q", "--allow-empty", "-m", fmt.Sprint("commit ", *r.commits))
}

// deadline is far beyond what the tools need, so that a tool that hangs is a failure and not a test that hangs.
func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// edit is a change of one file and the rules that flag it; none for a compatible one.
type edit struct {
	name, old, new string
	rules          []string
}

// check makes each edit, compares, and takes the edit back.
func check(t *testing.T, r repo, file, content string, edits []edit, compare func() ([]breaking.Change, error)) {
	t.Helper()
	for _, e := range edits {
		t.Run(e.name, func(t *testing.T) {
			if !strings.Contains(content, e.old) {
				t.Fatalf("the contract has no %q", e.old)
			}
			r.write(file, strings.Replace(content, e.old, e.new, 1))
			defer r.write(file, content)
			changes, err := compare()
			if err != nil {
				t.Fatal(err)
			}
			rules := map[string]bool{}
			for _, c := range changes {
				if c.Severity == breaking.Breaking {
					rules[c.Rule] = true
				}
				if c.File != file {
					t.Errorf("%s: found in %s, not in %s", c, c.File, file)
				}
			}
			for _, want := range e.rules {
				if !rules[want] {
					t.Errorf("not flagged by %s: %v", want, changes)
				}
			}
			if len(e.rules) == 0 && len(rules) > 0 {
				t.Errorf("a compatible change is flagged: %v", changes)
			}
		})
	}
}

const bufYAML = `version: v2
modules:
  - path: proto
breaking:
  use: [WIRE_JSON, PACKAGE]
`

const orderProto = `syntax = "proto3";
package order.v1;

enum Status {
  STATUS_UNSPECIFIED = 0;
  STATUS_PAID = 1;
}

message Order {
  string id = 1;
  int64 total = 2;
  Status status = 3;
}

// An event.
message OrderPlaced {
  string order_id = 1;
}

service Orders {
  rpc Get(Order) returns (Order);
  rpc Cancel(Order) returns (Order);
}
`

func TestProtobuf(t *testing.T) {
	need(t, "buf")
	r := newRepo(t)
	r.write("buf.yaml", bufYAML)
	r.write("proto/order/v1/order.proto", orderProto)
	r.commit()
	check(t, r, "proto/order/v1/order.proto", orderProto, []edit{
		{"nothing", "", "", nil},
		{"field added", "int64 total = 2;", "int64 total = 2; string note = 4;", nil},
		{"method added", "rpc Get(", "rpc List(Order) returns (Order); rpc Get(", nil},
		{"comment", "// An event.", "// Another one.", nil},
		{"field removed", "int64 total = 2;", "", []string{"FIELD_NO_DELETE"}},
		{"field's type changed", "int64 total", "string total", []string{"FIELD_WIRE_JSON_COMPATIBLE_TYPE"}},
		{"field renamed", "int64 total", "int64 sum", []string{"FIELD_SAME_JSON_NAME"}},
		{"field's number changed", "int64 total = 2", "int64 total = 5", []string{"FIELD_NO_DELETE"}},
		{"enum value dropped", "STATUS_PAID = 1;", "", []string{"ENUM_VALUE_NO_DELETE_UNLESS_NUMBER_RESERVED"}},
		{"method removed", "  rpc Cancel(Order) returns (Order);\n", "", []string{"RPC_NO_DELETE"}},
		{"event renamed", "message OrderPlaced", "message OrderMade", []string{"PACKAGE_MESSAGE_NO_DELETE"}},
	}, func() ([]breaking.Change, error) {
		return breaking.Protobuf(deadline(t), "proto", breaking.Ref("HEAD"), nil)
	})
}

func TestProtobufAgainstASavedImage(t *testing.T) {
	need(t, "buf")
	r := newRepo(t)
	r.write("buf.yaml", bufYAML)
	r.write("proto/order/v1/order.proto", orderProto)
	buf, err := breaking.Tool("buf")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(buf, "build", "proto", "-o", "released.binpb").CombinedOutput(); err != nil {
		t.Fatalf("buf build: %v\n%s", err, out)
	}
	r.write("proto/order/v1/order.proto", strings.Replace(orderProto, "int64 total", "bool total", 1))
	changes, err := breaking.Protobuf(deadline(t), "proto", breaking.Saved("released.binpb"), nil)
	if err != nil || len(changes) == 0 {
		t.Fatalf("a field's type changed: %v, %v", changes, err)
	}
	if c := changes[0]; c.File != "proto/order/v1/order.proto" || c.Line != 11 {
		t.Errorf("the change is at %s:%d, not where the field is", c.File, c.Line)
	}
}

// Third-party files are fetched by a script and not in git; without them, neither side compiles.
func TestProtobufWithFilesBesideGit(t *testing.T) {
	need(t, "buf")
	r := newRepo(t)
	r.write(".gitignore", "vendored/\n")
	r.write("buf.yaml", strings.Replace(bufYAML, "- path: proto", "- path: proto\n  - path: vendored", 1))
	r.write("vendored/money/money.proto", "syntax = \"proto3\";\npackage money;\nmessage Money { int64 units = 1; }\n")
	bill := "syntax = \"proto3\";\npackage bill.v1;\nimport \"money/money.proto\";\nmessage Bill { money.Money total = 1; string note = 2; }\n"
	r.write("proto/bill/v1/bill.proto", bill)
	r.commit()
	r.write("proto/bill/v1/bill.proto", strings.Replace(bill, "string note = 2;", "", 1))
	changes, err := breaking.Protobuf(deadline(t), "proto", breaking.Ref("HEAD"), &breaking.ProtobufConfig{Beside: []string{"vendored"}})
	if err != nil || len(changes) == 0 {
		t.Fatalf("a field was removed: %v, %v", changes, err)
	}
	if _, err := breaking.Protobuf(deadline(t), "proto", breaking.Ref("HEAD"), nil); err == nil {
		t.Error("contracts that do not compile were compared")
	}
}

const shopYAML = `openapi: 3.0.3
info: {title: orders, version: "1"}
paths:
  /orders/{id}:
    get:
      operationId: getOrder
      parameters:
        - {name: id, in: path, required: true, schema: {type: string}}
        - {name: expand, in: query, schema: {type: string}}
      responses:
        "200":
          description: the order
          headers:
            ETag: {schema: {type: string}}
          content:
            application/json:
              schema: {$ref: "#/components/schemas/Order"}
        "404": {description: none}
  /orders:
    post:
      operationId: placeOrder
      requestBody:
        content:
          application/json:
            schema:
              type: object
              required: [sku]
              properties:
                sku: {type: string}
                note: {type: string}
      responses:
        "201": {description: placed}
components:
  schemas:
    Order:
      type: object
      properties:
        id: {type: string}
        total: {type: integer}
        status: {type: string, enum: [open, paid]}
`

func TestOpenAPI(t *testing.T) {
	need(t, "oasdiff")
	r := newRepo(t)
	r.write("api/openapi.yaml", shopYAML)
	r.commit()
	check(t, r, "api/openapi.yaml", shopYAML, []edit{
		{"nothing", "", "", nil},
		{"optional property added", "total: {type: integer}", "total: {type: integer}\n        currency: {type: string}", nil},
		{"optional parameter added", "- {name: expand,", "- {name: fields, in: query, schema: {type: string}}\n        - {name: expand,", nil},
		{"description", "description: the order", "description: one order", nil},
		{"property removed", "        total: {type: integer}\n", "", []string{"response-optional-property-removed"}},
		{"property's type changed", "total: {type: integer}", "total: {type: string}", []string{"response-property-type-changed"}},
		{"enum value added", "enum: [open, paid]", "enum: [open, paid, late]", []string{"response-property-enum-value-added"}},
		{"status changed", `"201": {description: placed}`, `"202": {description: placed}`, []string{"response-success-status-removed"}},
		{"header missing", "          headers:\n            ETag: {schema: {type: string}}\n", "", []string{"optional-response-header-removed"}},
		{"request field required", "required: [sku]", "required: [sku, note]", []string{"request-property-became-required"}},
		{"request field dropped", "                note: {type: string}\n", "", []string{"request-property-removed"}},
		{"operation removed", "    post:\n", "    put:\n", []string{"api-removed-without-deprecation"}},
	}, func() ([]breaking.Change, error) {
		return breaking.OpenAPI(deadline(t), "api/openapi.yaml", breaking.Ref("HEAD"), nil)
	})

	r.write("old.yaml", shopYAML)
	r.write("api/openapi.yaml", strings.Replace(shopYAML, "        total: {type: integer}\n", "", 1))
	changes, err := breaking.OpenAPI(deadline(t), "api/openapi.yaml", breaking.Saved("old.yaml"), nil)
	if err != nil || len(changes) != 1 || changes[0].Where != "GET /orders/{id}" {
		t.Errorf("against a saved document: %v, %v", changes, err)
	}
	changes, err = breaking.OpenAPI(deadline(t), "api/openapi.yaml", breaking.Saved("old.yaml"),
		&breaking.OpenAPIConfig{Severities: map[string]string{"response-optional-property-removed": "info"}})
	if err != nil || len(changes) != 0 {
		t.Errorf("the caller's severities do not hold: %v, %v", changes, err)
	}
}

const placedSchema = `{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["order_id"],
  "properties": {
    "order_id": {"type": "string"},
    "total": {"$ref": "#/$defs/money"},
    "channel": {"enum": ["web", "shop"]}
  },
  "$defs": {"money": {"type": "object", "properties": {"units": {"type": "integer"}, "currency": {"type": "string"}}}}
}
`

func TestEventSchemas(t *testing.T) {
	need(t, "oasdiff")
	r := newRepo(t)
	const file = "events/com.example.order.placed.schema.json"
	r.write(file, placedSchema)
	r.write("events/com.example.order.paid.schema.json", placedSchema)
	r.commit()
	compare := func() ([]breaking.Change, error) {
		return breaking.EventSchemas(deadline(t), "events", breaking.Ref("HEAD"), nil)
	}
	check(t, r, file, placedSchema, []edit{
		{"nothing", "", "", nil},
		{"property added", `"order_id": {`, `"note": {"type": "string"}, "order_id": {`, nil},
		{"property removed", `, "currency": {"type": "string"}`, "", []string{"response-optional-property-removed"}},
		{"property's type changed", `"units": {"type": "integer"}`, `"units": {"type": "string"}`, []string{"response-property-type-changed"}},
		{"property not always there", `"required": ["order_id"],`, "", []string{"response-property-became-optional"}},
		{"unknown value", `"shop"]`, `"shop", "phone"]`, []string{"response-property-enum-value-added"}},
	}, compare)
	r.git("mv", file, "events/com.example.order.made.schema.json")
	changes, err := compare()
	if err != nil || len(changes) != 1 || changes[0].Rule != "event-removed" || changes[0].File != file {
		t.Errorf("a CloudEvents type was renamed: %v, %v", changes, err)
	}
}

func TestBase(t *testing.T) {
	r := newRepo(t)
	ctx := deadline(t)
	r.commit()
	if _, err := breaking.Base(ctx, ".", "main"); !errors.Is(err, breaking.ErrNothingBefore) {
		t.Errorf("the first commit has something before: %v", err)
	}
	first, err := exec.Command("git", "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	r.commit()
	for _, branch := range []string{"main", "origin/main"} { // the branch itself, and one that git does not know
		if got, err := breaking.Base(ctx, ".", branch); err != nil || got != strings.TrimSpace(string(first)) {
			t.Errorf("on %s: %q, %v; the commit before is %s", branch, got, err, first)
		}
	}
	r.git("checkout", "-q", "-b", "feature", "HEAD~1")
	r.commit()
	r.commit()
	if got, err := breaking.Base(ctx, ".", "main"); err != nil || got != strings.TrimSpace(string(first)) {
		t.Errorf("in a branch: %q, %v; it left main at %s", got, err, first)
	}
	r.git("clone", "-q", "--depth", "1", "file://"+cwd(t), "shallow")
	if _, err := breaking.Base(ctx, "shallow", "origin/main"); err == nil || !strings.Contains(err.Error(), "fetch-depth: 0") {
		t.Errorf("a history that was cut off: %v", err)
	}
}

func cwd(t *testing.T) string {
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.ToSlash(dir)
}

// Each thing that can be wrong has an error that names it.
func TestErrors(t *testing.T) {
	need(t, "buf", "oasdiff")
	r := newRepo(t)
	r.write("buf.yaml", bufYAML)
	r.write("proto/order/v1/order.proto", orderProto)
	r.write("openapi.yaml", shopYAML)
	r.commit()
	r.write("broken/a.proto", "syntax = \"proto3\"; message {")
	r.write("broken.yaml", "openapi: [")
	r.write("new.yaml", shopYAML)
	r.write("events/a.schema.json", "{}")
	r.write("brokenevents/a.schema.json", "{")
	proto := func(dir string, a breaking.Against) func(context.Context) ([]breaking.Change, error) {
		return func(ctx context.Context) ([]breaking.Change, error) { return breaking.Protobuf(ctx, dir, a, nil) }
	}
	api := func(file string, a breaking.Against) func(context.Context) ([]breaking.Change, error) {
		return func(ctx context.Context) ([]breaking.Change, error) { return breaking.OpenAPI(ctx, file, a, nil) }
	}
	events := func(dir string, a breaking.Against) func(context.Context) ([]breaking.Change, error) {
		return func(ctx context.Context) ([]breaking.Change, error) { return breaking.EventSchemas(ctx, dir, a, nil) }
	}
	head := breaking.Ref("HEAD")
	for _, tt := range []struct {
		name string
		do   func(context.Context) ([]breaking.Change, error)
		says string
		none bool // ErrNothingBefore
	}{
		{"no such directory", proto("nowhere", head), "nowhere", false},
		{"no such commit", proto("proto", breaking.Ref("gone")), `no commit "gone"`, false},
		{"a ref that is an option", proto("proto", breaking.Ref("--upload-pack=x")), "no commit", false},
		{"new contracts", proto("broken", head), "no .proto file at HEAD", true},
		{"contracts that do not compile", proto("broken", breaking.Saved("proto")), "do not compile: broken/a.proto:1:", false},
		{"an image that is not there", proto("proto", breaking.Saved("gone.binpb")), "gone.binpb", true},
		{"an image that is none", proto("proto", breaking.Saved("openapi.yaml")), "buf", false},
		{"no such document", api("nowhere.yaml", head), "nowhere.yaml", false},
		{"a new document", api("new.yaml", head), "new.yaml", true},
		{"not a document", api("broken.yaml", breaking.Saved("openapi.yaml")), "broken.yaml", false},
		{"no such commit, document", api("openapi.yaml", breaking.Ref("gone")), `no commit "gone"`, false},
		{"no schemas", events("nowhere", head), "nowhere", false},
		{"new schemas", events("events", head), "no schema at HEAD", true},
		{"not a schema", events("brokenevents", breaking.Saved("events")), "a.schema.json is not JSON", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			changes, err := tt.do(deadline(t))
			if err == nil {
				t.Fatalf("no error, but %v", changes)
			}
			if !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q does not say %q in one line", err, tt.says)
			}
			if errors.Is(err, breaking.ErrNothingBefore) != tt.none {
				t.Errorf("ErrNothingBefore is wrong for %v", err)
			}
		})
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := breaking.OpenAPI(ended, "openapi.yaml", head, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
}

func TestAMissingToolSaysHowToGetIt(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("PATH", "")
	_, err := breaking.Tool("oasdiff")
	var missing *breaking.ToolError
	if !errors.As(err, &missing) || !strings.Contains(err.Error(), "go install github.com/oasdiff/oasdiff@v") || !strings.Contains(err.Error(), "napkin contract install --tools") {
		t.Errorf("got %v", err)
	}
}

// The versions that error messages name are those that tools/go.mod pins.
func TestVersionsArePinnedOnce(t *testing.T) {
	mod, err := os.ReadFile("../../tools/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"github.com/bufbuild/buf " + breaking.BufVersion, "github.com/oasdiff/oasdiff " + breaking.OasdiffVersion} {
		if !strings.Contains(string(mod), line+" ") {
			t.Errorf("tools/go.mod does not have %s", line)
		}
	}
}

func TestAccepted(t *testing.T) {
	gone := breaking.Change{Rule: "response-optional-property-removed", File: "api.yaml", Line: 7, Where: "GET /orders", Text: "removed `total`"}
	other := gone
	other.Where = "GET /carts"
	list, err := breaking.ReadAccepted(strings.NewReader("# total went in 2026\n\n" + gone.Key() + "\nold-rule api.yaml: is no more\n"))
	if err != nil {
		t.Fatal(err)
	}
	gone.Line = 9 // wherever it is
	open, accepted, left := list.Split([]breaking.Change{gone, other})
	if len(open) != 1 || open[0].Where != other.Where || len(accepted) != 1 || len(left) != 1 {
		t.Errorf("open %v, accepted %v, left %v", open, accepted, left)
	}
	if _, err := breaking.ReadAccepted(strings.NewReader("everything\n")); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a list that is none: %v", err)
	}
}
