package contracttest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/napkin-kit/napkin/contracttest/internal/bridge"
	"github.com/napkin-kit/napkin/contracttest/internal/engine"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/contracttest/pact"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

const jsonType = "application/json"

// Params are the parameters of a provider state. They are JSON: a number arrives at
// the provider as a float64.
type Params map[string]any

// States are what must hold at the provider before an exchange.
type States []pact.State

// Given is the state that an exchange needs, for example
// Given("a product", Params{"id": "p-1"}). More follow by [States.And].
func Given(name string, params ...Params) States { return States(nil).And(name, params...) }

// And returns s and one more state.
func (s States) And(name string, params ...Params) States {
	state := pact.State{Name: name}
	for _, p := range params {
		if state.Params == nil {
			state.Params = map[string]any{}
		}
		maps.Copy(state.Params, p)
	}
	return append(append(States(nil), s...), state)
}

// REST is an HTTP request and what the consumer relies on in the response. Name is
// required: what the request is, for people, as in "reading a product".
type REST struct {
	Name     string
	Given    States
	Request  Request
	Response Response
}

// Request is what the consumer sends. Values are bare or matchers of package match.
// The consumer may send further headers; a body and a query are compared whole.
type Request struct {
	// Method defaults to GET.
	Method string
	// Path begins with a slash: a string, or a matcher.
	Path any
	// Query has a value, or a match.Array of values, by name.
	Query map[string]any
	// Headers have a value by name.
	Headers map[string]any
	// Body is marshalled to JSON; nil for none.
	Body any
	// ContentType is that of Body. Defaults to "application/json".
	ContentType string
}

// Response is what the consumer relies on. The provider may send further headers,
// and further fields in objects.
type Response struct {
	// Status defaults to 200.
	Status int
	// Headers have a value by name.
	Headers map[string]any
	// Body is marshalled to JSON; nil where the consumer reads none.
	Body any
	// ContentType is that of Body. Defaults to "application/json".
	ContentType string
}

func (e REST) name() string                { return e.Name }
func (e REST) given() States               { return e.Given }
func (e REST) call() (string, bridge.Call) { return "", bridge.Call{} }

func (e REST) http(bridge.Types) (engine.HTTP, error) {
	out := engine.HTTP{Description: e.Name}
	if e.Name == "" {
		return out, errors.New("it needs a name")
	}
	path := e.Request.Path
	if m, ok := path.(match.Matcher); ok {
		path = m.Example()
	}
	if s, ok := path.(string); !ok || !strings.HasPrefix(s, "/") {
		return out, fmt.Errorf("Request.Path is %v; it is a string that begins with a slash, or a matcher of one", e.Request.Path)
	}
	switch e.Response.Status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return out, fmt.Errorf("Response.Status is %d; Pact's verifier follows redirects and cannot see one", e.Response.Status)
	}
	out.Request = engine.Part{
		Method: or(e.Request.Method, http.MethodGet), Path: e.Request.Path, Headers: e.Request.Headers,
		ContentType: or(e.Request.ContentType, jsonType), Body: e.Request.Body, Query: map[string][]any{},
	}
	for name, v := range e.Request.Query {
		if all, ok := v.(match.Array); ok {
			out.Request.Query[name] = all
		} else {
			out.Request.Query[name] = []any{v}
		}
	}
	out.Response = engine.Part{
		Status: or(e.Response.Status, http.StatusOK), Headers: e.Response.Headers,
		ContentType: or(e.Response.ContentType, jsonType), Body: e.Response.Body,
	}
	return out, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// GRPC is a unary call or a call with a server stream, and what the consumer relies
