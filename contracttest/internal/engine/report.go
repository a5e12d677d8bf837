package engine

import (
	"encoding/json"
	"fmt"
	"strings"
)

// mismatch is one difference, as the core reports it.
type mismatch struct {
	Type      string `json:"type"`
	Path      string `json:"path"` // of a body
	Key       string `json:"key"`  // of a header or metadata
	Parameter string `json:"parameter"`
	Mismatch  string `json:"mismatch"`
	Message   string `json:"message"`
}

func (m mismatch) String() string {
	said := m.Mismatch
	if said == "" {
		said = m.Message
	}
	switch {
	case m.Type == "BodyMismatch" && m.Path != "" && m.Path != "$":
		return "body " + m.Path + ": " + said
	case m.Type == "BodyMismatch":
		return "body: " + said
	case m.Type == "StatusMismatch":
		return "status: " + said
	case m.Type == "HeaderMismatch":
		return "header " + m.Key + ": " + said
	case m.Type == "MetadataMismatch":
		return "metadata " + m.Key + ": " + said
	case m.Type == "QueryMismatch":
		return "query " + m.Parameter + ": " + said
	}
	return said
}

// readMismatches reads what the mock provider expected in vain and got instead.
func readMismatches(report string) []string {
	var requests []struct {
		Type       string     `json:"type"`
		Method     string     `json:"method"`
		Path       string     `json:"path"`
		Mismatches []mismatch `json:"mismatches"`
	}
	if err := json.Unmarshal([]byte(report), &requests); err != nil {
		return []string{report}
	}
	var out []string
	for _, r := range requests {
		call := r.Method + " " + r.Path
		switch r.Type {
		case "missing-request":
			out = append(out, "the contract's "+call+" was not called")
		case "request-not-found":
			out = append(out, "the consumer called "+call+", which the contract does not have")
		default:
			for _, m := range r.Mismatches {
				out = append(out, call+": "+m.String())
			}
			if len(r.Mismatches) == 0 {
				out = append(out, call+" differs: "+r.Type)
			}
		}
	}
	return out
}

// readReport reads how the verification of one interaction ended.
func readReport(code int, report, output string) (problems []string, err error) {
	if code == 0 {
		return nil, nil
	}
	var r struct {
		Errors []struct {
			Mismatch struct {
				Type       string     `json:"type"`
				Message    string     `json:"message"`
				Mismatches []mismatch `json:"mismatches"`
			} `json:"mismatch"`
		} `json:"errors"`
	}
	if err := json.Unmarshal([]byte(report), &r); err != nil || len(r.Errors) == 0 {
		return nil, &NotRun{fmt.Sprintf("it ended with %d: %s", code, strings.TrimSpace(output))}
	}
	for _, e := range r.Errors {
		for _, m := range e.Mismatch.Mismatches {
			problems = append(problems, m.String())
		}
		if len(e.Mismatch.Mismatches) == 0 {
			problems = append(problems, e.Mismatch.Message)
		}
	}
	return problems, nil
}
