package pact_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/napkin-kit/napkin/contracttest/pact"
)

// call is an HTTP interaction as it stands in a file.
func call(description string, status int, states ...any) map[string]any {
	doc := map[string]any{
		"type": "Synchronous/HTTP", "description": description,
		"request": map[string]any{"method": "GET", "path": "/"}, "response": map[string]any{"status": status},
	}
	if len(states) > 0 {
		doc["providerStates"] = states
	}
	return doc
}

func file(t testing.TB, docs ...map[string]any) *pact.File {
	t.Helper()
	f, err := pact.New("c", "p", docs...)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	whole := `{"consumer":{"name":"c"},"provider":{"name":"p"},"interactions":[%s],"metadata":{"pactSpecification":{"version":"4.0"}}}`
	for text, says := range map[string]string{
		``:                          "EOF",
		`{`:                         "unexpected EOF",
		`[]`:                        "cannot unmarshal",
		`{} {}`:                     "follows the document",
		`{}`:                        "names no consumer",
		`{"consumer":{"name":"c"}}`: "names no provider",
		`{"consumer":{"name":"c"},"provider":{"name":"p"},"metadata":{"pactSpecification":{"version":"3.0.0"}}}`: `version is "3.0.0"; version 4 is read`,
		fmt.Sprintf(whole, ``):                                                                                                      "no interactions",
		fmt.Sprintf(whole, `{"type":"Synchronous/HTTP"}`):                                                                           "interaction 1: it has no description",
		fmt.Sprintf(whole, `{"description":"d"}`):                                                                                   `"d" is of type ""`,
		fmt.Sprintf(whole, `{"description":"d","type":"x"}`):                                                                        `is of type "x"`,
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP"}`):                                                         `"d" has no request`,
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{}}`):                                            `"d" has no response`,
		fmt.Sprintf(whole, `{"description":"d","type":"Asynchronous/Messages","providerStates":"s"}`):                               "providerStates",
		fmt.Sprintf(whole, `{"description":"d","type":"Asynchronous/Messages","providerState":"s"}`):                                "has a providerState",
		fmt.Sprintf(whole, `{"description":"d","type":"Asynchronous/Messages","pending":true}`):                                     "is pending",
		fmt.Sprintf(whole, `{"description":"d","type":"Asynchronous/Messages","contents":{"a":1}}`):                                 "contents: its body has no content",
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{},"response":{"body":{"a":1}}}`):                "response: its body has no content",
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{"body":"a"},"response":{}}`):                    "request: its body has no content",
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{"path":3},"response":{}}`):                      "its path is 3",
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{},"response":{"headers":"x"}}`):                 "its headers are x",
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{},"response":{"status":65736}}`):                "its status is 65736",
		fmt.Sprintf(whole, `{"description":"d","type":"Synchronous/HTTP","request":{},"response":{"status":"2xx"}}`):                "its status is 2xx",
		fmt.Sprintf(whole, `{"description":"d","type":"Asynchronous/Messages","providerStates":[{}]}`):                              "state without a name",
		fmt.Sprintf(whole, `{"description":"d","type":"Asynchronous/Messages"},{"description":"d","type":"Asynchronous/Messages"}`): `"d" is there twice`,
	} {
		_, err := pact.Parse("the file", []byte(text))
		if !errors.Is(err, pact.ErrMalformed) || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "the file") {
			t.Errorf("%s\n  %v\n  does not say %q", text, err, says)
		}
	}
}

// TestEncodingIsStable: whatever order interactions and tests come in, the bytes are
// the same, and numbers are as they were written.
func TestEncodingIsStable(t *testing.T) {
	a, b := call("a <thing>", 200, map[string]any{"name": "s", "params": map[string]any{"z": 1, "a": 2}}), call("b", 404)
	first, err := file(t, a, b).Encode()
	if err != nil {
		t.Fatal(err)
	}
	second, err := file(t, b, a).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) {
		t.Errorf("the order shows:\n%s\n%s", first, second)
	}
	if !strings.Contains(string(first), "a <thing>") || !strings.HasSuffix(string(first), "}\n") {
		t.Errorf("it does not read well:\n%s", first)
	}
	odd := bytes.Replace(first, []byte(`"status": 200`), []byte(`"status": 200.0`), 1)
	f, err := pact.Parse("odd", odd)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := f.Encode(); err != nil || !bytes.Equal(again, odd) {
		t.Errorf("%v\n%s", err, again)
	}
}