// on in the answer. Name, Method and Request are required, and one of Response,
// Stream and Refusal.
//
// A proto.Message in Request is compared field by field; one in the answer by the
// types of the fields that it sets, as match.Message says. For anything else, write
// an object of matchers with the names of the .proto file; its names are checked.
type GRPC struct {
	Name  string
	Given States
	// Method is its full name, which generated code has as a constant:
	// catalogv1.CatalogService_GetProduct_FullMethodName.
	Method string
	// Metadata that the consumer sends, by key.
	Metadata map[string]any
	// Deadline is the longest that the consumer may allow the call; the provider is
	// given exactly that. 0: the contract is silent.
	Deadline time.Duration
	Request  any
	// Header and Trailer are metadata that the consumer relies on, by key.
	Header, Trailer map[string]any
	// Response is the answer of a unary call.
	Response any
	// Stream are the messages of a server stream, in order: a match.Array of them, or
	// a matcher such as match.EachLike.
	Stream any
	// Open says that the stream does not end after these messages: the provider is
	// asked for as many as there are examples, and the call is then cancelled.
	Open bool
	// Refusal is a status other than OK. A stream may have messages before it.
	Refusal *Refusal
}

// Refusal is a gRPC status other than OK.
type Refusal struct {
	Code codes.Code
	// Message is an example of the text, of which nothing else is relied on; a
	// matcher fixes more. nil: the consumer does not read it.
	Message any
	// Details are the error details that the consumer relies on, in order:
	// proto.Messages, compared as those in responses are. What programs switch on is
	// compared for equality: the reason and domain of a google.rpc.ErrorInfo, and
	// the fields of a google.rpc.BadRequest.
	Details []proto.Message
}

func (e GRPC) name() string  { return e.Name }
func (e GRPC) given() States { return e.Given }

func (e GRPC) call() (string, bridge.Call) {
	c := bridge.Call{Deadline: e.Deadline}
	if e.Open {
		c.Messages = len(e.messages())
	}
	return e.Method, c
}

// messages are the examples of the stream.
func (e GRPC) messages() match.Array {
	stream := e.Stream
	if m, ok := stream.(match.Matcher); ok {
		stream = m.Example()
	}
	all, _ := stream.(match.Array)
	return all
}

func (e GRPC) http(types bridge.Types) (engine.HTTP, error) {
	out := engine.HTTP{Description: e.Name}
	if e.Name == "" {
		return out, errors.New("it needs a name")
	}
	method, err := types.Method(e.Method)
	if err != nil {
		return out, err
	}
	switch {
	case e.Request == nil:
		return out, errors.New("it needs a Request")
	case method.IsStreamingServer() && e.Response != nil:
		return out, fmt.Errorf("%s is a stream: use Stream", e.Method)
	case !method.IsStreamingServer() && (e.Stream != nil || e.Open):
		return out, fmt.Errorf("%s is no stream: use Response", e.Method)
	case e.Response == nil && e.Stream == nil && e.Refusal == nil:
		return out, errors.New("it needs a Response, a Stream or a Refusal")
	case e.Response != nil && e.Refusal != nil:
		return out, errors.New("a call is answered by a Response or by a Refusal")
	case e.Open && (e.Refusal != nil || len(e.messages()) == 0):
		return out, errors.New("an Open stream has messages and no Refusal")
	}
	request := e.Request
	if m, ok := request.(proto.Message); ok {
		if request, err = match.Exactly(m); err != nil {
			return out, err
		}
	}
	if err := known(types, method.Input(), request); err != nil {
		return out, fmt.Errorf("Request: %w", err)
	}
	out.Request = engine.Part{Method: http.MethodPost, Path: e.Method, Headers: headers("", e.Metadata), ContentType: jsonType, Body: request}
	if e.Deadline > 0 {
		out.Request.Headers[bridge.TimeoutHeader] = bridge.Timeout(e.Deadline)
	}
	if e.Open {
		out.Request.Headers[bridge.MessagesHeader] = fmt.Sprint(len(e.messages()))
	}
	out.Response = engine.Part{Status: http.StatusOK, Headers: headers("", e.Header), ContentType: jsonType}
	maps.Copy(out.Response.Headers, headers(bridge.TrailerPrefix, e.Trailer))
	switch {
	case e.Stream != nil || method.IsStreamingServer():
		out.Response.Body, err = e.stream(types, method.Output())
	case e.Refusal != nil:
		out.Response.Status, out.Response.Body = grpcproblem.HTTPStatus(e.Refusal.Code), e.Refusal.body()
		if e.Refusal.Code == codes.OK {
			err = errors.New("a Refusal has a code other than OK")
		}
	default:
		out.Response.Body = message(e.Response)
		if err = known(types, method.Output(), out.Response.Body); err != nil {
			err = fmt.Errorf("Response: %w", err)
		}
	}
	return out, err
}

