// Command generate makes openapi.json from the Protobuf contracts: grpc-gateway's generator gives a
// document per service, this joins them, and adds what annotations cannot say (sign-in, problem
// documents, the idempotency key, the event stream).
//
// It needs buf and protoc-gen-openapiv3 on the PATH and the third-party contracts in .cache/proto;
// `make generate` sees to both.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

type object = map[string]any

func main() {
	log.SetFlags(0)
	doc, err := generate()
	if err != nil {
		log.Fatal("openapi: ", err)
	}
	if err := os.WriteFile("api/openapi/openapi.json", doc, 0o644); err != nil {
		log.Fatal("openapi: run it in examples/shop: ", err)
	}
}

func generate() ([]byte, error) {
	files, err := contracts()
	if err != nil {
		return nil, err
	}
	parts, err := runPlugin(files)
	if err != nil {
		return nil, err
	}
	paths, schemas, tags := object{}, object{}, []any{}
	for _, part := range parts {
		maps.Copy(paths, child(part, "paths"))
		maps.Copy(schemas, child(child(part, "components"), "schemas"))
		if t, ok := part["tags"].([]any); ok {
			tags = append(tags, t...)
		}
	}
	delete(schemas, "google.rpc.Status")
	delete(schemas, "google.protobuf.Any")
	schemas["Problem"] = problemSchema()
	for path, item := range paths {
		for method, op := range item.(object) {
			finish(path, method, op.(object))
		}
	}
	addEventStream(paths)
	doc := object{
		"openapi": "3.1.0",
		"info": object{
			"title":       "Napkin shop",
			"version":     "1",
			"description": "The public API of the example store. Unknown fields and query parameters are refused with 400; every error is an RFC 9457 problem document.",
			"license":     object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
		},
		"servers":  []any{object{"url": "http://localhost:8080"}},
		"tags":     tags,
		"paths":    paths,
		"security": []any{object{"oidc": []any{"shop"}}},
		"components": object{
			"schemas": schemas,
			"securitySchemes": object{
				"oidc": object{"type": "openIdConnect", "openIdConnectUrl": "/.well-known/openid-configuration"},
			},
		},
	}
	if len(tags) == 0 {
		delete(doc, "tags")
	}
	out, err := json.MarshalIndent(doc, "", "  ") // keys are sorted, so the result is stable
	return append(out, '\n'), err
}

// contracts compiles the .proto files. The public API uses the proto names in JSON, so that is what the
// generator is told their JSON names are.
func contracts() (*descriptorpb.FileDescriptorSet, error) {
	cmd := exec.Command("buf", "build", "examples/shop/api", "--as-file-descriptor-set", "-o", "-")
	cmd.Dir = "../.."
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("buf build: %w", err)
	}
	set := new(descriptorpb.FileDescriptorSet)
	if err := proto.Unmarshal(raw, set); err != nil {
		return nil, err
	}
	var rename func(*descriptorpb.DescriptorProto)
	rename = func(m *descriptorpb.DescriptorProto) {
		for _, f := range m.GetField() {
			f.JsonName = f.Name
		}
		for _, n := range m.GetNestedType() {
			rename(n)
		}
	}
	for _, f := range set.GetFile() {
		if strings.HasPrefix(f.GetPackage(), "shop.") {
			for _, m := range f.GetMessageType() {
				rename(m)
			}
		}
	}
	return set, nil
}

