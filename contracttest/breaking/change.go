package breaking

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// ErrNothingBefore is returned where the contract is not part of what it is compared with: it is new, or
// its file was moved. Whoever moves a contract compares with [Saved] once.
var ErrNothingBefore = errors.New("nothing to compare with")

// Severity says how sure it is that a change breaks somebody.
type Severity int

const (
	// Breaking changes break consumers that kept to the contract.
	Breaking Severity = iota
	// Warning is for changes that break some consumers, which only a person or a consumer's own contract can tell.
	Warning
)

func (s Severity) String() string {
	if s == Warning {
		return "warning"
	}
	return "breaking"
}

// Change is one change of a contract that breaks somebody, or may.
type Change struct {
	Rule     string   // the name buf or oasdiff has for it
	Severity Severity // buf's changes are all [Breaking]
	File     string   // the contract's file, as reached from the current directory
	Line     int      // from 1; 0 where the tool does not say
	Column   int      // from 1; 0 where the tool does not say
	Where    string   // the operation or event; empty for Protobuf, whose Text says it
	Text     string
}

// Key names the change: the same in every run, wherever in its file it is. A list of accepted changes has keys.
func (c Change) Key() string {
	where := c.File
	if c.Where != "" {
		where += " " + c.Where
	}
	return c.Rule + " " + where + ": " + c.Text
}

// String has the change on one line, with its position.
func (c Change) String() string {
	pos := c.File
	if c.Line > 0 {
		pos = fmt.Sprintf("%s:%d:%d", c.File, c.Line, max(c.Column, 1))
	}
	if c.Where != "" {
		pos += ": " + c.Where
	}
	return fmt.Sprintf("%s: %s: %s (%s)", pos, c.Severity, c.Text, c.Rule)
}

// order puts changes in the order a reader goes through the files.
func order(changes []Change) []Change {
	slices.SortStableFunc(changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Where, b.Where),
			cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Text, b.Text))
	})
	return slices.Compact(changes)
}

// Accepted is a list of changes that were looked at and are meant.
type Accepted struct{ keys map[string]bool }

// ReadAccepted reads such a list: one [Change.Key] per line; empty lines and lines that begin with # are skipped.
func ReadAccepted(r io.Reader) (*Accepted, error) {
	a := &Accepted{keys: map[string]bool{}}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if !strings.Contains(line, ": ") {
			return nil, fmt.Errorf("accepted changes, line %d: %q is not RULE FILE: TEXT, as the check prints it", n, line)
		}
		a.keys[line] = true
	}
	return a, lines.Err()
}

// Split takes the accepted ones out of changes. What is left over are entries of the list that no change
// has: they are due for removal. A nil list accepts nothing.
func (a *Accepted) Split(changes []Change) (open, accepted []Change, left []string) {
	if a == nil {
		return changes, nil, nil
	}
	seen := map[string]bool{}
	for _, c := range changes {
		if k := c.Key(); a.keys[k] {
			seen[k] = true
			accepted = append(accepted, c)
		} else {
			open = append(open, c)
		}
	}
	for k := range a.keys {
		if !seen[k] {
			left = append(left, k)
		}
	}
	slices.Sort(left)
	return open, accepted, left
}
