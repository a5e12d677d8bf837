package contracttest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/contracttest/pact"
)

// unreachable is an address where nobody listens.
func unreachable(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// short is how long a thing that hangs is waited for here; what does not hang has
// the time it needs.
const short = time.Second

func patience(test string) time.Duration {
	if strings.Contains(test, "hangs") {
		return short
	}
	return 0
}

func TestVerificationThatCannotBegin(t *testing.T) {
	needCore(t)
	dir := writeREST(t)
	write := func(name, text string) string {
		d := filepath.Join(t.TempDir(), name)
		if err := errors.Join(os.MkdirAll(d, 0o755), os.WriteFile(filepath.Join(d, name+".json"), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	conn, err := grpc.NewClient(unreachable(t), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, c := range map[string]struct {
		spoil func(*contracttest.Provider)
		says  []string
	}{
		"no name":          {func(p *contracttest.Provider) { p.Name = "" }, []string{"Provider.Name is required"}},
		"no source":        {func(p *contracttest.Provider) { p.Pacts = nil }, []string{"shelf", "Pacts is required"}},
		"nothing to ask":   {func(p *contracttest.Provider) { p.REST = nil }, []string{"shelf", "set REST, URL, GRPC or Events"}},
		"two of a kind":    {func(p *contracttest.Provider) { p.URL = "http://127.0.0.1:1" }, []string{"shelf", "set one"}},
		"unknown provider": {func(p *contracttest.Provider) { p.Name = "shelv" }, []string{"no contract with shelv"}},
		"no folder":        {func(p *contracttest.Provider) { p.Pacts = pact.Dir(filepath.Join(dir, "gone")) }, []string{"gone"}},
		"unknown consumer": {func(p *contracttest.Provider) { p.Pacts = pact.Consumers(p.Pacts, "widow") }, []string{`no consumer "widow"`, "there are window"}},
		"no JSON":          {func(p *contracttest.Provider) { p.Pacts = pact.Dir(write("half", `{"consumer":`)) }, []string{"malformed pact", "half.json"}},
		"another document": {func(p *contracttest.Provider) { p.Pacts = pact.Dir(write("other", `{}`)) }, []string{"malformed pact", "names no consumer"}},
		"does not start":   {func(p *contracttest.Provider) { p.REST, p.URL = nil, "http://"+unreachable(t) }, []string{"provider shelf has not started", "refused"}},
		"URL of nothing":   {func(p *contracttest.Provider) { p.REST, p.URL = nil, "shelf" }, []string{"shelf", "URL"}},
		"gRPC not there":   {func(p *contracttest.Provider) { p.GRPC = conn }, []string{"provider shelf has not started", "no gRPC connection"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := (&shelf{}).provider(dir)
			p.Timeout = short
			c.spoil(&p)
			r, err := contracttest.Check(t.Context(), p)
			if err == nil {
				t.Fatalf("verified: %+v", r)
			}
			wants(t, err.Error(), c.says...)
		})
	}
}

func TestInteractionsThatFailByName(t *testing.T) {
	needCore(t)
	dir := writeREST(t)
	type p = contracttest.Provider
	hang := func(ctx context.Context) { <-ctx.Done(); <-time.After(time.Hour) } // whatever its context says
	for name, c := range map[string]struct {
		spoil func(*p)
		says  []string
	}{
		"no such state": {func(p *p) { p.States = map[string]contracttest.StateFunc{"a produkt": nil} }, []string{`provider state "a product" is not known`, `"a produkt"`}},
		"state fails": {func(p *p) {
			p.States["a product"] = state(func(context.Context) error { return errors.New("disk full") })
		}, []string{`provider state "a product": disk full`}},
		"state panics":  {func(p *p) { p.States["a product"] = state(func(context.Context) error { panic("at the disco") }) }, []string{`provider state "a product" panicked: at the disco`}},
		"state hangs":   {func(p *p) { p.States["a product"] = state(func(ctx context.Context) error { hang(ctx); return nil }) }, []string{`provider state "a product" did not end within`}},
		"cleanup fails": {func(p *p) { p.States["a product"] = cleanup(errors.New("still there")) }, []string{"the cleanup of provider state", "still there"}},
		"handler hangs": {func(p *p) {
			p.REST = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hang(r.Context()) })
		}, []string{"the provider's answer to GET /v1/products/p-1 did not end within"}},
		"handler panics": {func(p *p) { p.REST = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("oh") }) }, []string{"GET /v1/products/p-1 panicked: oh"}},
		"state fails its test": {func(p *p) {
			p.States["a product"] = state(func(context.Context) error { runtime.Goexit(); return nil })
		}, []string{`provider state "a product": it ended by t.FailNow`}},
		"header too late": {func(p *p) {
			in := p.REST
			p.REST = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				rec := httptest.NewRecorder()
				in.ServeHTTP(rec, r)
				w.Header().Set("Content-Type", "application/json")
				_, _ = w.Write(rec.Body.Bytes())
				w.Header().Set("ETag", rec.Header().Get("ETag"))
			})
		}, []string{"header ETag"}},
		"filter fails": {func(p *p) {
			p.Filter = func(*http.Request, contracttest.Interaction) error { return errors.New("no token") }
		}, []string{"Provider.Filter: no token"}},
		"only events": {func(p *p) { p.REST = nil; p.Events = map[string]contracttest.EventFunc{"x": nil} }, []string{"set Provider.REST, URL or GRPC"}},
	} {
		t.Run(name, func(t *testing.T) {
			pr := (&shelf{}).provider(dir)
			pr.Timeout = patience(name)
			c.spoil(&pr)
			r, err := contracttest.Check(t.Context(), pr)
			if err != nil {
				t.Fatal(err)
			}
			wants(t, fmt.Sprint(r.Flagged()), "window")
			wants(t, strings.Join(r.Contracts[0].Results[0].Problems, "\n"), c.says...)
		})
	}
}

