package breaking

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// EventSchemas compares JSON schemas of events with what they were: the files of one directory whose names end
// in .schema.json, one per event and named after its CloudEvents type (com.example.order.placed.schema.json).
// They may refer to other files of that directory.
//
// An event is read by its consumers as a response is, so oasdiff's rules for responses hold: a type that is not
// emitted any more, a property that is gone, of another type or not always there any more, a value that
// consumers do not know.
func EventSchemas(ctx context.Context, dir string, against Against, config *OpenAPIConfig) ([]Change, error) {
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("events: %s is not a directory of JSON schemas", dir)
	}
	tmp, err := os.MkdirTemp("", "napkin-events-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	before := filepath.Join(tmp, "before")
	if against.saved != "" {
		if _, err := os.Stat(against.saved); errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("events: %w: %s does not exist", ErrNothingBefore, against.saved)
		}
		err = copyJSON(before, against.saved)
	} else {
		before, err = schemasAt(ctx, dir, against.ref, before)
	}
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	now := filepath.Join(tmp, "now")
	if err := copyJSON(now, dir); err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	base, n, err := asDocument(before)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	if n == 0 {
		return nil, fmt.Errorf("events: %w: %s has no schema at %s", ErrNothingBefore, dir, against)
	}
	revision, _, err := asDocument(now)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	changes, err := oasdiff(ctx, "", base, revision, config)
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	for i, c := range changes {
		typ := strings.TrimPrefix(c.Where, "GET /")
		c.File, c.Line, c.Column, c.Where = path.Join(filepath.ToSlash(dir), typ+suffix), 0, 0, typ
		switch {
		case strings.HasPrefix(c.Rule, "api-path-removed"):
			c.Rule, c.Text = "event-removed", "the event is not described any more"
		default:
			for _, r := range [][2]string{
				{" for the response status `200`", ""}, {" for the status `200`", ""}, {" for status `200`", ""}, {" from the response with the `200` status", ""},
				{"response's property", "property"}, {"response property", "property"},
			} {
				c.Text = strings.ReplaceAll(c.Text, r[0], r[1])
			}
		}
		changes[i] = c
	}
	return order(changes), nil
}

const suffix = ".schema.json"

// schemasAt puts the schemas of a commit into tmp and returns where dir is there.
func schemasAt(ctx context.Context, dir, ref, tmp string) (string, error) {
	root, rel, err := toplevel(ctx, dir)
	if err != nil {
		return "", err
	}
	hash, err := commit(ctx, root, ref)
	if err != nil {
		return "", err
	}
	n, err := extract(ctx, root, hash, tmp, func(name string) bool {
		return path.Ext(name) == ".json" && (rel == "." || strings.HasPrefix(name, rel+"/"))
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %s has no schema at %s", ErrNothingBefore, dir, ref)
	}
	return filepath.Join(tmp, filepath.FromSlash(rel)), err
}

func copyJSON(to, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(p) != ".json" {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return err
		}
		return os.WriteFile(dest, data, 0o644)
	})
}

// asDocument writes an OpenAPI document beside the schemas, in which each event is a response.
func asDocument(dir string) (file string, n int, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
	if err != nil {
		return "", 0, err
	}
	slices.Sort(names)
	paths := map[string]any{}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", 0, err
		}
		base := filepath.Base(name)
		if !json.Valid(data) {
			return "", 0, fmt.Errorf("%s is not JSON", base)
		}
		paths["/"+strings.TrimSuffix(base, suffix)] = map[string]any{"get": map[string]any{"responses": map[string]any{"200": map[string]any{
			"description": "event", "content": map[string]any{"application/json": map[string]any{"schema": map[string]string{"$ref": "./" + base}}}}}}}
	}
	data, err := json.Marshal(map[string]any{"openapi": "3.1.0", "info": map[string]string{"title": "events", "version": "1"}, "paths": paths})
	if err != nil {
		return "", 0, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", 0, err
	}
	file = filepath.Join(dir, "openapi.events.json")
	return file, len(names), os.WriteFile(file, data, 0o644)
}
