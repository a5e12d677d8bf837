package breaking

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// OpenAPIConfig has what may be set; nil means defaults.
type OpenAPIConfig struct {
	// Severities overrides the severity of rules, by oasdiff's name: "error", "warning", "info" (not
	// reported) or "none". Defaults to oasdiff's own and what [DefaultSeverities] makes stricter.
	Severities map[string]string
}

// DefaultSeverities are the rules that are stricter here than in oasdiff. There a property that was never
// declared as required may leave a response; in documents made from Protobuf or Go types, every property is
// of that kind, and a consumer that reads it loses it. Likewise, a request's field that is silently ignored
// any more changes what the request does.
func DefaultSeverities() map[string]string {
	return map[string]string{
		"response-optional-property-removed":  "error",
		"optional-response-header-removed":    "error",
		"request-parameter-removed":           "error",
		"request-property-removed":            "error",
		"response-non-success-status-removed": "warning",
	}
}

// OpenAPI compares an OpenAPI 3 document with what it was. With [Ref], the earlier one is the same file in
// that commit, with the files that it refers to.
func OpenAPI(ctx context.Context, document string, against Against, config *OpenAPIConfig) ([]Change, error) {
	if info, err := os.Stat(document); err != nil || info.IsDir() {
		return nil, fmt.Errorf("openapi: %s is not a file", document)
	}
	base, dir, revision := against.saved, "", document
	if base == "" {
		root, rel, err := toplevel(ctx, document)
		if err != nil {
			return nil, fmt.Errorf("openapi: %w", err)
		}
		hash, err := commit(ctx, root, against.ref)
		if err != nil {
			return nil, fmt.Errorf("openapi: %w", err)
		}
		base, dir, revision = hash+":"+rel, root, filepath.FromSlash(rel)
		if _, err := git(ctx, root, nil, "cat-file", "-e", base); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("openapi: %w: there is no %s at %s", ErrNothingBefore, document, against.ref)
		}
	} else if _, err := os.Stat(base); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("openapi: %w: %s does not exist", ErrNothingBefore, base)
	}
	changes, err := oasdiff(ctx, dir, base, revision, config)
	if err != nil {
		return nil, fmt.Errorf("openapi: %w", err)
	}
	for i := range changes {
		changes[i].File = filepath.ToSlash(document)
	}
	return order(changes), nil
}

// oasdiff runs it on two documents and reads its report.
func oasdiff(ctx context.Context, dir, base, revision string, config *OpenAPIConfig) ([]Change, error) {
	levels, err := os.CreateTemp("", "napkin-severities-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(levels.Name())
	severities := DefaultSeverities()
	if config != nil {
		for rule, level := range config.Severities {
			severities[rule] = level
		}
	}
	for rule, level := range severities {
		word, ok := map[string]string{"error": "err", "warning": "warn", "info": "info", "none": "none"}[level]
		if !ok {
			levels.Close()
			return nil, fmt.Errorf("severity of %s: %q is none of error, warning, info, none", rule, level)
		}
		fmt.Fprintf(levels, "%s %s\n", rule, word)
	}
	if err := levels.Close(); err != nil {
		return nil, err
	}
	out, stderr, code, err := runTool(ctx, "oasdiff", dir, "breaking", base, revision, "--format", "json", "--severity-levels", levels.Name())
	if err != nil {
		return nil, err
	}
	if code != 0 {
		said := strings.TrimPrefix(firstLine(stderr, fmt.Errorf("exit status %d", code)), "Error: ")
		return nil, fmt.Errorf("oasdiff: %s", said)
	}
	var report []struct {
		ID        string `json:"id"`
		Text      string `json:"text"`
		Level     int    `json:"level"` // 3 is an error, 2 a warning
		Operation string `json:"operation"`
		Path      string `json:"path"`
		Source    struct {
			Line   int `json:"line"`
			Column int `json:"column"`
		} `json:"revisionSource"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("oasdiff: its report is not the JSON of %s: %w", OasdiffVersion, err)
	}
	var changes []Change
	for _, r := range report {
		c := Change{Rule: r.ID, Text: r.Text, Line: r.Source.Line, Column: r.Source.Column, Where: strings.TrimSpace(r.Operation + " " + r.Path)}
		if r.Level < 3 {
			c.Severity = Warning
		}
		changes = append(changes, c)
	}
	return changes, nil
}
