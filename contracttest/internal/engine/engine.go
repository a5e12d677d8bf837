// Package engine is the Pact core: the mock provider that a consumer's test talks
// to, and the verifier that replays a contract against a provider.
//
// The core is a native library behind cgo, so everything that touches it is built
// with the tag "pact" only. Without the tag, or without cgo, [Missing] says what to
// run.
package engine

import (
	"fmt"
	"time"
)

// HTTP is one exchange that the mock provider expects. Values may be matchers, which
// marshal as integration JSON.
type HTTP struct {
	Description string
	Request     Part
	Response    Part
}

// Part is a request or a response.
type Part struct {
	Method  string // of a request
	Path    any
	Query   map[string][]any
	Status  int // of a response
	Headers map[string]any
	// ContentType is that of Body, which is marshalled to JSON. nil: there is no body.
	ContentType string
	Body        any
}

// Target is the server that a contract is replayed against.
type Target struct {
	Provider string
	// Host and Port are where requests go; StatePath and MessagePath are where the
	// server changes states and makes messages.
	Host                   string
	Port                   uint16
	StatePath, MessagePath string
	// Timeout is that of each request.
	Timeout time.Duration
}

// NotRun is an error of the core itself: it says nothing about the provider.
type NotRun struct{ Reason string }

func (e *NotRun) Error() string {
	return fmt.Sprintf("contracttest: the Pact core could not run: %s", e.Reason)
}
