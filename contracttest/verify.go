package contracttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/contracttest/internal/engine"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// Verify replays every contract of p's consumers against p. Each interaction is a
// subtest, consumer/interaction; one that the provider breaks fails with what
// differs. It skips the test where the native library is missing; see the package's
// documentation.
func Verify(t *testing.T, p Provider) {
	t.Helper()
	if err := p.check(); err != nil {
		t.Fatal(err)
	}
	Need(t)
	v, err := newVerifier(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer v.close()
	for _, c := range v.pacts {
		for _, n := range c.Notices {
			t.Logf("%s: %s", c.Origin, n)
		}
		var results []pact.Result
		t.Run(c.Consumer, func(t *testing.T) {
			for _, i := range c.Interactions {
				t.Run(i.Name(), func(t *testing.T) {
					r := v.interaction(t.Context(), c, i)
					results = append(results, r)
					report(t, c, r)
				})
			}
		})
		if len(results) == len(c.Interactions) { // not with -run
			if err := v.publish(t.Context(), c, results); err != nil {
				t.Error(err)
			}
		}
	}
}

func report(t *testing.T, c pact.Pact, r pact.Result) {
	t.Helper()
	if len(r.Problems) == 0 {
		return
	}
	text := fmt.Sprintf("%s breaks its contract with the consumer %s (%s): %s\n  %s", c.Provider, r.Consumer, c.Origin, r.Interaction, strings.Join(r.Problems, "\n  "))
	if c.Pending {
		t.Log("pending: " + text)
		return
	}
	t.Error(text)
}

// Report is how a verification ended.
type Report struct {
	Provider  string
	Contracts []Contract
}

// Contract is how the verification of one consumer's contract ended.
type Contract struct {
	Consumer string
	// Origin is the file or URL.
	Origin string
	// Pending contracts do not count: see [pact.Pact].
	Pending bool
	Results []pact.Result
}

// Broken reports whether the provider breaks the contract.
func (c Contract) Broken() bool {
	return slices.ContainsFunc(c.Results, func(r pact.Result) bool { return len(r.Problems) > 0 })
}

// Flagged returns the names of the consumers whose contracts are broken, sorted,
// pending ones left out.
func (r Report) Flagged() []string {
	var out []string
	for _, c := range r.Contracts {
		if c.Broken() && !c.Pending && !slices.Contains(out, c.Consumer) {
			out = append(out, c.Consumer)
		}
	}
	slices.Sort(out)
	return out
}

// Check is [Verify] for who wants the outcome as data. The error is about the
// verification itself: contracts that cannot be read, a provider that does not
// start, a native library that is missing.
func Check(ctx context.Context, p Provider) (*Report, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if why := engine.Missing(); why != "" {
		return nil, errors.New(why)
	}
	v, err := newVerifier(ctx, p)
	if err != nil {
		return nil, err
	}
	defer v.close()
	r := &Report{Provider: p.Name}
	for _, c := range v.pacts {
		out := Contract{Consumer: c.Consumer, Origin: c.Origin, Pending: c.Pending}
		for _, i := range c.Interactions {
			out.Results = append(out.Results, v.interaction(ctx, c, i))
		}
		if err := v.publish(ctx, c, out.Results); err != nil {
			return nil, err
		}
		r.Contracts = append(r.Contracts, out)
	}
	return r, nil
}

// verifier replays interactions one by one, so that each has a result of its own.
type verifier struct {
	p      Provider
	pacts  []pact.Pact
	server *server
	dir    string
}

func newVerifier(ctx context.Context, p Provider) (*verifier, error) {
	fetch, cancel := context.WithTimeout(ctx, 3*p.Timeout)
	defer cancel()
	pacts, err := p.Pacts.Pacts(fetch, p.Name)
	if err != nil {
		return nil, fmt.Errorf("contracttest: provider %s: %w", p.Name, err)
	}
	if len(pacts) == 0 {
		return nil, fmt.Errorf("contracttest: provider %s: no contracts", p.Name)
	}
	if err := p.started(ctx); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "napkin-verify-")
	if err != nil {
		return nil, fmt.Errorf("contracttest: %w", err)
	}
	s, err := serve(ctx, p)
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, err
	}
	return &verifier{p: p, pacts: pacts, server: s, dir: dir}, nil
}

func (v *verifier) close() {
	v.server.close()
	_ = os.RemoveAll(v.dir)
}

func (v *verifier) interaction(ctx context.Context, c pact.Pact, i pact.Interaction) pact.Result {
	r := pact.Result{Consumer: c.Consumer, Interaction: i.Name()}
	if err := v.possible(i); err != nil {
		r.Problems = []string{err.Error()}
		return r
	}
	one := &pact.File{Consumer: c.Consumer, Provider: c.Provider, Interactions: []pact.Interaction{i}}
	data, err := one.Encode()
	if err == nil {
		err = os.WriteFile(filepath.Join(v.dir, "contract.json"), data, 0o600)
	}
	if err != nil {
		r.Problems = []string{err.Error()}
		return r
	}
	run := v.server.begin(ctx, Interaction{Consumer: c.Consumer, Name: i.Description, States: i.States}, v.p.Timeout)
	problems, err := engine.Verify(v.server.target, filepath.Join(v.dir, "contract.json"))
	own := run.end()
	if err != nil {
		problems = append(problems, err.Error())
	}
	switch {
	case len(own) > 0: // why the core saw what it saw
		r.Problems = own
	case len(problems) > 0:
		r.Problems = slices.Concat(problems, run.answer())
	}
	return r
}

// possible says what p lacks for an interaction, before anything is tried.
func (v *verifier) possible(i pact.Interaction) error {
	for _, s := range i.States {
		if _, ok := v.p.States[s.Name]; !ok {
			return fmt.Errorf("provider state %q is not known; add it to Provider.States%s", s.Name, among(v.p.States))
		}
	}
	switch i.Kind {
	case pact.Message:
		if _, ok := v.p.Events[i.Description]; !ok {
			return fmt.Errorf("the provider does not make the event %q; add it to Provider.Events%s", i.Description, among(v.p.Events))
		}
	case pact.HTTP:
		if v.p.REST == nil && v.p.URL == "" && v.p.GRPC == nil {
			return errors.New("the contract is about calls; set Provider.REST, URL or GRPC")
		}
	}
	return nil
}

func among[T any](m map[string]T) string {
	if len(m) == 0 {
		return ""
	}
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, fmt.Sprintf("%q", name))
	}
	slices.Sort(names)
	return ", which has " + strings.Join(names, ", ")
}

func (v *verifier) publish(ctx context.Context, c pact.Pact, results []pact.Result) error {
	if c.Publish == nil || v.p.Version == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*v.p.Timeout)
	defer cancel()
	broken := slices.ContainsFunc(results, func(r pact.Result) bool { return len(r.Problems) > 0 })
	err := c.Publish(ctx, pact.Verification{
		Provider: v.p.Name, Version: v.p.Version, Branch: v.p.Branch, BuildURL: v.p.BuildURL,
		Success: !broken, Results: results,
	})
	if err != nil {
		return fmt.Errorf("contracttest: the result of %s: %w", c.Origin, err)
	}
	return nil
}
