// Package openapi holds the document of the public REST API, generated from the Protobuf contracts.
package openapi

import (
	_ "embed"
	"net/http"
)

//go:generate go run ./generate

// Document is the OpenAPI 3.1 document.
//
//go:embed openapi.json
var Document []byte

// Serve answers with the document.
func Serve(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(Document) // a client that has gone away needs no answer
}
