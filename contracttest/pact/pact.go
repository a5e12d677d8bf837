// Package pact reads, writes and merges contract files in the Pact
// Specification, version 4 (https://github.com/pact-foundation/pact-specification/tree/version-4),
// and says where a provider's contracts come from. It needs no native library.
//
// A [File] is written so that its diff reads well and two runs of the same tests
// write the same bytes: interactions in the order of their names, keys sorted,
// no versions of tools.
package pact

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// ErrMalformed is what the error wraps that [Parse] returns for a file that is
// no pact.
var ErrMalformed = errors.New("malformed pact")

// Kind says how an interaction takes place.
type Kind string

// The kinds that Pact V4 names and this package knows.
const (
	HTTP    Kind = "Synchronous/HTTP"
	Message Kind = "Asynchronous/Messages"
)

// File is the contract of one consumer with one provider.
type File struct {
	Consumer, Provider string
	Interactions       []Interaction
}

// Interaction is one exchange that the consumer relies on.
type Interaction struct {
	Kind        Kind
	Description string
	States      []State
	// Document is the whole interaction as in the file.
	Document map[string]any
}

// State is a provider state: what must hold at the provider before the exchange.
type State struct {
	Name   string         `json:"name"`
	Params map[string]any `json:"params,omitempty"`
}

// Key tells the interactions of one file apart: its description and its states'
// names and parameters.
func (i Interaction) Key() string {
	var b strings.Builder
	b.WriteString(i.Description)
	for _, s := range i.States {
		p, _ := json.Marshal(s.Params) // was JSON
		fmt.Fprintf(&b, "\x00%s\x00%s", s.Name, p)
	}
	return b.String()
}

// Name returns the interaction's description with its states, for people.
func (i Interaction) Name() string {
	if len(i.States) == 0 {
		return i.Description
	}
	names := make([]string, len(i.States))
	for n, s := range i.States {
		names[n] = s.Name
	}
	return i.Description + ", given " + strings.Join(names, " and ")
}

// FileName is the name that a contract's file has by convention.
func FileName(consumer, provider string) string { return consumer + "-" + provider + ".json" }

// Parse reads a contract. name, usually its path, stands in errors, which wrap
// [ErrMalformed] and say what is wrong.
func Parse(name string, data []byte) (*File, error) {
	bad := func(format string, args ...any) (*File, error) {
		return nil, fmt.Errorf("%w %s: %s", ErrMalformed, name, fmt.Sprintf(format, args...))
	}
	var doc struct {
		Consumer     struct{ Name string }
		Provider     struct{ Name string }
		Interactions []map[string]any
		Messages     []map[string]any
		Metadata     struct {
			PactSpecification struct{ Version string }
		}
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // 1.0 stays 1.0
	if err := d.Decode(&doc); err != nil {
		return bad("%v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows the document")
	}
	switch v := doc.Metadata.PactSpecification.Version; {
	case doc.Consumer.Name == "":
		return bad("it names no consumer")
	case doc.Provider.Name == "":
		return bad("it names no provider")
	case !strings.HasPrefix(v, "4"):
		return bad("its specification version is %q; version 4 is read", v)
	case len(doc.Messages) > 0:
		return bad("version 4 keeps messages among its interactions")
	case len(doc.Interactions) == 0:
		return bad("it has no interactions")
	}
	f, err := New(doc.Consumer.Name, doc.Provider.Name, doc.Interactions...)
	if err != nil {
		return bad("%v", err)
	}
	return f, nil
}

// New makes a contract of interactions as they stand in files.
func New(consumer, provider string, interactions ...map[string]any) (*File, error) {
	f := &File{Consumer: consumer, Provider: provider}
	seen := map[string]bool{}
	for n, doc := range interactions {
		i, err := interaction(doc)
		if err != nil {
			return nil, fmt.Errorf("interaction %d: %w", n+1, err)
		}
		if seen[i.Key()] {
			return nil, fmt.Errorf("interaction %q is there twice", i.Name())
		}
		seen[i.Key()] = true
		f.Interactions = append(f.Interactions, i)
	}
	return f, nil
}

func interaction(doc map[string]any) (Interaction, error) {
	i := Interaction{Document: doc}
	kind, _ := doc["type"].(string)
	i.Kind = Kind(kind)
	i.Description, _ = doc["description"].(string)
	if i.Description == "" {
		return i, errors.New("it has no description")
	}
	switch i.Kind {
	case HTTP:
		for _, part := range []string{"request", "response"} {
			p, ok := doc[part].(map[string]any)
			if !ok {
				return i, fmt.Errorf("%q has no %s", i.Description, part)
			}
			if err := plain(p); err != nil {
				return i, fmt.Errorf("%q: %s: %w", i.Description, part, err)
			}
		}
	case Message:
		if err := body(doc["contents"]); err != nil {
			return i, fmt.Errorf("%q: contents: %w", i.Description, err)
		}
	default:
		return i, fmt.Errorf("%q is of type %q; %q and %q are read", i.Description, kind, HTTP, Message)
	}
	if doc["pending"] == true {
		return i, fmt.Errorf("%q is pending: it would hold whatever the provider does; a broker says which contracts are", i.Description)
	}
	if doc["providerState"] != nil {
		return i, fmt.Errorf("%q has a providerState; version 4 has providerStates", i.Description)
	}
	states, err := json.Marshal(doc["providerStates"])
	if err != nil {
		return i, err
	}
	if err := json.Unmarshal(states, &i.States); err != nil {
		return i, fmt.Errorf("%q: providerStates: %w", i.Description, err)
	}
	for _, s := range i.States {
		if s.Name == "" {
			return i, fmt.Errorf("%q has a provider state without a name", i.Description)
		}
	}
	return i, nil
}

// plain refuses what the core takes for an expectation that is not there, or for
// another one, of a request or response.
func plain(part map[string]any) error {
	if status := part["status"]; status != nil {
		n, err := strconv.ParseFloat(fmt.Sprint(status), 64) // 200.0 is 200
		if err != nil || n != math.Trunc(n) || n < 100 || n > 999 {
			return fmt.Errorf("its status is %v", status)
		}
	}
	if _, ok := part["path"].(string); !ok && part["path"] != nil {
		return fmt.Errorf("its path is %v", part["path"])
	}
	if _, ok := part["headers"].(map[string]any); !ok && part["headers"] != nil {
		return fmt.Errorf("its headers are %v", part["headers"])
	}
	return body(part["body"])
}

func body(v any) error {
	b, ok := v.(map[string]any)
	if v == nil || ok && len(b) == 0 {
		return nil
	}
	if _, has := b["content"]; !has {
		return errors.New("its body has no content; version 4 has {\"content\": …, \"contentType\": …}")
	}
	return nil
}

// Read parses the file at path.
func Read(path string) (*File, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("pact: %w", err)
	}
	return Parse(path, data)
}

