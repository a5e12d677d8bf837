package contracts_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	"github.com/napkin-kit/napkin/contracttest"
)

// mutation is a change of a provider, made at its edge: the service that runs is the
// real one, and what goes in or comes out is altered as its next release would. The
// contracts stay as they are.
type mutation struct {
	what     string
	provider string
	flags    []string // the consumers that it breaks, sorted; none where it is compatible

	// schema changes the .proto files: the service is described by what it leaves.
	schema func(schema)
	// request changes a call before the service sees it, or refuses it instead.
	request func(ctx context.Context, method string, in protoreflect.Message) (context.Context, error)
	// response changes an answer, and its header.
	response func(method string, out protoreflect.Message, header metadata.MD)
	// refusal changes a status other than OK.
	refusal func(method string, s *status.Status) *status.Status
	// silent ends a server stream before its first message.
	silent bool
	// event changes an event, or says that there is none.
	event func(m *contracttest.Message) error
	// rest changes what the REST API answers.
	rest func(r *http.Request, a *answer)
}

// apply returns the provider as the mutation leaves it.
func (m mutation) apply(p contracttest.Provider) (contracttest.Provider, error) {
	if m.schema != nil {
		types, err := changed(m.schema)
		if err != nil {
			return p, fmt.Errorf("%s: %w", m.what, err)
		}
		p.Types = types
	}
	if p.GRPC != nil {
		p.GRPC = edge{p.GRPC, m}
	}
	if m.event != nil {
		made := map[string]contracttest.EventFunc{}
		for name, f := range p.Events {
			made[name] = func(ctx context.Context, i contracttest.Interaction) (contracttest.Message, error) {
				msg, err := f(ctx, i)
				if err == nil {
					err = m.event(&msg)
				}
				return msg, err
			}
		}
		p.Events = made
	}
	if m.rest != nil {
		u, err := url.Parse(p.URL)
		if err != nil {
			return p, err
		}
		proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }}
		p.URL, p.REST = "", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			proxy.ServeHTTP(rec, r)
			a := &answer{status: rec.Code, header: rec.Header(), body: rec.Body.Bytes()}
			m.rest(r, a)
			a.header.Del("Content-Length")
			for name, v := range a.header {
				w.Header()[name] = v
			}
			w.WriteHeader(a.status)
			_, _ = w.Write(a.body)
		})
	}
	return p, nil
}

// edge is a provider's gRPC as a mutation leaves it.
type edge struct {
	grpc.ClientConnInterface
	m mutation
}

func (e edge) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	sent, _ := in.(proto.Message)
	got, _ := out.(proto.Message)
	if e.m.request != nil {
		var err error
		if ctx, err = e.m.request(ctx, method, sent.ProtoReflect()); err != nil {
			return err
		}
	}
	err := e.ClientConnInterface.Invoke(ctx, method, in, out, opts...)
	if err != nil {
		if e.m.refusal != nil {
			err = e.m.refusal(method, status.Convert(err)).Err()
		}
		return err
	}
	if e.m.response != nil {
		header := metadata.MD{}
		for _, o := range opts {
			if h, ok := o.(grpc.HeaderCallOption); ok {
				if *h.HeaderAddr == nil {
					*h.HeaderAddr = metadata.MD{}
				}
				header = *h.HeaderAddr
			}
		}
		e.m.response(method, got.ProtoReflect(), header)
	}
	return nil
}

func (e edge) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := e.ClientConnInterface.NewStream(ctx, desc, method, opts...)
	if err != nil {
		return nil, err
	}
	return stream{s, e.m, method}, nil
}

type stream struct {
	grpc.ClientStream
	m      mutation
	method string
}

func (s stream) RecvMsg(out any) error {
	if s.m.silent {
		return io.EOF
	}
	err := s.ClientStream.RecvMsg(out)
	if got, ok := out.(proto.Message); ok && err == nil && s.m.response != nil {
		s.m.response(s.method, got.ProtoReflect(), metadata.MD{})
	}
	return err
}

