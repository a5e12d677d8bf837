package pact

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source is where a provider's contracts come from: [Dir], [Files], or a broker.
type Source interface {
	// Pacts returns the contracts that consumers have with the provider. None at all
	// is an error: a provider that verifies nothing has proven nothing.
	Pacts(ctx context.Context, provider string) ([]Pact, error)
}

// Pact is a contract with where it came from.
type Pact struct {
	*File
	// Origin is the path or URL, for messages.
	Origin string
	// Pending says that the provider has never verified this contract: a failure
	// is reported, but does not fail the build (https://docs.pact.io/pending).
	Pending bool
	// Notices are what the source wants people to read.
	Notices []string
	// Publish tells the source how the verification ended. nil: it need not know.
	Publish func(context.Context, Verification) error
}

// Verification is how the verification of one contract ended.
type Verification struct {
	Provider string
	// Version is the provider's, usually a commit; Branch and BuildURL are optional.
	Version, Branch, BuildURL string
	Success                   bool
	Results                   []Result
}

// Result is how one interaction ended: it holds where there are no problems.
type Result struct {
	Consumer    string
	Interaction string
	Problems    []string
}

// Dir is the folder of contracts at path: its *.json files, those of other
// providers left aside.
func Dir(path string) Source { return dir(path) }

type dir string

// Pacts implements [Source].
func (d dir) Pacts(_ context.Context, provider string) ([]Pact, error) {
	if _, err := os.Stat(string(d)); err != nil {
		return nil, fmt.Errorf("pact: contracts of %s: %w", provider, err)
	}
	paths, err := filepath.Glob(filepath.Join(string(d), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("pact: %w", err)
	}
	slices.Sort(paths)
	var out []Pact
	for _, path := range paths {
		f, err := Read(path)
		if err != nil {
			return nil, err
		}
		if f.Provider == provider {
			out = append(out, Pact{File: f, Origin: path})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("pact: no contract with %s in %s", provider, string(d))
	}
	return out, nil
}

// Files are contracts by their paths. One of another provider is an error.
func Files(paths ...string) Source { return files(paths) }

type files []string

// Pacts implements [Source].
func (fs files) Pacts(_ context.Context, provider string) ([]Pact, error) {
	var out []Pact
	for _, path := range fs {
		f, err := Read(path)
		if err != nil {
			return nil, err
		}
		if f.Provider != provider {
			return nil, fmt.Errorf("pact: %s is a contract with %s, not with %s", path, f.Provider, provider)
		}
		out = append(out, Pact{File: f, Origin: path})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("pact: no contract with %s: no file was named", provider)
	}
	return out, nil
}

// Consumers limits a source to contracts of these consumers. Each must have one.
func Consumers(s Source, names ...string) Source { return consumers{s, names} }

type consumers struct {
	Source
	names []string
}

// Pacts implements [Source].
func (c consumers) Pacts(ctx context.Context, provider string) ([]Pact, error) {
	all, err := c.Source.Pacts(ctx, provider)
	if err != nil {
		return nil, err
	}
	var known []string
	var out []Pact
	for _, p := range all {
		known = append(known, p.Consumer)
		if slices.Contains(c.names, p.Consumer) {
			out = append(out, p)
		}
	}
	for _, name := range c.names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("pact: no consumer %q has a contract with %s; there are %s", name, provider, strings.Join(known, ", "))
		}
	}
	return out, nil
}
