package contracttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/napkin-kit/napkin/contracttest/internal/bridge"
	"github.com/napkin-kit/napkin/contracttest/internal/engine"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// DefaultTimeout bounds a consumer's test of one exchange, and each request of a
// verification.
const DefaultTimeout = 10 * time.Second

// Consumer is one side of a contract, in the consumer's own tests. Name and Provider
// are required.
//
// Its methods run the consumer's real code against what the contract says of the
// provider and, where both agree, write the contract to Dir. They skip the test
// where the native library is missing; see the package's documentation.
type Consumer struct {
	// Name and Provider are the two services, as everybody calls them.
	Name, Provider string
	// Dir is where the contract's file is. Defaults to "pacts", beside the test.
	Dir string
	// Timeout bounds the context of each exchange. Defaults to [DefaultTimeout].
	Timeout time.Duration
	// ServerOptions are of the gRPC server that the consumer's stub talks to, for
	// one that insists on TLS.
	ServerOptions []grpc.ServerOption
	// Types describe the gRPC services and messages. nil: the generated code that is
	// linked in.
	Types *protoregistry.Files
}

// Mock is a provider that does as the contract says.
type Mock struct {
	// URL is where it takes HTTP, for example "http://127.0.0.1:41234".
	URL string
	// Addr is where it takes gRPC, host and port; Conn a connection to it without
	// TLS. Both are zero where the exchange has no gRPC.
	Addr string
	Conn *grpc.ClientConn
}

// Exchange is a [REST] or a [GRPC].
type Exchange interface {
	name() string
	given() States
	http(bridge.Types) (engine.HTTP, error)
	call() (method string, c bridge.Call)
}

// REST runs call, which makes one HTTP request by the consumer's real client with
// url as the provider's base.
func (c Consumer) REST(t testing.TB, e REST, call func(ctx context.Context, url string) error) {
	t.Helper()
	c.Exchanges(t, []Exchange{e}, func(ctx context.Context, m Mock) error { return call(ctx, m.URL) })
}

// GRPC runs call, which makes one gRPC call by the consumer's real stub on conn.
// Where the contract is a refusal, call returns nil if the consumer has taken it as
// it should.
func (c Consumer) GRPC(t testing.TB, e GRPC, call func(ctx context.Context, conn *grpc.ClientConn) error) {
	t.Helper()
	c.Exchanges(t, []Exchange{e}, func(ctx context.Context, m Mock) error { return call(ctx, m.Conn) })
}

// Exchanges runs call, which makes all of these exchanges, in any order.
func (c Consumer) Exchanges(t testing.TB, all []Exchange, call func(ctx context.Context, m Mock) error) {
	t.Helper()
	c.ready(t)
	types := bridge.NewTypes(c.Types)
	calls := map[string]bridge.Call{}
	var expected []engine.HTTP
	states := map[string]States{}
	for _, e := range all {
		h, err := e.http(types)
		if err != nil {
			t.Fatalf("contract of %s with %s: %s: %v", c.Name, c.Provider, e.name(), err)
		}
		expected = append(expected, h)
		states[h.Description] = e.given()
		if method, b := e.call(); method != "" {
			calls[method] = b
		}
	}
	if len(expected) == 0 || len(states) < len(expected) {
		t.Fatalf("contract of %s with %s: an exchange needs a name of its own", c.Name, c.Provider)
	}
	ctx, cancel := context.WithTimeout(t.Context(), c.Timeout)
	defer cancel()
	doc, mismatches, err := engine.Mock(c.Name, c.Provider, expected, func(url string) error {
		m := Mock{URL: url}
		if len(calls) > 0 {
			stop, err := c.serve(ctx, &m, types, calls)
			if err != nil {
				return err
			}
			defer stop()
		}
		return call(ctx, m)
	})
	c.settle(t, slices.Sorted(maps.Keys(states)), doc, mismatches, err, func(doc map[string]any) {
		description, _ := doc["description"].(string)
		setStates(doc, states[description])
	})
}

