// Package match says how much of a value a contract fixes.
//
// A bare value is compared for equality; a matcher loosens that to what the
// consumer relies on, and carries the example that its test runs on. A consumer
// that fixes less leaves its provider more room to change:
//
//	match.Object{
//		"id":       match.Like("p-1"),                    // any string
//		"price":    match.Integer(1999),                  // a whole number
//		"currency": match.Regex("EUR", "[A-Z]{3}"),
//		"status":   match.Enum("active", "retired"),      // one of these
//		"tags":     match.EachLike("new"),                // at least one string
//	}
//
// Matchers are values, marshalled as the "integration JSON" of the Pact libraries.
// A matcher whose example does not fit it fails where it is used, by name.
package match

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
)

// Object is a JSON object. Fields that it does not name may be there too in what a
// consumer reads, and may not in what it sends.
type Object = map[string]any

// Array is a JSON array of exactly these elements. See [EachLike] for any number.
type Array = []any

// Matcher is how a value is compared, with an example.
type Matcher struct {
	kind    string
	example any
	more    map[string]any
	err     error
}

// Example returns the value that the consumer's test gets.
func (m Matcher) Example() any { return m.example }

// Rule returns the matcher as Pact files have it, for a value that is a string.
func (m Matcher) Rule() (map[string]any, error) {
	if m.err != nil {
		return nil, m.err
	}
	rule := map[string]any{"match": m.kind}
	for k, v := range m.more {
		rule[k] = v
	}
	if _, ok := m.example.(string); !ok || rule["expression"] != nil {
		return nil, fmt.Errorf("match: %s of %v is no rule for a string", m.kind, m.example)
	}
	if m.kind == "include" {
		rule["value"] = m.example
	}
	return rule, nil
}

// MarshalJSON implements [json.Marshaler].
func (m Matcher) MarshalJSON() ([]byte, error) {
	if m.err != nil {
		return nil, m.err
	}
	if m.kind == "" {
		return nil, errors.New("match: the zero Matcher matches nothing")
	}
	doc := map[string]any{"pact:matcher:type": m.kind}
	if m.kind != "null" {
		doc["value"] = m.example
	}
	for k, v := range m.more {
		doc[k] = v
	}
	return json.Marshal(doc)
}

// Like matches any value of the example's JSON type. In an object or array it holds
// for everything inside, down to the next matcher. A proto.Message, here and as an
// element below, is as [Message] makes it.
func Like(example any) Matcher { return Matcher{kind: "type", example: of(example)} }

func of(example any) any {
	if m, ok := example.(proto.Message); ok {
		return Message(m)
	}
	return example
}

// Equal matches the example alone. It ends what an enclosing [Like] has loosened.
func Equal(example any) Matcher { return Matcher{kind: "equality", example: example} }

// EachLike matches an array with at least one element, each like the example.
func EachLike(element any) Matcher { return AtLeast(1, element) }

// AtLeast matches an array with n or more elements, each like the example. n is at
// least 1: an array that may be empty is Like(match.Array{}).
func AtLeast(n int, element any) Matcher {
	m := Matcher{kind: "type", more: map[string]any{"min": n}}
	if n < 1 {
		m.err = fmt.Errorf("match: AtLeast(%d): at least 1; an array that may be empty is Like(Array{})", n)
		return m
	}
	elements := make(Array, n)
	for i := range elements {
		elements[i] = of(element)
	}
	m.example = elements
	return m
}

// MapLike matches an object whose every value is like the example, under any key.
func MapLike(key string, value any) Matcher {
	return Matcher{kind: "values", example: Object{key: of(value)}}
}

// Contains matches an array that has an element for each variant, in any order,
// whatever else it has.
func Contains(variants ...any) Matcher {
	for i, v := range variants {
		variants[i] = of(v)
	}
	m := Matcher{kind: "arrayContains", example: variants, more: map[string]any{"variants": variants}}
	if len(variants) == 0 {
		m.err = errors.New("match: Contains needs a variant")
	}
	return m
}

// Regex matches a string that the whole of the pattern matches. The pattern is of
// the common subset of Go's and Rust's syntax, which is RE2's.
func Regex(example, pattern string) Matcher {
	whole := "^(?:" + pattern + ")$"
	m := Matcher{kind: "regex", example: example, more: map[string]any{"regex": whole}}
	switch re, err := regexp.Compile(whole); {
	case err != nil:
		m.err = fmt.Errorf("match: Regex(%q, %q): %w", example, pattern, err)
	case !re.MatchString(example):
		m.err = fmt.Errorf("match: Regex(%q, %q): the example does not match", example, pattern)
	}
	return m
}

// Enum matches one of these strings; the first is the example. Name the values that
// the consumer handles: a provider that answers another one breaks it.
func Enum(example string, others ...string) Matcher {
	all := make([]string, 0, len(others)+1)
	for _, s := range append([]string{example}, others...) {
		all = append(all, regexp.QuoteMeta(s))
	}
	return Regex(example, strings.Join(all, "|"))
}

// Integer matches a number without a fraction.
func Integer(example int64) Matcher { return Matcher{kind: "integer", example: example} }

// Decimal matches a number that is written with a fraction.
func Decimal(example float64) Matcher {
	m := Matcher{kind: "decimal", example: example}
	if example == float64(int64(example)) {
		m.err = fmt.Errorf("match: Decimal(%v): JSON writes the example without a fraction; give one that has one, or use Number", example)
	}
	return m
}

// Number matches any number.
func Number(example float64) Matcher { return Matcher{kind: "number", example: example} }

// Bool matches true and false.
func Bool(example bool) Matcher { return Matcher{kind: "boolean", example: example} }

// Null matches null.
func Null() Matcher { return Matcher{kind: "null"} }

// Includes matches a string that holds the example.
func Includes(example string) Matcher { return Matcher{kind: "include", example: example} }

// UUID matches a UUID in its canonical form (RFC 9562), in any case.
func UUID(example string) Matcher {
	return Regex(example, "[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
}

// Time matches a time as RFC 3339 writes it, which ProtoJSON and encoding/json do.
func Time(example time.Time) Matcher {
	return Regex(example.Format(time.RFC3339Nano), rfc3339)
}

const rfc3339 = `\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:\d{2})`

// Date matches a date as RFC 3339 writes it; example is "2026-08-01".
func Date(example string) Matcher { return Regex(example, `\d{4}-\d{2}-\d{2}`) }

// Bearer matches an Authorization header with any bearer token (RFC 6750). The
// contract holds no secret: the provider's Filter puts a good token in its place.
func Bearer() Matcher { return Regex("Bearer token", `Bearer [-0-9A-Za-z._~+/]+=*`) }

// FromState matches any string, and has the provider's state fill it in: when a
// request of the contract is made at the provider, expression, such as "${id}" or
// "/v1/orders/${id}", is read with the values that the state has set. For the
// consumer it is the example.
func FromState(expression, example string) Matcher {
	return Matcher{kind: "type", example: example, more: map[string]any{
		"pact:generator:type": "ProviderState", "expression": expression,
	}}
}
