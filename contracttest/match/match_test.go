package match_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/typepb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/napkin-kit/napkin/contracttest/match"
)

func written(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMatchersAsIntegrationJSON(t *testing.T) {
	for want, m := range map[string]match.Matcher{
		`{"pact:matcher:type":"type","value":"a"}`:                                                              match.Like("a"),
		`{"pact:matcher:type":"equality","value":[1]}`:                                                          match.Equal(match.Array{1}),
		`{"min":1,"pact:matcher:type":"type","value":["a"]}`:                                                    match.EachLike("a"),
		`{"min":2,"pact:matcher:type":"type","value":["a","a"]}`:                                                match.AtLeast(2, "a"),
		`{"pact:matcher:type":"values","value":{"k":1}}`:                                                        match.MapLike("k", 1),
		`{"pact:matcher:type":"arrayContains","value":[1,"b"],"variants":[1,"b"]}`:                              match.Contains(1, "b"),
		`{"pact:matcher:type":"regex","regex":"^(?:[a-z]+)$","value":"abc"}`:                                    match.Regex("abc", "[a-z]+"),
		`{"pact:matcher:type":"regex","regex":"^(?:a\\.b|c)$","value":"a.b"}`:                                   match.Enum("a.b", "c"),
		`{"pact:matcher:type":"integer","value":3}`:                                                             match.Integer(3),
		`{"pact:matcher:type":"decimal","value":3.5}`:                                                           match.Decimal(3.5),
		`{"pact:matcher:type":"number","value":3}`:                                                              match.Number(3),
		`{"pact:matcher:type":"boolean","value":true}`:                                                          match.Bool(true),
		`{"pact:matcher:type":"null"}`:                                                                          match.Null(),
		`{"pact:matcher:type":"include","value":"x"}`:                                                           match.Includes("x"),
		`{"expression":"${id}","pact:generator:type":"ProviderState","pact:matcher:type":"type","value":"o-1"}`: match.FromState("${id}", "o-1"),
		`{"pact:matcher:type":"regex","regex":"^(?:\\d{4}-\\d{2}-\\d{2})$","value":"2026-08-01"}`:               match.Date("2026-08-01"),
	} {
		if got := written(t, m); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	for _, m := range []match.Matcher{match.UUID("123e4567-e89b-12d3-a456-426614174000"), match.Time(time.Unix(0, 1)), match.Bearer()} {
		if !strings.Contains(written(t, m), `"regex"`) {
			t.Errorf("got %s", written(t, m))
		}
	}
}

func TestExamplesThatDoNotFit(t *testing.T) {
	for says, m := range map[string]match.Matcher{
		"does not match":         match.Regex("a", "b"),
		"missing closing":        match.Regex("a", "("),
		"at least 1":             match.AtLeast(0, "a"),
		"needs a variant":        match.Contains(),
		"without a fraction":     match.Decimal(2),
		`the example does not`:   match.UUID("1"),
		"example does not match": match.Date("1.8.2026"),
		"the zero Matcher":       {},
	} {
		if _, err := json.Marshal(match.Object{"x": m}); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%v does not say %q", err, says)
		}
	}
}

func TestRule(t *testing.T) {
	rule, err := match.Regex("a", "[a-z]").Rule()
	if err != nil || written(t, rule) != `{"match":"regex","regex":"^(?:[a-z])$"}` {
		t.Errorf("got %v, %v", rule, err)
	}
	if rule, err := match.Includes("a").Rule(); err != nil || written(t, rule) != `{"match":"include","value":"a"}` {
		t.Errorf("got %v, %v", rule, err)
	}
	for _, m := range []match.Matcher{match.Integer(1), match.Regex("a", "b"), match.FromState("${a}", "a"), match.EachLike("a")} {
		if rule, err := m.Rule(); err == nil {
			t.Errorf("%v is said to be a rule for strings", rule)
		}
	}
}

// TestMessage: every kind of field has the matcher of its type.
func TestMessage(t *testing.T) {
	for name, c := range map[string]struct {
		message proto.Message
		wants   []string
		without string
	}{
		"scalars": {
			&grpc_testing.SimpleRequest{ResponseSize: 3, FillUsername: true, ResponseType: grpc_testing.PayloadType_COMPRESSABLE, ExpectCompressed: &grpc_testing.BoolValue{Value: true}},
			[]string{`"response_size":{"pact:matcher:type":"integer","value":3}`, `"fill_username":{"pact:matcher:type":"boolean","value":true}`, `"expect_compressed":{"value":{"pact:matcher:type":"boolean"`},
			"payload",
		},
		"bytes":    {&grpc_testing.Payload{Body: []byte("hi")}, []string{`"body":{"pact:matcher:type":"type","value":"aGk="}`}, "type\":{"},
		"repeated": {&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "a"}, {Field: "b"}}}, []string{`"min":1`, `{"field":{"pact:matcher:type":"type","value":"b"}}`}, "description"},
		"map":      {&errdetails.ErrorInfo{Metadata: map[string]string{"k": "v"}}, []string{`"metadata":{"k":{"pact:matcher:type":"type","value":"v"}}`}, "reason"},
		"duration": {&errdetails.RetryInfo{RetryDelay: durationpb.New(1500 * time.Millisecond)}, []string{`s)$","value":"1.500s"`}, ""},
		"enum":     {&typepb.Field{Kind: typepb.Field_TYPE_BOOL, Cardinality: 7}, []string{`"kind":{"pact:matcher:type":"equality","value":"TYPE_BOOL"}`, `"cardinality":{"pact:matcher:type":"equality","value":7}`}, ""},
		"struct":   {&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue("a")}}, []string{`"values":{"min":1`, `{"pact:matcher:type":"type","value":"a"}`}, ""},
		"wide":     {wrapperspb.Int64(-5), []string{`"value":"-5"`}, ""},
		"unsigned": {wrapperspb.UInt64(5), []string{`"value":"5"`}, ""},
		"narrow":   {wrapperspb.UInt32(5), []string{`"pact:matcher:type":"integer","value":5`}, ""},
		"float":    {wrapperspb.Double(5), []string{`"pact:matcher:type":"number","value":5`}, ""},
		"time":     {&timestamppb.Timestamp{Seconds: 1}, []string{`"seconds"`}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := written(t, match.Message(c.message))
			for _, w := range c.wants {
				if !strings.Contains(got, w) {
					t.Errorf("%s\n  lacks %s", got, w)
				}
			}
			if c.without != "" && strings.Contains(got, c.without) {
				t.Errorf("%s\n  has %s", got, c.without)
			}
		})
	}
	if got := written(t, match.EachLike(&grpc_testing.ResponseParameters{Size: 1})); got != `{"min":1,"pact:matcher:type":"type","value":[{"size":{"pact:matcher:type":"integer","value":1}}]}` {
		t.Errorf("in an array: %s", got)
	}
}

func TestExactly(t *testing.T) {
	o, err := match.Exactly(&grpc_testing.SimpleRequest{ResponseSize: 3, FillUsername: true})
	if err != nil || written(t, o) != `{"fill_username":true,"response_size":3}` {
		t.Errorf("got %v, %v", o, err)
	}
	if _, err := match.Exactly(durationpb.New(time.Second)); err == nil {
		t.Error("a duration is no object")
	}
}

func ExampleMessage() {
	answer := match.Message(&grpc_testing.SimpleResponse{Username: "someone", OauthScope: "read"})
	answer["oauth_scope"] = match.Enum("read", "write")
	b, err := json.MarshalIndent(answer, "", "  ")
	fmt.Println(string(b), err)
	// Output:
	// {
	//   "oauth_scope": {
	//     "pact:matcher:type": "regex",
	//     "regex": "^(?:read|write)$",
	//     "value": "read"
	//   },
	//   "username": {
	//     "pact:matcher:type": "type",
	//     "value": "someone"
	//   }
	// } <nil>
}
