//go:build pact && cgo

package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/pact-foundation/pact-go/v2/consumer"
	pactlog "github.com/pact-foundation/pact-go/v2/log"
	"github.com/pact-foundation/pact-go/v2/matchers"
	messages "github.com/pact-foundation/pact-go/v2/message/v4"
)

// Missing is why there is no core, with what to run; "" where there is one.
func Missing() string { return "" }

func init() {
	_ = os.Setenv("PACT_DO_NOT_TRACK", "true") // no usage statistics leave a build
	if os.Getenv("PACT_LOG_LEVEL") == "" {
		_ = pactlog.SetLogLevel("ERROR") // is a level; it is the core's too
		log.SetOutput(quiet{os.Stderr})
	}
}

// quiet leaves pact-go's own lines out of the standard logger, which it takes over
// when it is loaded: each has its level in brackets. PACT_LOG_LEVEL shows them.
type quiet struct{ to io.Writer }

var chatter = regexp.MustCompile(`\[(TRACE|DEBUG|INFO|WARN|ERROR)\] `)

func (q quiet) Write(line []byte) (int, error) {
	if chatter.Match(line) {
		return len(line), nil
	}
	return q.to.Write(line)
}

// value is one of our matchers, or a bare value, as one of pact-go's.
type value struct {
	matchers.Matcher // for its unexported method
	of               any
}

func (v value) MarshalJSON() ([]byte, error) { return json.Marshal(v.of) }
func (v value) GetValue() any                { return v.of }

// text keeps bare strings bare: pact-go marshals everything else.
func text(v any) matchers.Matcher {
	if s, ok := v.(string); ok {
		return matchers.String(s)
	}
	return value{of: v}
}

// Mock runs a mock provider that expects these exchanges, for as long as call runs.
// mismatches are what it expected in vain and what it got instead. Where there are
// none and call returns nil, contract is the Pact document.
func Mock(from, to string, expected []HTTP, call func(url string) error) (contract []byte, mismatches []string, err error) {
	dir, err := os.MkdirTemp("", "napkin-pact-")
	if err != nil {
		return nil, nil, &NotRun{err.Error()}
	}
	defer func() { _ = os.RemoveAll(dir) }()

	mock, err := consumer.NewV4Pact(consumer.MockHTTPProviderConfig{Consumer: from, Provider: to, PactDir: dir, Host: "127.0.0.1"})
	if err != nil {
		return nil, nil, &NotRun{err.Error()}
	}
	var last *consumer.V4InteractionWithResponse
	for _, e := range expected {
		if last, err = expect(mock, e); err != nil {
			return nil, nil, err
		}
	}
	var failed error
	// pact-go asks its *testing.T for nothing but the name.
	err = last.ExecuteTest(new(testing.T), func(at consumer.MockServerConfig) error {
		failed = call(fmt.Sprintf("http://%s:%d", at.Host, at.Port))
		mismatches = mockMismatches(at.Port)
		return failed
	})
	switch {
	case failed != nil:
		return nil, mismatches, failed
	case len(mismatches) > 0:
		return nil, mismatches, nil
	case err != nil:
		return nil, nil, &NotRun{err.Error()}
	}
	contract, err = written(dir)
	return contract, nil, err
}

func expect(mock *consumer.V4HTTPMockProvider, e HTTP) (*consumer.V4InteractionWithResponse, error) {
	requestBody, err := marshal(e.Request.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: request: %w", e.Description, err)
	}
	responseBody, err := marshal(e.Response.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: response: %w", e.Description, err)
	}
	return mock.AddInteraction().UponReceiving(e.Description).
		WithRequestPathMatcher(consumer.Method(e.Request.Method), text(e.Request.Path), func(b *consumer.V4RequestBuilder) {
			for name, values := range e.Request.Query {
				all := make([]matchers.Matcher, len(values))
				for i, v := range values {
					all[i] = text(v)
				}
				b.Query(name, all...)
			}
			for name, v := range e.Request.Headers {
				b.Header(name, text(v))
			}
			if requestBody != nil {
				b.Body(e.Request.ContentType, requestBody)
			}
		}).
		WillRespondWith(e.Response.Status, func(b *consumer.V4ResponseBuilder) {
			for name, v := range e.Response.Headers {
				b.Header(name, text(v))
			}
			if responseBody != nil {
				b.Body(e.Response.ContentType, responseBody)
			}
		}), nil
}

func marshal(body any) ([]byte, error) {
	if body == nil {
		return nil, nil
	}
	return json.Marshal(body)
}

// Message hands the example of a message to call. Where call returns nil, contract
// is the Pact document.
func Message(from, to, description, contentType string, content any, call func(content []byte) error) (contract []byte, err error) {
	body, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", description, err)
	}
	dir, err := os.MkdirTemp("", "napkin-pact-")
	if err != nil {
		return nil, &NotRun{err.Error()}
	}
	defer func() { _ = os.RemoveAll(dir) }()

	p, err := messages.NewAsynchronousPact(messages.Config{Consumer: from, Provider: to, PactDir: dir})
	if err != nil {
		return nil, &NotRun{err.Error()}
	}
	var failed error
	err = p.AddAsynchronousMessage().ExpectsToReceive(description).WithContent(contentType, body).
		ConsumedBy(func(m messages.AsynchronousMessage) error {
			failed = call(m.Contents)
			return failed
		}).Verify(new(testing.T))
	switch {
	case failed != nil:
		return nil, failed
	case err != nil:
		return nil, &NotRun{err.Error()}
	}
	return written(dir)
}

// written returns the one contract in dir.
func written(dir string) ([]byte, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(paths) != 1 {
		return nil, &NotRun{fmt.Sprintf("it wrote %d contracts instead of one", len(paths))}
	}
	return os.ReadFile(paths[0])
}