func TestMerge(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	for _, f := range []*pact.File{file(t, call("a", 200)), file(t, call("b", 200)), file(t, call("a", 201)), file(t, call("a", 200, map[string]any{"name": "s"}))} {
		if _, err := pact.Merge(dir, f); err != nil {
			t.Fatal(err)
		}
	}
	f, err := pact.Read(filepath.Join(dir, "c-p.json"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range f.Interactions {
		names = append(names, fmt.Sprint(i.Name(), " ", i.Document["response"]))
	}
	if got, want := strings.Join(names, "; "), "a map[status:201]; a, given s map[status:200]; b map[status:200]"; got != want {
		t.Errorf("got %s", got)
	}
	if err := os.WriteFile(filepath.Join(dir, "c-p.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pact.Merge(dir, file(t, call("a", 200))); !errors.Is(err, pact.ErrMalformed) {
		t.Errorf("a file that somebody has spoilt: %v", err)
	}
}

// TestMergeOfTwoContractsOfOneName: neither takes over the other's interactions.
func TestMergeOfTwoContractsOfOneName(t *testing.T) {
	dir := t.TempDir()
	var err error
	for _, names := range [][2]string{{"order-read", "model"}, {"order", "read-model"}} {
		f, nerr := pact.New(names[0], names[1], call("a", 200))
		if nerr != nil || err != nil {
			t.Fatal(nerr, err)
		}
		_, err = pact.Merge(dir, f)
	}
	if err == nil || !strings.Contains(err.Error(), "is the contract of order-read with model, not of order with read-model") {
		t.Errorf("got %v", err)
	}
}

const (
	mergers = 4
	merges  = 25
)

// TestMergeOfManyProcesses: `go test ./...` runs the packages of a consumer side by
// side, each a process.
func TestMergeOfManyProcesses(t *testing.T) {
	if dir := os.Getenv("PACT_TEST_MERGE"); dir != "" {
		for i := range merges {
			if _, err := pact.Merge(dir, file(t, call(os.Getenv("PACT_TEST_NAME")+fmt.Sprint(i), 200))); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for n := range mergers {
		wg.Go(func() {
			cmd := exec.Command(os.Args[0], "-test.run=^TestMergeOfManyProcesses$")
			cmd.Env = append(os.Environ(), "PACT_TEST_MERGE="+dir, fmt.Sprintf("PACT_TEST_NAME=%d-", n))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	f, err := pact.Read(filepath.Join(dir, "c-p.json"))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Interactions) != mergers*merges {
		t.Errorf("%d of %d interactions are there", len(f.Interactions), mergers*merges)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	write := func(consumer, provider string) string {
		f, err := pact.New(consumer, provider, call("a", 200))
		if err != nil {
			t.Fatal(err)
		}
		path, err := pact.Merge(dir, f)
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	web, till, other := write("web", "order"), write("till", "order"), write("web", "user")
	for name, c := range map[string]struct {
		source pact.Source
		want   string // consumers, or what the error says
	}{
		"folder":           {pact.Dir(dir), "till web"},
		"no folder":        {pact.Dir(dir + "/gone"), "gone"},
		"empty folder":     {pact.Dir(t.TempDir()), "no contract with order"},
		"files":            {pact.Files(web, till), "web till"},
		"another's file":   {pact.Files(other), "with user, not with order"},
		"no file":          {pact.Files(dir + "/x.json"), "x.json"},
		"none named":       {pact.Files(), "no file was named"},
		"one consumer":     {pact.Consumers(pact.Dir(dir), "web"), "web"},
		"unknown consumer": {pact.Consumers(pact.Dir(dir), "web", "shop"), `no consumer "shop" has a contract with order; there are till, web`},
	} {
		t.Run(name, func(t *testing.T) {
			pacts, err := c.source.Pacts(context.Background(), "order")
			var got []string
			for _, p := range pacts {
				got = append(got, p.Consumer)
			}
			if said := strings.Join(got, " "); said != c.want && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %q, %v", said, err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	good, err := file(f, call("a", 200, map[string]any{"name": "s"})).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"interactions":[null,{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := pact.Parse("x", data)
		if err != nil {
			if !errors.Is(err, pact.ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		out, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := pact.Parse("y", out)
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if twice, err := again.Encode(); err != nil || !bytes.Equal(out, twice) {
			t.Fatalf("%v\n%s\n%s", err, out, twice)
		}
	})
}

// A folder of contracts, limited to one consumer's.
func ExampleDir() {
	dir, err := os.MkdirTemp("", "contracts-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	for _, consumer := range []string{"web", "till"} {
		f, err := pact.New(consumer, "order", map[string]any{
			"type": "Synchronous/HTTP", "description": "reading an order",
			"request": map[string]any{"method": "GET", "path": "/orders/1"}, "response": map[string]any{"status": 200},
		})
		if err == nil {
			_, err = pact.Merge(dir, f)
		}
		if err != nil {
			fmt.Println(err)
		}
	}
	pacts, err := pact.Consumers(pact.Dir(dir), "web").Pacts(context.Background(), "order")
	for _, p := range pacts {
		fmt.Println(p.Consumer, "relies on:", p.Interactions[0].Name())
	}
	fmt.Println(err)
	// Output:
	// web relies on: reading an order
	// <nil>
}
