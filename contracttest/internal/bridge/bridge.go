// Package bridge turns gRPC calls into HTTP exchanges of JSON and back, so that a
// contract over gRPC is an ordinary Pact contract over HTTP.
//
// At the consumer, [NewServer] is what its real stub calls: a call becomes
// POST /package.Service/Method at Pact's mock provider. At the provider, [Handler]
// is what Pact's verifier calls: the request becomes a call of the real service.
//
//	unary, answered:   200, the message as ProtoJSON
//	unary, refused:    the code's HTTP status, {"code": "NOT_FOUND", "message": "…", "details": […]}
//	server stream:     200, {"messages": […], "status": {"code": "OK"}}
//
// Metadata travels in headers, trailers in headers that begin with Grpc-Trailer-,
// the deadline in Grpc-Timeout as in gRPC itself, values of -bin keys in base64. An
// open stream names in [MessagesHeader] how many messages are read of it.
package bridge

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
)

// The headers that carry what HTTP has no place for.
const (
	TimeoutHeader  = "Grpc-Timeout"
	TrailerPrefix  = "Grpc-Trailer-"
	MessagesHeader = "Grpc-Messages"
)

// Status is a gRPC status in a contract.
type Status struct {
	Code    string            `json:"code"`
	Message string            `json:"message,omitempty"`
	Details []json.RawMessage `json:"details,omitempty"`
}

// Stream is the body that stands for a server stream. Status is nil where the
// stream was left open.
type Stream struct {
	Messages []json.RawMessage `json:"messages"`
	Status   *Status           `json:"status,omitempty"`
}

// CodeName returns a code's name as google.rpc.Code spells it.
func CodeName(c codes.Code) string {
	if name, ok := code.Code_name[int32(c)]; ok { //nolint:gosec // codes are small
		return name
	}
	return fmt.Sprintf("CODE_%d", c)
}

// Types is where messages and services are described.
type Types struct {
	files    protodesc.Resolver
	resolver interface {
		protoregistry.MessageTypeResolver
		protoregistry.ExtensionTypeResolver
	}
}

// NewTypes returns the types of files; nil means those of the generated code that
// is linked in.
func NewTypes(files *protoregistry.Files) Types {
	if files == nil {
		return Types{protoregistry.GlobalFiles, protoregistry.GlobalTypes}
	}
	return Types{files, dynamicpb.NewTypes(files)}
}

// Method returns the method with a full name as stubs spell it: "/package.Service/Method".
func (t Types) Method(full string) (protoreflect.MethodDescriptor, error) {
	service, method, ok := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if !ok {
		return nil, fmt.Errorf("%q is no gRPC method; the form is /package.Service/Method", full)
	}
	d, err := t.files.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		return nil, fmt.Errorf("there is no gRPC service %s: %w", service, err)
	}
	sd, ok := d.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no gRPC service", service)
	}
	m := sd.Methods().ByName(protoreflect.Name(method))
	if m == nil {
		return nil, fmt.Errorf("the service %s has no method %s", service, method)
	}
	if m.IsStreamingClient() {
		return nil, fmt.Errorf("%s is a client stream; contracts are of unary calls and server streams", full)
	}
	return m, nil
}

// Message returns an empty message of a type by its full name.
func (t Types) Message(name protoreflect.FullName) (proto.Message, error) {
	d, err := t.files.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("there is no message %s: %w", name, err)
	}
	md, ok := d.(protoreflect.MessageDescriptor)
	if !ok {
		return nil, fmt.Errorf("%s is no message", name)
	}
	return dynamicpb.NewMessage(md), nil
}

// Sent writes what a consumer sends: only what it has set.
func (t Types) Sent(m proto.Message) ([]byte, error) {
	return t.write(protojson.MarshalOptions{UseProtoNames: true, Resolver: t.resolver}, m)
}

// Answered writes what a provider answers, zero values spelt out: over gRPC the
// consumer reads those as well.
func (t Types) Answered(m proto.Message) ([]byte, error) {
	return t.write(protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true, Resolver: t.resolver}, m)
}

// write undoes protojson's random white space.
func (t Types) write(o protojson.MarshalOptions, m proto.Message) ([]byte, error) {
	raw, err := o.Marshal(m)
	if err != nil {
		return nil, err
	}
	return json.Marshal(json.RawMessage(raw))
}

