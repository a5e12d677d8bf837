package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/contracttest/breaking"
)

// contractBreakingCmd is `napkin contract breaking`.
type contractBreakingCmd struct {
	Proto    []string      `placeholder:"DIR" help:"Directories of .proto files; buf.yaml says by which rules."`
	OpenAPI  []string      `name:"openapi" placeholder:"FILE" help:"OpenAPI 3 documents."`
	Events   []string      `placeholder:"DIR" help:"Directories of events' JSON schemas (<type>.schema.json)."`
	Against  string        `placeholder:"REF" env:"NAPKIN_BREAKING_BASE" help:"What to compare with: a commit, branch or tag, or a file or directory that was saved. Defaults to where this branch left --branch; on it, to the commit before."`
	Branch   string        `default:"origin/main" help:"The branch that is released from."`
	Beside   []string      `placeholder:"DIR" help:"Directories that .proto files import from and that git does not have."`
	Accepted string        `placeholder:"FILE" help:"List of changes that were looked at and are meant."`
	Accept   bool          `help:"Add the changes that are found to the list of --accepted."`
	Strict   bool          `help:"Fail for warnings too: changes that break some consumers."`
	Timeout  time.Duration `default:"5m" help:"When to give up."`
	Reports  reports       `embed:""`
}

func (c *contractBreakingCmd) Run(ctx context.Context) error {
	if len(c.Proto)+len(c.OpenAPI)+len(c.Events) == 0 {
		return errors.New("nothing to check: name contracts with --proto DIR, --openapi FILE or --events DIR")
	}
	if c.Accept && c.Accepted == "" {
		return errors.New("--accept needs --accepted FILE")
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	accepted, err := c.readAccepted()
	if err != nil {
		return err
	}
	against, err := c.base(ctx)
	if errors.Is(err, breaking.ErrNothingBefore) {
		fmt.Println("no breaking change: this is the first commit")
		return c.Reports.write(os.Stdout, nil)
	} else if err != nil {
		return err
	}

	all, results, err := c.check(ctx, against, accepted)
	if err != nil {
		return err
	}
	open, meant, left := accepted.Split(all)
	if c.Accept {
		return c.accept(open)
	}
	failed := 0
	for _, change := range open {
		fmt.Println(change)
		if change.Severity == breaking.Breaking || c.Strict {
			failed++
		}
	}
	for _, key := range left {
		if c.concerns(key) {
			fmt.Printf("%s: no such change any more; take the line out: %s\n", c.Accepted, key)
		}
	}
	if err := c.Reports.write(os.Stdout, results); err != nil {
		return err
	}
	if failed > 0 {
		return found("%d breaking changes since %s; accept one that is meant with --accepted FILE --accept", failed, against)
	}
	fmt.Printf("no breaking change since %s (%d warnings, %d accepted)\n", against, len(open), len(meant))
	return nil
}

// check compares every contract that was named. A new one breaks nobody.
func (c *contractBreakingCmd) check(ctx context.Context, against breaking.Against, accepted *breaking.Accepted) (all []breaking.Change, results []outcome, err error) {
	compare := func(kind, what string, changes []breaking.Change, err error) error {
		if errors.Is(err, breaking.ErrNothingBefore) {
			fmt.Println(err)
		} else if err != nil {
			return err
		}
		open, _, _ := accepted.Split(changes)
		if len(open) == 0 {
			results = append(results, outcome{Suite: kind, Name: what})
		}
		for _, change := range open {
			results = append(results, outcome{Suite: kind, Name: change.Rule, Problem: problem(change), File: change.File,
				Line: change.Line, Column: change.Column, Warning: change.Severity == breaking.Warning && !c.Strict})
		}
		all = append(all, changes...)
		return nil
	}
	for _, dir := range c.Proto {
		changes, err := breaking.Protobuf(ctx, dir, against, &breaking.ProtobufConfig{Beside: c.Beside})
		if err := compare("protobuf", dir, changes, err); err != nil {
			return nil, nil, err
		}
	}
	for _, document := range c.OpenAPI {
		changes, err := breaking.OpenAPI(ctx, document, against, nil)
		if err := compare("openapi", document, changes, err); err != nil {
			return nil, nil, err
		}
	}
	for _, dir := range c.Events {
		changes, err := breaking.EventSchemas(ctx, dir, against, nil)
		if err := compare("events", dir, changes, err); err != nil {
			return nil, nil, err
		}
	}
	return all, results, nil
}

// concerns says whether an accepted change is of a contract that is being checked.
func (c *contractBreakingCmd) concerns(key string) bool {
	for _, p := range slices.Concat(c.Proto, c.OpenAPI, c.Events) {
		if p = filepath.ToSlash(filepath.Clean(p)); p == "." || strings.Contains(key, " "+p) {
			return true
		}
	}
	return false
}

func problem(c breaking.Change) string {
	if c.Where == "" {
		return c.Text
	}
	return c.Where + ": " + c.Text
}

// base is what to compare with. A file that exists is what was saved; everything else is git's.
func (c *contractBreakingCmd) base(ctx context.Context) (breaking.Against, error) {
	if c.Against != "" {
		if _, err := os.Stat(c.Against); err == nil {
			return breaking.Saved(c.Against), nil
		}
		return breaking.Ref(c.Against), nil
	}
	ref, err := breaking.Base(ctx, ".", c.Branch)
	return breaking.Ref(ref), err
}

func (c *contractBreakingCmd) readAccepted() (*breaking.Accepted, error) {
	if c.Accepted == "" {
		return nil, nil
	}
	f, err := os.Open(c.Accepted)
	if errors.Is(err, fs.ErrNotExist) && c.Accept {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := breaking.ReadAccepted(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Accepted, err)
	}
	return list, nil
}

// accept adds changes to the list.
func (c *contractBreakingCmd) accept(changes []breaking.Change) error {
	f, err := os.OpenFile(c.Accepted, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	for _, change := range changes {
		_, err = fmt.Fprintln(f, change.Key())
		if err != nil {
			break
		}
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Printf("%d changes added to %s: say there, after #, why each is meant\n", len(changes), c.Accepted)
	return nil
}
