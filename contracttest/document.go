package contracttest

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/napkin-kit/napkin/contracttest/match"
)

// setStates writes an interaction's provider states, with their parameters as the
// JSON that they are.
func setStates(doc map[string]any, states States) {
	if len(states) == 0 {
		delete(doc, "providerStates")
		return
	}
	doc["providerStates"] = states
}

// setMetadata writes what a message's attributes have to be.
func setMetadata(doc map[string]any, attributes map[string]any) {
	metadata := object(doc, "metadata")
	rules := object(object(doc, "matchingRules"), "metadata")
	for name, v := range attributes {
		m, ok := v.(match.Matcher)
		if !ok {
			metadata[name] = v
			continue
		}
		metadata[name] = m.Example()
		rule, _ := m.Rule() // Event.contract has checked it
		rules[name] = map[string]any{"combine": "AND", "matchers": []any{rule}}
	}
	if len(rules) == 0 {
		delete(object(doc, "matchingRules"), "metadata")
	}
}

func object(in map[string]any, name string) map[string]any {
	o, ok := in[name].(map[string]any)
	if !ok {
		o = map[string]any{}
		in[name] = o
	}
	return o
}

// tidy leaves out of an interaction what says nothing, and matchers that stand there
// twice because an array had two examples.
func tidy(doc map[string]any) {
	if doc["pending"] == false {
		delete(doc, "pending")
	}
	if doc["transport"] == "http" {
		delete(doc, "transport")
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if rules, ok := v["matchers"].([]any); ok && v["combine"] != nil {
				v["matchers"] = slices.CompactFunc(rules, same)
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	for _, part := range []any{doc, doc["request"], doc["response"]} {
		if part, ok := part.(map[string]any); ok {
			walk(part["matchingRules"])
			if rules, ok := part["matchingRules"].(map[string]any); ok && len(rules) == 0 {
				delete(part, "matchingRules")
			}
		}
	}
}

func same(a, b any) bool {
	x, _ := json.Marshal(a) // was JSON
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}