// schema is the .proto files, to be changed.
type schema struct {
	files *descriptorpb.FileDescriptorSet
}

// changed returns the types of all .proto files after a change.
func changed(change func(schema)) (types *protoregistry.Files, err error) {
	s := schema{&descriptorpb.FileDescriptorSet{}}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		s.files.File = append(s.files.File, proto.CloneOf(protodesc.ToFileDescriptorProto(f)))
		return true
	})
	change(s)
	return protodesc.NewFiles(s.files)
}

// message is one by its name, such as "catalog.v1.Product".
func (s schema) message(name string) *descriptorpb.DescriptorProto {
	for _, f := range s.files.GetFile() {
		for _, m := range f.GetMessageType() {
			if f.GetPackage()+"."+m.GetName() == "shop."+name {
				return m
			}
		}
	}
	panic("there is no message " + name)
}

func (s schema) field(message, name string) *descriptorpb.FieldDescriptorProto {
	for _, f := range s.message(message).GetField() {
		if f.GetName() == name {
			return f
		}
	}
	panic("there is no field " + message + "." + name)
}

func (s schema) remove(message, name string) {
	s.field(message, name)
	m := s.message(message)
	var left []*descriptorpb.FieldDescriptorProto
	for _, f := range m.GetField() {
		if f.GetName() != name {
			left = append(left, f)
		}
	}
	m.Field = left
}

func (s schema) rename(message, name, to string) {
	f := s.field(message, name)
	f.Name, f.JsonName = proto.String(to), proto.String(to)
}

func (s schema) retype(message, name string, t descriptorpb.FieldDescriptorProto_Type) {
	f := s.field(message, name)
	f.Type, f.TypeName = t.Enum(), nil
}

func (s schema) add(message, name string) {
	m := s.message(message)
	m.Field = append(m.Field, &descriptorpb.FieldDescriptorProto{
		Name: proto.String(name), JsonName: proto.String(name), Number: proto.Int32(900),
		Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
	})
}

// methods are those of a service such as "catalog.v1.CatalogService".
func (s schema) methods(service string, change func([]*descriptorpb.MethodDescriptorProto) []*descriptorpb.MethodDescriptorProto) {
	for _, f := range s.files.GetFile() {
		for _, sd := range f.GetService() {
			if f.GetPackage()+"."+sd.GetName() == "shop."+service {
				sd.Method = change(sd.Method)
				return
			}
		}
	}
	panic("there is no service " + service)
}

// answer is what the REST API answers.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// json changes the body where it is a JSON object.
func (a *answer) json(change func(map[string]any)) {
	var o map[string]any
	d := json.NewDecoder(bytes.NewReader(a.body))
	d.UseNumber()
	if !strings.Contains(a.header.Get("Content-Type"), "json") || d.Decode(&o) != nil {
		return
	}
	change(o)
	a.body, _ = json.Marshal(o) // was JSON
}

// get reads a field by its path; what is not there is nothing.
func get(m protoreflect.Message, path string) protoreflect.Value {
	name, rest, nested := strings.Cut(path, ".")
	f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	if f == nil {
		return protoreflect.Value{}
	}
	if nested {
		return get(m.Get(f).Message(), rest)
	}
	return m.Get(f)
}

// each calls change with every message of a type inside m, itself included.
func each(m protoreflect.Message, name string, change func(protoreflect.Message)) {
	if m.Descriptor().FullName() == protoreflect.FullName("shop."+name) {
		change(m)
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap() || f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				each(v.List().Get(i).Message(), name, change)
			}
		default:
			each(v.Message(), name, change)
		}
		return true
	})
}

// set is a change of one field of a message.
func set(name string, value func(protoreflect.Value) protoreflect.Value) func(protoreflect.Message) {
	return func(m protoreflect.Message) {
		f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		m.Set(f, value(m.Get(f)))
	}
}