// serve starts the gRPC side of the mock.
func (c Consumer) serve(ctx context.Context, m *Mock, types bridge.Types, calls map[string]bridge.Call) (stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("contracttest: %w", err)
	}
	s := bridge.NewServer(m.URL, types, calls, c.ServerOptions...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends with Stop
	}()
	m.Addr = l.Addr().String()
	end := func() {
		s.Stop()
		<-done
	}
	m.Conn, err = grpc.NewClient(m.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		end()
		return nil, fmt.Errorf("contracttest: %w", err)
	}
	return func() {
		_ = m.Conn.Close() // the consumer may have closed it
		end()
	}, nil
}

// Event hands the contract's example to handle, which is the consumer's real handler
// of that event and returns nil where it has taken it.
func (c Consumer) Event(t testing.TB, e Event, handle func(ctx context.Context, m Message) error) {
	t.Helper()
	c.ready(t)
	types := bridge.NewTypes(c.Types)
	content, attributes, err := e.contract()
	if err != nil {
		t.Fatalf("contract of %s with %s: %s: %v", c.Name, c.Provider, e.Name, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), c.Timeout)
	defer cancel()
	doc, err := engine.Message(c.Name, c.Provider, e.Name, jsonType, content, func(content []byte) error {
		m, err := e.example(types, content)
		if err != nil {
			return err
		}
		return handle(ctx, m)
	})
	c.settle(t, []string{e.Name}, doc, nil, err, func(doc map[string]any) {
		setStates(doc, e.Given)
		setMetadata(doc, attributes)
	})
}

// ready fills in defaults, and ends the test where it cannot run.
func (c *Consumer) ready(t testing.TB) {
	t.Helper()
	if c.Name == "" || c.Provider == "" {
		t.Fatal("contracttest: Consumer.Name and Consumer.Provider are required")
	}
	if c.Dir == "" {
		c.Dir = "pacts"
	}
	if c.Timeout <= 0 {
		c.Timeout = DefaultTimeout
	}
	Need(t)
}

// Need skips the test where the native library is missing, or fails it where
// NAPKIN_TEST_REQUIRE, a list with commas, names pact. Everything in this package
// that needs the library calls it; a test calls it first that has much to prepare.
func Need(t testing.TB) {
	t.Helper()
	why := engine.Missing()
	if why == "" {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("NAPKIN_TEST_REQUIRE"), ","), "pact") {
		t.Fatal(why)
	}
	t.Skip(why)
}

// settle reports how an exchange went and, where it went well, writes the contract.
func (c Consumer) settle(t testing.TB, names []string, doc []byte, mismatches []string, err error, finish func(map[string]any)) {
	t.Helper()
	if err == nil && len(mismatches) == 0 {
		err = c.write(doc, finish)
	}
	if err == nil && len(mismatches) == 0 {
		return
	}
	t.Errorf("contract of %s with %s: %s:", c.Name, c.Provider, strings.Join(names, ", "))
	for _, m := range mismatches {
		t.Errorf("  %s", m)
	}
	if err != nil {
		t.Errorf("  the consumer: %v", err)
	}
}

// recorded is what this process has written, so that two tests that say different
// things under one name are told apart from a test that was run again.
var recorded sync.Map // file and interaction's key → its JSON

func (c Consumer) write(doc []byte, finish func(map[string]any)) error {
	f, err := pact.Parse("that was just made", doc)
	if err != nil {
		return err
	}
	docs := make([]map[string]any, len(f.Interactions))
	for i, in := range f.Interactions {
		finish(in.Document)
		tidy(in.Document)
		docs[i] = in.Document
	}
	if f, err = pact.New(c.Name, c.Provider, docs...); err != nil {
		return err
	}
	for _, in := range f.Interactions {
		raw, err := json.Marshal(in.Document)
		if err != nil {
			return err
		}
		was, loaded := recorded.LoadOrStore(c.Dir+"\x00"+pact.FileName(c.Name, c.Provider)+"\x00"+in.Key(), string(raw))
		if loaded && was != string(raw) {
			return errors.New("another test has said something else under this name and these states; give one of them a name of its own")
		}
	}
	_, err = pact.Merge(c.Dir, f)
	return err
}