func runPlugin(set *descriptorpb.FileDescriptorSet) ([]object, error) {
	req := &pluginpb.CodeGeneratorRequest{ProtoFile: set.GetFile()}
	for _, f := range set.GetFile() {
		if strings.HasPrefix(f.GetPackage(), "shop.") {
			req.FileToGenerate = append(req.FileToGenerate, f.GetName())
		}
	}
	in, err := proto.Marshal(req)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("protoc-gen-openapiv3")
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("protoc-gen-openapiv3: %w", err)
	}
	resp := new(pluginpb.CodeGeneratorResponse)
	if err := proto.Unmarshal(out, resp); err != nil {
		return nil, err
	}
	if resp.GetError() != "" {
		return nil, fmt.Errorf("protoc-gen-openapiv3: %s", resp.GetError())
	}
	var parts []object
	slices.SortFunc(resp.File, func(a, b *pluginpb.CodeGeneratorResponse_File) int {
		return strings.Compare(a.GetName(), b.GetName())
	})
	for _, f := range resp.File {
		var part object
		if err := json.Unmarshal([]byte(f.GetContent()), &part); err != nil {
			return nil, fmt.Errorf("%s: %w", f.GetName(), err)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// finish adds to an operation what grpc-gateway's annotations cannot say.
func finish(path, method string, op object) {
	responses := child(op, "responses")
	responses["default"] = object{
		"description": "A problem (RFC 9457).",
		"content":     object{"application/problem+json": object{"schema": ref("Problem")}},
	}
	status := map[string]string{
		"post /v1/orders": "202", "post /v1/users": "201", "post /v1/payment-methods": "201", "post /v1/admin/products": "201",
	}[method+" "+path]
	if status != "" {
		responses[status] = responses["200"]
		delete(responses, "200")
	}
	switch {
	case method == "post" && path == "/v1/orders":
		params, _ := op["parameters"].([]any)
		op["parameters"] = append(params, object{
			"name": "Idempotency-Key", "in": "header", "required": true,
			"description": "Names this order: the same key with the same body gives the same answer, with another body 422. 1 to 255 visible ASCII characters.",
			"schema":      object{"type": "string", "minLength": 1, "maxLength": 255},
		})
		child(responses, status)["headers"] = object{
			"Location":            object{"schema": object{"type": "string"}},
			"Idempotent-Replayed": object{"schema": object{"type": "string"}, "description": "true where the answer was stored before."},
		}
	case strings.HasPrefix(path, "/v1/products"), path == "/v1/users":
		op["security"] = []any{}
	case strings.HasPrefix(path, "/v1/admin/"):
		op["security"] = []any{object{"oidc": []any{"shop:admin"}}}
	}
	if body, ok := op["requestBody"].(object); ok {
		for _, media := range child(body, "content") {
			refuseUnknown(media.(object)["schema"])
		}
	}
}

// refuseUnknown says of an inline request schema that it takes no other fields.
func refuseUnknown(schema any) {
	if s, ok := schema.(object); ok && s["type"] == "object" {
		s["additionalProperties"] = false
	}
}

func addEventStream(paths object) {
	paths["/v1/orders/{id}/events"] = object{"get": object{
		"operationId": "OrderEvents",
		"tags":        []any{"OrderService"},
		"summary":     "The order now and after each change, as server-sent events (event: order, data: the order), until it has ended.",
		"parameters": []any{object{
			"name": "id", "in": "path", "required": true, "schema": object{"type": "string"},
		}},
		"responses": object{
			"200": object{"description": "The stream.", "content": object{"text/event-stream": object{"schema": object{"type": "string"}}}},
			"default": object{
				"description": "A problem (RFC 9457).",
				"content":     object{"application/problem+json": object{"schema": ref("Problem")}},
			},
		},
	}}
}

func problemSchema() object {
	text := object{"type": "string"}
	return object{
		"type":        "object",
		"description": "RFC 9457 problem details.",
		"properties": object{
			"type": text, "title": text, "status": object{"type": "integer"}, "detail": text, "instance": text,
			"code": object{"type": "string", "description": "A stable name for programs to switch on."},
			"errors": object{"type": "array", "items": object{
				"type":       "object",
				"properties": object{"field": text, "message": text, "rule": text},
			}},
		},
	}
}

func ref(name string) object { return object{"$ref": "#/components/schemas/" + name} }

func child(o object, key string) object {
	c, ok := o[key].(object)
	if !ok {
		c = object{}
		o[key] = c
	}
	return c
}
