// Package contracttest proves that a service keeps what its consumers rely on:
// consumer-driven contracts with Pact (https://docs.pact.io), over REST, gRPC and
// events, from Go tests.
//
// A consumer says in its own test what it sends and what it needs of the answer, and
// runs its real client on that:
//
//	var catalog = contracttest.Consumer{Name: "web", Provider: "catalog", Dir: "../contracts"}
//
//	func TestReadingAProduct(t *testing.T) {
//		catalog.REST(t, contracttest.REST{
//			Name:     "reading a product",
//			Given:    contracttest.Given("a product", contracttest.Params{"id": "p-1"}),
//			Request:  contracttest.Request{Path: "/products/p-1"},
//			Response: contracttest.Response{Body: match.Object{"id": "p-1", "price": match.Integer(499)}},
//		}, func(ctx context.Context, url string) error {
//			_, err := NewClient(url).Product(ctx, "p-1")
//			return err
//		})
//	}
//
// The test writes contracts/web-catalog.json, which is committed or published to a
// Pact Broker. The provider replays it against the service as main composes it:
//
//	func TestContracts(t *testing.T) {
//		svc := start(t)
//		contracttest.Verify(t, contracttest.Provider{
//			Name: "catalog", Pacts: pact.Dir("../contracts"), URL: svc.URL, GRPC: svc.Conn,
//			States: map[string]contracttest.StateFunc{
//				"a product": func(ctx context.Context, s *contracttest.State) error {
//					return svc.Store.Put(ctx, s.String("id"), 250)
//				},
//			},
//		})
//	}
//
// A change of the provider that some consumer cannot take fails there, by the
// consumer's name; one that none of them minds does not.
//
// # What a contract fixes
//
// Bare values are compared for equality. Package match loosens them to a type, a
// pattern, one of several values, an array of any length. In what a consumer reads,
// further fields and headers are welcome. Fix what the consumer's code looks at, and
// no more: everything else is the provider's to change.
//
// # gRPC
//
// [Consumer.GRPC] takes messages of generated code, and the consumer calls its real
// stub. In the file a call is an exchange of ProtoJSON with the status, metadata,
// deadline and error details beside it; the provider gets a real gRPC call. So a
// field that was renamed is flagged although the wire would not show it: names are
// part of a contract that JSON clients, logs and people read. What only the wire
// would show, a field under a new number, is for `napkin contract breaking`. Unary calls and server
// streams are covered; a stream that does not end is contracted by its first messages
// ([GRPC.Open]).
//
// # Events
//
// [Consumer.Event] hands the example to the consumer's real handler, as the
// CloudEvents message that a broker would bring. The provider brings about what the
// event's name says by its real code and returns what this has left behind, which
// with Napkin's outbox is a row:
//
//	Events: map[string]contracttest.EventFunc{
//		"an order was confirmed": func(ctx context.Context, i contracttest.Interaction) (contracttest.Message, error) {
//			return confirm(ctx), nil // contracttest.Of(event)
//		},
//	}
//
// # The native library
//
// The Pact core is a native library; `napkin contract install` fetches it, with a
// pinned version and checksum, and `napkin contract test ./...` runs tests with it.
// It is linked with the build tag "pact" only. Without the tag this package needs no
// cgo, and tests that use it skip with one line that says what to run; where
// NAPKIN_TEST_REQUIRE (a list with commas) names pact, they fail instead.
//
// # Errors
//
// Everything that can hang has a time: each state, request, event and the provider's
// start take at most [Provider.Timeout]. A malformed contract, a state or event that
// the provider does not know, an unknown consumer and a provider that does not start
// fail by name. Contracts hold no secrets: tokens are matched by [match.Bearer], and
// [Provider.Filter] puts a good one in their place.
//
// Functions of a [Consumer] and of a [Provider] are called one at a time. Consumers'
// tests may run in parallel, also those of several packages that write to one file.
package contracttest
