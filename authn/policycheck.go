package authn

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Check compares the policy with the methods that a server has registered
// (full names, as grpcauthn.Methods lists them), and returns an error that
// names every method without a rule and every rule without a method, so that
// neither a forgotten method nor a misspelt rule survives start-up.
func (p *Policy) Check(registered []string) error {
	known := map[string]bool{}
	for _, m := range registered {
		known[m] = true
	}
	var faults []string
	for _, m := range sortedKeys(known) {
		if _, ok := p.rule(m); !ok {
			faults = append(faults, "no rule for "+m)
		}
	}
	if p != nil {
		for _, m := range sortedKeys(p.exact) {
			if !known[m] {
				faults = append(faults, unknownRule(m, sortedKeys(known)))
			}
		}
		services := map[string]bool{}
		for m := range known {
			services[m[:strings.LastIndexByte(m, '/')+1]] = true
		}
		for _, s := range sortedKeys(p.service) {
			if !services[s] {
				faults = append(faults, unknownRule(s, sortedKeys(services)))
			}
		}
	}
	if len(faults) == 0 {
		return nil
	}
	return errors.New("authn: policy does not fit the server: " + strings.Join(faults, "; "))
}

func unknownRule(name string, candidates []string) string {
	fault := fmt.Sprintf("a rule names %s, which is not registered", name)
	if near := nearest(name, candidates); near != "" {
		fault += fmt.Sprintf(" (did you mean %s?)", near)
	}
	return fault
}

// nearest returns the candidate closest in spelling, or "" if none is close.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", len(name)/3+1
	for _, c := range candidates {
		if d := editDistance(name, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance is Levenshtein's, byte by byte, in one row.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substitute := diagonal
			if a[i] != b[j] {
				substitute++
			}
			diagonal = row[j+1]
			row[j+1] = min(substitute, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