// Read reads a message; a field that its type does not have is an error.
func (t Types) Read(data []byte, m proto.Message) error {
	return protojson.UnmarshalOptions{Resolver: t.resolver}.Unmarshal(data, m)
}

// status writes a status. A detail of a type that nobody knows keeps its type's
// name only.
func (t Types) status(s *status.Status) *Status {
	out := &Status{Code: CodeName(s.Code()), Message: s.Message()}
	for _, d := range s.Proto().GetDetails() {
		raw, err := t.Answered(d)
		if err != nil {
			raw, _ = json.Marshal(map[string]string{"@type": d.GetTypeUrl()}) // strings
		}
		out.Details = append(out.Details, raw)
	}
	return out
}

// err reads a status; nil for OK.
func (t Types) err(s *Status) error {
	c, ok := code.Code_value[s.Code]
	if !ok {
		return status.Errorf(codes.Internal, "the contract has the code %q; codes are those of google.rpc.Code", s.Code)
	}
	if c == 0 {
		return nil
	}
	p := &spb.Status{Code: c, Message: s.Message}
	for _, raw := range s.Details {
		d := &anypb.Any{}
		if err := t.Read(raw, d); err != nil {
			return status.Errorf(codes.Internal, "the contract has the error detail %s: %v", raw, err)
		}
		p.Details = append(p.Details, d)
	}
	return status.ErrorProto(p)
}

// reserved are headers of HTTP, of gRPC itself, or of the mock provider.
func reserved(name string) bool {
	name = strings.ToLower(name)
	if strings.HasPrefix(name, "grpc-") || strings.HasPrefix(name, "access-control-") || strings.HasPrefix(name, ":") {
		return true
	}
	switch name {
	case "content-type", "content-length", "content-encoding", "date", "connection", "transfer-encoding", "te", "host",
		"accept", "accept-encoding", "user-agent", "vary", "server", "keep-alive", "upgrade", "trailer":
		return true
	}
	return false
}

func toHeader(h http.Header, prefix string, md metadata.MD) {
	for k, values := range md {
		if reserved(k) {
			continue
		}
		for _, v := range values {
			if strings.HasSuffix(k, "-bin") {
				v = base64.StdEncoding.EncodeToString([]byte(v))
			}
			h.Add(prefix+k, v)
		}
	}
}

func fromHeader(h http.Header) (header, trailer metadata.MD) {
	header, trailer = metadata.MD{}, metadata.MD{}
	for k, values := range h {
		to := header
		if name, ok := strings.CutPrefix(k, TrailerPrefix); ok {
			to, k = trailer, name
		} else if reserved(k) {
			continue
		}
		for _, v := range values {
			if strings.HasSuffix(strings.ToLower(k), "-bin") {
				if raw, err := base64.StdEncoding.DecodeString(v); err == nil {
					v = string(raw)
				}
			}
			to.Append(k, v)
		}
	}
	return header, trailer
}

// Timeout writes a deadline as gRPC's wire format does: at most eight digits and a
// unit, in the largest unit that is exact.
func Timeout(d time.Duration) string {
	for _, u := range timeoutUnits {
		if d%u.of == 0 {
			if n := d / u.of; n < 1e8 {
				return strconv.FormatInt(int64(n), 10) + u.name
			}
		}
	}
	return strconv.FormatInt(int64(d/time.Millisecond), 10) + "m"
}

var timeoutUnits = []struct {
	name string
	of   time.Duration
}{{"H", time.Hour}, {"M", time.Minute}, {"S", time.Second}, {"m", time.Millisecond}, {"u", time.Microsecond}, {"n", time.Nanosecond}}

func parseTimeout(s string) (time.Duration, error) {
	for _, u := range timeoutUnits {
		if digits, ok := strings.CutSuffix(s, u.name); ok {
			n, err := strconv.ParseInt(digits, 10, 32)
			if err == nil && n > 0 {
				return time.Duration(n) * u.of, nil
			}
		}
	}
	return 0, fmt.Errorf("the header %s is %q; it takes up to eight digits and one of H, M, S, m, u, n", TimeoutHeader, s)
}