// Encode returns the file's bytes. The same content is always the same bytes.
func (f *File) Encode() ([]byte, error) {
	interactions := slices.Clone(f.Interactions)
	slices.SortFunc(interactions, func(a, b Interaction) int { return cmp.Compare(a.Key(), b.Key()) })
	docs := make([]map[string]any, len(interactions))
	for n, i := range interactions {
		docs[n] = i.Document
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{
		"consumer":     map[string]any{"name": f.Consumer},
		"provider":     map[string]any{"name": f.Provider},
		"interactions": docs,
		"metadata":     map[string]any{"pactSpecification": map[string]any{"version": "4.0"}},
	})
	if err != nil {
		return nil, fmt.Errorf("pact: encode %s: %w", FileName(f.Consumer, f.Provider), err)
	}
	return b.Bytes(), nil
}

// Merge adds f's interactions to the file of its consumer and provider in dir,
// which it makes where it is missing; an interaction with the same [Interaction.Key]
// takes the place of the old one. It returns the file's path. Tests of several
// packages may merge into one file at the same time.
//
// An interaction that no test has any more stays in the file: delete the file and
// run the consumer's tests to write it afresh.
func Merge(dir string, f *File) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("pact: %w", err)
	}
	path := filepath.Join(dir, FileName(f.Consumer, f.Provider))
	unlock, err := lock(path)
	if err != nil {
		return "", err
	}
	defer unlock()
	merged := &File{Consumer: f.Consumer, Provider: f.Provider}
	old, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return "", fmt.Errorf("pact: %w", err)
	default:
		was, err := Parse(path, old)
		if err != nil {
			return "", err
		}
		if was.Consumer != f.Consumer || was.Provider != f.Provider { // "a-b" with "c", and "a" with "b-c"
			return "", fmt.Errorf("pact: %s is the contract of %s with %s, not of %s with %s; give one of them a directory of its own",
				path, was.Consumer, was.Provider, f.Consumer, f.Provider)
		}
		fresh := map[string]bool{}
		for _, i := range f.Interactions {
			fresh[i.Key()] = true
		}
		for _, i := range was.Interactions {
			if !fresh[i.Key()] {
				merged.Interactions = append(merged.Interactions, i)
			}
		}
	}
	merged.Interactions = append(merged.Interactions, f.Interactions...)
	data, err := merged.Encode()
	if err != nil {
		return "", err
	}
	if bytes.Equal(data, old) {
		return path, nil
	}
	return path, replace(path, data)
}

// replace writes a file whole or not at all.
func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".pact-*")
	if err != nil {
		return fmt.Errorf("pact: %w", err)
	}
	_, werr := tmp.Write(data)
	err = errors.Join(werr, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name()) // the first error is the one to tell
		return fmt.Errorf("pact: write %s: %w", path, err)
	}
	return nil
}