// stream is the body that stands for the messages and how they end.
func (e GRPC) stream(types bridge.Types, of protoreflect.MessageDescriptor) (match.Object, error) {
	body := match.Object{"messages": match.Array{}}
	switch stream := e.Stream.(type) {
	case nil:
	case match.Matcher:
		body["messages"] = stream
	case match.Array:
		all := make(match.Array, len(stream))
		for i, v := range stream {
			all[i] = message(v)
		}
		body["messages"] = all
	default:
		return nil, fmt.Errorf("the Stream is a %T; it is a match.Array of messages, or a matcher of one", stream)
	}
	for i, v := range e.messages() {
		if err := known(types, of, message(v)); err != nil {
			return nil, fmt.Errorf("message %d of the Stream: %w", i, err)
		}
	}
	switch {
	case e.Open:
	case e.Refusal != nil:
		body["status"] = e.Refusal.body()
	default:
		body["status"] = match.Object{"code": bridge.CodeName(codes.OK)}
	}
	return body, nil
}

func headers(prefix string, md map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range md {
		out[http.CanonicalHeaderKey(prefix+k)] = v
	}
	return out
}

// message is an answer as matchers.
func message(v any) any {
	if m, ok := v.(proto.Message); ok {
		return match.Message(m)
	}
	return v
}

func (r *Refusal) body() match.Object {
	o := match.Object{"code": bridge.CodeName(r.Code)}
	switch m := r.Message.(type) {
	case nil:
	case string:
		o["message"] = match.Like(m)
	default:
		o["message"] = m
	}
	if len(r.Details) > 0 {
		details := make(match.Array, len(r.Details))
		for i, d := range r.Details {
			detail := match.Message(d)
			switch d := d.(type) {
			case *errdetails.ErrorInfo:
				detail["reason"], detail["domain"] = d.GetReason(), d.GetDomain()
			case *errdetails.BadRequest:
				detail["field_violations"] = violations(d)
			}
			detail["@type"] = "type.googleapis.com/" + string(d.ProtoReflect().Descriptor().FullName())
			details[i] = detail
		}
		o["details"] = details
	}
	return o
}

// violations fixes the names of the fields, and not what is said about them.
func violations(d *errdetails.BadRequest) match.Array {
	all := make(match.Array, len(d.GetFieldViolations()))
	for i, v := range d.GetFieldViolations() {
		o := match.Message(v)
		o["field"] = v.GetField()
		all[i] = o
	}
	return all
}

// known checks that an object's example is a message of this type, so that a
// misspelt name does not make a contract that nobody can keep.
func known(types bridge.Types, d protoreflect.MessageDescriptor, v any) error {
	raw, err := json.Marshal(examples(v))
	if err != nil {
		return err
	}
	m, err := types.Message(d.FullName())
	if err != nil {
		return err
	}
	if err := types.Read(raw, m); err != nil {
		return fmt.Errorf("the example is no %s: %w", d.FullName(), err)
	}
	return nil
}

// examples replaces matchers by their examples.
func examples(v any) any {
	switch v := v.(type) {
	case match.Matcher:
		return examples(v.Example())
	case match.Object:
		o := make(match.Object, len(v))
		for k, e := range v {
			o[k] = examples(e)
		}
		return o
	case match.Array:
		a := make(match.Array, len(v))
		for i, e := range v {
			a[i] = examples(e)
		}
		return a
	}
	return v
}
