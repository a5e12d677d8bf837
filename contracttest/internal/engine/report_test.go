package engine

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestReadReport(t *testing.T) {
	problems, err := readReport(1, `{"errors":[{"interaction":"i","mismatch":{"type":"mismatches","mismatches":[
		{"type":"BodyMismatch","path":"$.id","mismatch":"Expected 'x' to be an integer"},
		{"type":"BodyMismatch","path":"$","mismatch":"missing keys: b"},
		{"type":"StatusMismatch","mismatch":"expected 200 but was 201"},
		{"type":"HeaderMismatch","key":"ETag","mismatch":"missing"},
		{"type":"MetadataMismatch","key":"topic","mismatch":"missing"}]}},
		{"interaction":"j","mismatch":{"type":"error","message":"connection refused"}}]}`, "")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"body $.id: Expected 'x' to be an integer", "body: missing keys: b", "status: expected 200 but was 201",
		"header ETag: missing", "metadata topic: missing", "connection refused",
	}
	if !slices.Equal(problems, want) {
		t.Errorf("got %q", problems)
	}
	if problems, err := readReport(0, "", ""); err != nil || problems != nil {
		t.Errorf("all is well: %q, %v", problems, err)
	}
	var e *NotRun
	for _, report := range []string{"", "{}", "[", `{"errors":[]}`} {
		if _, err := readReport(2, report, "the core's own words"); !errors.As(err, &e) || !strings.Contains(err.Error(), "the core's own words") {
			t.Errorf("%q: %v", report, err)
		}
	}
}

func TestReadMismatches(t *testing.T) {
	got := readMismatches(`[
		{"type":"missing-request","method":"GET","path":"/a"},
		{"type":"request-not-found","method":"PUT","path":"/b"},
		{"type":"request-mismatch","method":"GET","path":"/c","mismatches":[{"type":"QueryMismatch","parameter":"q","mismatch":"differs"}]},
		{"type":"something-new","method":"GET","path":"/d"}]`)
	want := []string{
		"the contract's GET /a was not called", "the consumer called PUT /b, which the contract does not have",
		"GET /c: query q: differs", "GET /d differs: something-new",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := readMismatches("[]"); got != nil {
		t.Errorf("none: %q", got)
	}
	if got := readMismatches("what"); !slices.Equal(got, []string{"what"}) {
		t.Errorf("no JSON: %q", got)
	}
}