func state(f func(context.Context) error) contracttest.StateFunc {
	return func(ctx context.Context, _ *contracttest.State) error { return f(ctx) }
}

func cleanup(err error) contracttest.StateFunc {
	return func(_ context.Context, s *contracttest.State) error {
		s.Cleanup(func(context.Context) error { return err })
		return nil
	}
}

func TestEventsThatFailByName(t *testing.T) {
	needCore(t)
	dir := writeEvent(t)
	for name, c := range map[string]struct {
		make contracttest.EventFunc
		says string
	}{
		"unknown":  {nil, `the provider does not make the event "the stock is low"`},
		"hangs":    {func(ctx context.Context, _ contracttest.Interaction) (contracttest.Message, error) { select {} }, "did not end within"},
		"no JSON":  {made(contracttest.Message{Data: []byte("{")}), "is not"},
		"XML":      {made(contracttest.Message{Attributes: map[string]string{"datacontenttype": "text/xml"}}), "text/xml"},
		"no type":  {made(contracttest.Message{Attributes: map[string]string{"datacontenttype": "application/protobuf"}}), "there is no message"},
		"bad type": {made(contracttest.Message{Attributes: map[string]string{"datacontenttype": ";"}}), "content type"},
	} {
		t.Run(name, func(t *testing.T) {
			p := stockProvider(dir, nil)
			p.Timeout = patience(name)
			if c.make == nil {
				p.Events = map[string]contracttest.EventFunc{"the stock is high": c.make}
			} else {
				p.Events = map[string]contracttest.EventFunc{"the stock is low": c.make}
			}
			r, err := contracttest.Check(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			wants(t, strings.Join(r.Contracts[0].Results[0].Problems, "\n"), c.says)
		})
	}
}

func made(m contracttest.Message) contracttest.EventFunc {
	return func(context.Context, contracttest.Interaction) (contracttest.Message, error) { return m, nil }
}

// TestContractsThatCannotBeWritten: what is wrong is said before anything runs.
func TestContractsThatCannotBeWritten(t *testing.T) {
	needCore(t)
	unary, stream := grpc_testing.TestService_UnaryCall_FullMethodName, grpc_testing.TestService_StreamingOutputCall_FullMethodName
	request := &grpc_testing.SimpleRequest{}
	for name, c := range map[string]struct {
		exchange contracttest.Exchange
		says     string
	}{
		"no name":           {contracttest.REST{}, "needs a name"},
		"no path":           {contracttest.REST{Name: "x"}, "Request.Path"},
		"regex and example": {contracttest.REST{Name: "x", Request: contracttest.Request{Path: "/"}, Response: contracttest.Response{Body: match.Object{"a": match.Regex("b", "c")}}}, "the example does not match"},
		"no method":         {contracttest.GRPC{Name: "x", Request: request}, "no gRPC method"},
		"no such method":    {contracttest.GRPC{Name: "x", Method: unary + "s", Request: request}, "has no method UnaryCalls"},
		"no request":        {contracttest.GRPC{Name: "x", Method: unary}, "needs a Request"},
		"no answer":         {contracttest.GRPC{Name: "x", Method: unary, Request: request}, "needs a Response"},
		"a redirect":        {contracttest.REST{Name: "x", Request: contracttest.Request{Path: "/"}, Response: contracttest.Response{Status: 302}}, "follows redirects"},
		"two answers":       {contracttest.GRPC{Name: "x", Method: unary, Request: request, Response: match.Object{}, Refusal: &contracttest.Refusal{}}, "by a Response or by a Refusal"},
		"refused with OK":   {contracttest.GRPC{Name: "x", Method: unary, Request: request, Refusal: &contracttest.Refusal{Code: codes.OK}}, "other than OK"},
		"unary, as stream":  {contracttest.GRPC{Name: "x", Method: unary, Request: request, Stream: match.Array{}}, "is no stream"},
		"stream, as unary":  {contracttest.GRPC{Name: "x", Method: stream, Request: match.Object{}, Response: match.Object{}}, "is a stream"},
		"open and empty":    {contracttest.GRPC{Name: "x", Method: stream, Request: match.Object{}, Stream: match.Array{}, Open: true}, "Open stream has messages"},
		"stream of a type":  {contracttest.GRPC{Name: "x", Method: stream, Request: match.Object{}, Stream: 1}, "match.Array"},
		"misspelt":          {contracttest.GRPC{Name: "x", Method: unary, Request: match.Object{"respnse_size": 1}, Response: match.Object{}}, "respnse_size"},
		"misspelt answer":   {contracttest.GRPC{Name: "x", Method: unary, Request: request, Response: match.Object{"user": "u"}}, "user"},
		"misspelt stream":   {contracttest.GRPC{Name: "x", Method: stream, Request: match.Object{}, Stream: match.Array{match.Object{"load": 1}}}, "message 0 of the Stream"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			said := trial(t, func(t testing.TB) {
				contracttest.Consumer{Name: "a", Provider: "b", Dir: dir}.Exchanges(t, []contracttest.Exchange{c.exchange}, func(context.Context, contracttest.Mock) error {
					t.Error("the test ran")
					return nil
				})
			})
			wants(t, said, "contract of a with b", c.says)
			if strings.Contains(said, "the test ran") {
				t.Error("the consumer ran")
			}
		})
	}
	said := trial(t, func(t testing.TB) {
		contracttest.Consumer{Name: "a"}.REST(t, contracttest.REST{}, nil)
	})
	wants(t, said, "Consumer.Provider")
	for says, e := range map[string]contracttest.Event{
		"needs a name": {}, "needs Data": {Name: "x"}, "needs a Type": {Name: "x", Data: match.Object{}},
		"attribute n": {Name: "x", Type: "t", Data: match.Object{}, Attributes: map[string]any{"n": match.Integer(1)}},
		"a string":    {Name: "x", Type: "t", Data: match.Object{}, Attributes: map[string]any{"n": 1}},
	} {
		wants(t, trial(t, func(t testing.TB) {
			contracttest.Consumer{Name: "a", Provider: "b", Dir: "/nowhere"}.Event(t, e, nil)
		}), says)
	}
}

// TestTwoTestsOfOneName: the second does not silently take the first one's place.
func TestTwoTestsOfOneName(t *testing.T) {
	needCore(t)
	dir := t.TempDir()
	write := func(status int) string {
		return trial(t, func(t testing.TB) {
			contracttest.Consumer{Name: "a", Provider: "b", Dir: dir}.REST(t, contracttest.REST{
				Name: "pinging", Request: contracttest.Request{Path: "/"}, Response: contracttest.Response{Status: status},
			}, func(_ context.Context, url string) error {
				resp, err := http.Get(url + "/")
				if err == nil {
					err = resp.Body.Close()
				}
				return err
			})
		})
	}
	if said := write(200) + write(200); said != "" {
		t.Fatal(said)
	}
	wants(t, write(204), "pinging", "another test has said something else")
}
