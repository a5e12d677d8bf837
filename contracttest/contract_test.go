package contracttest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/contracttest/pact"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

// outcome is a test that is allowed to fail.
type outcome struct {
	testing.TB
	mu   sync.Mutex
	said []string
}

// trial runs f as a test of its own and returns what it reported; nothing where it
// passed.
func trial(t *testing.T, f func(t testing.TB)) string {
	t.Helper()
	o := &outcome{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(o)
	}()
	<-done
	return strings.Join(o.said, "\n")
}

func (o *outcome) Helper() {}
func (o *outcome) Errorf(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.said = append(o.said, fmt.Sprintf(format, args...))
}
func (o *outcome) Error(args ...any)                 { o.Errorf("%s", fmt.Sprint(args...)) }
func (o *outcome) Fatal(args ...any)                 { o.Error(args...); runtime.Goexit() }
func (o *outcome) Fatalf(format string, args ...any) { o.Errorf(format, args...); runtime.Goexit() }

// needCore skips a test where the native library is missing.
func needCore(t *testing.T) {
	t.Helper()
	contracttest.Need(t)
}

// wants checks that a text holds each of these.
func wants(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("nothing says %q in:\n%s", p, text)
		}
	}
}

// product is what the consumer's client reads.
type product struct {
	ID     string
	Price  int
	Status string
}

// get is the consumer's real client.
func get(ctx context.Context, url, token string) (product, error) {
	var p product
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/products/p-1?currency=EUR", nil)
	if err != nil {
		return p, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return p, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return p, fmt.Errorf("status %s", resp.Status)
	}
	return p, json.NewDecoder(resp.Body).Decode(&p)
}

var readingAProduct = contracttest.REST{
	Name:  "reading a product",
	Given: contracttest.Given("a product", contracttest.Params{"id": "p-1", "price": 1999}),
	Request: contracttest.Request{
		Path: "/v1/products/p-1", Query: map[string]any{"currency": match.Regex("EUR", "[A-Z]{3}")},
		Headers: map[string]any{"Authorization": match.Bearer()},
	},
	Response: contracttest.Response{
		Headers: map[string]any{"ETag": match.Regex(`"v1"`, `".+"`)},
		Body: match.Object{
			"id": match.Like("p-1"), "price": match.Integer(1999), "status": match.Enum("active", "retired"),
			"tags": match.EachLike("new"), "made": match.Time(time.Date(2026, 8, 1, 10, 0, 0, 0, time.UTC)),
		},
	},
}

// shelf is a provider over HTTP, as it is composed in production.
type shelf struct {
	mu    sync.Mutex
	price map[string]int
	// spoil alters an answer, as a breaking change does.
	spoil func(h http.Header, body map[string]any) int
}

func (s *shelf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := strings.TrimPrefix(r.URL.Path, "/v1/products/")
	price, ok := s.price[id]
	if r.Header.Get("Authorization") != "Bearer good" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	h, code := http.Header{"Etag": {`"v7"`}}, http.StatusOK
	body := map[string]any{
		"id": id, "price": price, "status": "retired", "tags": []string{"a", "b"},
		"made": time.Now().Format(time.RFC3339Nano), "more": "than the consumer asked for",
	}
	if s.spoil != nil {
		if c := s.spoil(h, body); c != 0 {
			code = c
		}
	}
	for k, v := range h {
		w.Header()[k] = v
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body)
}

func (s *shelf) provider(dir string) contracttest.Provider {
	return contracttest.Provider{
		Name: "shelf", Pacts: pact.Dir(dir), REST: s,
		States: map[string]contracttest.StateFunc{
			"a product": func(_ context.Context, st *contracttest.State) error {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.price = map[string]int{st.String("id"): st.Int("price")}
				st.Cleanup(func(context.Context) error {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.price = nil
					return nil
				})
				return nil
			},
		},
		Filter: func(r *http.Request, _ contracttest.Interaction) error {
			r.Header.Set("Authorization", "Bearer good")
			return nil
		},
	}
}

func writeREST(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	c := contracttest.Consumer{Name: "window", Provider: "shelf", Dir: dir}
	c.REST(t, readingAProduct, func(ctx context.Context, url string) error {
		p, err := get(ctx, url, "a-secret")
		if err == nil && p != (product{"p-1", 1999, "active"}) {
			err = fmt.Errorf("got %+v", p)
		}
		return err
	})
	return dir
}

func TestREST(t *testing.T) {
	needCore(t)
	dir := writeREST(t)
	raw, err := os.ReadFile(filepath.Join(dir, "window-shelf.json"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "a-secret") {
		t.Error("the contract holds the token that the test used")
	}
	s := &shelf{}
	contracttest.Verify(t, s.provider(dir))
	if s.price != nil {
		t.Error("the state was not cleaned up")
	}
}

func TestRESTBrokenProvider(t *testing.T) {
	needCore(t)
	dir := writeREST(t)
	for name, c := range map[string]struct {
		spoil func(http.Header, map[string]any) int
		says  string
	}{
		"field removed":     {func(_ http.Header, b map[string]any) int { delete(b, "price"); return 0 }, "price"},
		"field renamed":     {func(_ http.Header, b map[string]any) int { b["identity"] = b["id"]; delete(b, "id"); return 0 }, "id"},
		"type changed":      {func(_ http.Header, b map[string]any) int { b["price"] = "1999"; return 0 }, "$.price"},
		"enum value":        {func(_ http.Header, b map[string]any) int { b["status"] = "draft"; return 0 }, "$.status"},
		"array empty":       {func(_ http.Header, b map[string]any) int { b["tags"] = []string{}; return 0 }, "$.tags"},
		"status changed":    {func(http.Header, map[string]any) int { return http.StatusAccepted }, "expected 200 but was 202"},
		"header missing":    {func(h http.Header, _ map[string]any) int { delete(h, "Etag"); return 0 }, "ETag"},
		"time as a number":  {func(_ http.Header, b map[string]any) int { b["made"] = 1; return 0 }, "$.made"},
		"fraction of cents": {func(_ http.Header, b map[string]any) int { b["price"] = 19.99; return 0 }, "$.price"},
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{spoil: c.spoil}
			r, err := contracttest.Check(t.Context(), s.provider(dir))
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Flagged(); !slices.Equal(got, []string{"window"}) {
				t.Fatalf("flagged %v", got)
			}
			res := r.Contracts[0].Results[0]
			if res.Interaction != "reading a product, given a product" {
				t.Errorf("the interaction is called %q", res.Interaction)
			}
			wants(t, strings.Join(res.Problems, "\n"), c.says)
		})
	}
}

func TestRESTConsumerThatDiffers(t *testing.T) {
	needCore(t)
	dir := t.TempDir()
	said := trial(t, func(t testing.TB) {
		contracttest.Consumer{Name: "window", Provider: "shelf", Dir: dir}.REST(t, readingAProduct, func(ctx context.Context, url string) error {
			_, err := get(ctx, url, "")
			return err
		})
	})
	wants(t, said, "window", "shelf", "reading a product", "Authorization")
	said = trial(t, func(t testing.TB) {
		contracttest.Consumer{Name: "window", Provider: "shelf", Dir: dir}.REST(t, readingAProduct, func(context.Context, string) error { return nil })
	})
	wants(t, said, "GET /v1/products/p-1 was not called")
	said = trial(t, func(t testing.TB) {
		contracttest.Consumer{Name: "window", Provider: "shelf", Dir: dir}.REST(t, readingAProduct, func(ctx context.Context, url string) error {
			_, err := get(ctx, url, "x")
			return errors.Join(err, errors.New("cannot show it"))
		})
	})
	wants(t, said, "cannot show it")
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) > 0 {
		t.Errorf("a contract was written all the same: %v", files)
	}
}

// desk is a provider over gRPC.
type desk struct {
	grpc_testing.UnimplementedTestServiceServer
	unary  func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error)
	stream func(*grpc_testing.StreamingOutputCallRequest, grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error
}

func (d *desk) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	return d.unary(ctx, r)
}

func (d *desk) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, s grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	return d.stream(r, s)
}

// start returns a connection to a running desk.
func (d *desk) start(t *testing.T) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, d)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (d *desk) provider(t *testing.T, dir string) contracttest.Provider {
	t.Helper()
	return contracttest.Provider{
		Name: "desk", Pacts: pact.Dir(dir), GRPC: d.start(t),
		States: map[string]contracttest.StateFunc{
			"nobody is there": func(_ context.Context, st *contracttest.State) error {
				was := d.unary
				d.unary = func(context.Context, *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
					return nil, refusal(time.Minute)
				}
				st.Cleanup(func(context.Context) error { d.unary = was; return nil })
				return nil
			},
		},
	}
}

func refusal(wait time.Duration) error {
	s, err := status.New(codes.ResourceExhausted, "come back later").WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
	if err != nil {
		return err
	}
	return s.Err()
}

func goodDesk() *desk {
	return &desk{
		unary: func(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
			md, _ := metadata.FromIncomingContext(ctx)
			if v := md.Get("idempotency-key"); len(v) != 1 || v[0] != "k-1" {
				return nil, status.Errorf(codes.InvalidArgument, "idempotency-key is %v", v)
			}
			if d, ok := ctx.Deadline(); !ok || time.Until(d) > 2*time.Second {
				return nil, status.Errorf(codes.InvalidArgument, "no deadline of 2 s")
			}
			if err := grpc.SetHeader(ctx, metadata.Pairs("served-by", "desk-7")); err != nil {
				return nil, err
			}
			if err := grpc.SetTrailer(ctx, metadata.Pairs("cost", "12", "trace-bin", "\x00\xff")); err != nil {
				return nil, err
			}
			return &grpc_testing.SimpleResponse{
				Username: "someone", OauthScope: fmt.Sprint(r.GetResponseSize()),
				Payload: &grpc_testing.Payload{Type: grpc_testing.PayloadType_COMPRESSABLE, Body: []byte("other bytes")},
			}, nil
		},
		stream: func(r *grpc_testing.StreamingOutputCallRequest, s grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
			for _, p := range r.GetResponseParameters() {
				if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func writeGRPC(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	c := contracttest.Consumer{Name: "visitor", Provider: "desk", Dir: dir}
	c.GRPC(t, contracttest.GRPC{
		Name:     "asking for something",
		Method:   grpc_testing.TestService_UnaryCall_FullMethodName,
		Metadata: map[string]any{"idempotency-key": "k-1"},
		Deadline: 2 * time.Second,
		Request:  &grpc_testing.SimpleRequest{ResponseSize: 3, FillUsername: true},
		Header:   map[string]any{"served-by": match.Regex("desk-1", `desk-\d+`)},
		Trailer:  map[string]any{"cost": match.Regex("1", `\d+`), "trace-bin": match.Like("AP8=")},
		Response: &grpc_testing.SimpleResponse{Username: "somebody", OauthScope: "3", Payload: &grpc_testing.Payload{Body: []byte("bytes")}},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(ctx, "idempotency-key", "k-1"), time.Second)
		defer cancel()
		var header, trailer metadata.MD
		r, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseSize: 3, FillUsername: true}, grpc.Header(&header), grpc.Trailer(&trailer))
		if err != nil {
			return err
		}
		if r.GetUsername() != "somebody" || string(r.GetPayload().GetBody()) != "bytes" ||
			!slices.Equal(header.Get("served-by"), []string{"desk-1"}) || !slices.Equal(trailer.Get("trace-bin"), []string{"\x00\xff"}) {
			return fmt.Errorf("got %v, header %v, trailer %v", r, header, trailer)
		}
		return nil
	})
	c.GRPC(t, contracttest.GRPC{
		Name:    "asking when nobody is there",
		Given:   contracttest.Given("nobody is there"),
		Method:  grpc_testing.TestService_UnaryCall_FullMethodName,
		Request: &grpc_testing.SimpleRequest{},
		Refusal: &contracttest.Refusal{
			Code: codes.ResourceExhausted, Message: "too many", Details: []proto.Message{&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)}},
		},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := grpc_testing.NewTestServiceClient(conn).UnaryCall(ctx, &grpc_testing.SimpleRequest{})
		details := status.Convert(err).Details()
		if status.Code(err) != codes.ResourceExhausted || len(details) != 1 {
			return fmt.Errorf("got %w with %v", err, details)
		}
		if ri, ok := details[0].(*errdetails.RetryInfo); !ok || ri.GetRetryDelay().AsDuration() != time.Second {
			return fmt.Errorf("got %v", details[0])
		}
		return nil
	})
	return dir
}

func TestGRPC(t *testing.T) {
	needCore(t)
	contracttest.Verify(t, goodDesk().provider(t, writeGRPC(t)))
}

func writeStreams(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	c := contracttest.Consumer{Name: "visitor", Provider: "desk", Dir: dir}
	request := &grpc_testing.StreamingOutputCallRequest{ResponseParameters: []*grpc_testing.ResponseParameters{{Size: 1}, {Size: 2}}}
	answer := &grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: []byte("ab")}}
	c.GRPC(t, contracttest.GRPC{
		Name: "reading to the end", Method: grpc_testing.TestService_StreamingOutputCall_FullMethodName,
		Request: request, Stream: match.Array{answer, answer},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := grpc_testing.NewTestServiceClient(conn).StreamingOutputCall(ctx, request)
		if err != nil {
			return err
		}
		for range 2 {
			if m, err := s.Recv(); err != nil || string(m.GetPayload().GetBody()) != "ab" {
				return fmt.Errorf("got %v, %w", m, err)
			}
		}
		if _, err := s.Recv(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("the end is %w", err)
		}
		return nil
	})
	c.GRPC(t, contracttest.GRPC{
		Name: "watching the first", Method: grpc_testing.TestService_StreamingOutputCall_FullMethodName,
		Request: request, Stream: match.EachLike(answer), Open: true,
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := grpc_testing.NewTestServiceClient(conn).StreamingOutputCall(ctx, request)
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	})
	return dir
}

func TestStreams(t *testing.T) {
	needCore(t)
	dir := writeStreams(t)
	contracttest.Verify(t, goodDesk().provider(t, dir))

	d := goodDesk()
	d.stream = func(_ *grpc_testing.StreamingOutputCallRequest, s grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: []byte("x")}}); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "gone")
	}
	r, err := contracttest.Check(t.Context(), d.provider(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, res := range r.Contracts[0].Results {
		if (res.Interaction == "reading to the end") != (len(res.Problems) > 0) {
			t.Errorf("%s: %v", res.Interaction, res.Problems)
		}
	}
	wants(t, fmt.Sprint(r), "UNAVAILABLE")
}

func TestGRPCBrokenProvider(t *testing.T) {
	needCore(t)
	dir := writeGRPC(t)
	for name, c := range map[string]struct {
		unary func(*grpc_testing.SimpleResponse) error
		says  string
	}{
		"field removed": {func(r *grpc_testing.SimpleResponse) error { r.Payload = nil; return nil }, "payload"},
		"refused":       {func(*grpc_testing.SimpleResponse) error { return status.Error(codes.NotFound, "no") }, "404"},
	} {
		t.Run(name, func(t *testing.T) {
			d := goodDesk()
			good := d.unary
			d.unary = func(ctx context.Context, req *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
				r, err := good(ctx, req)
				if err != nil {
					return nil, err
				}
				return r, c.unary(r)
			}
			r, err := contracttest.Check(t.Context(), d.provider(t, dir))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(r.Flagged(), []string{"visitor"}) {
				t.Fatalf("flagged %v", r.Flagged())
			}
			wants(t, fmt.Sprint(r), c.says, "asking for something")
		})
	}
}

var stockIsLow = contracttest.Event{
	Name: "the stock is low", Topic: "stock",
	Given:      contracttest.Given("a product", contracttest.Params{"id": "p-1"}),
	Attributes: map[string]any{"partitionkey": match.Regex("p-1", "p-.+")},
	Data:       &grpc_testing.SimpleResponse{Username: "p-1", Payload: &grpc_testing.Payload{Body: []byte("x")}},
}

func writeEvent(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	c := contracttest.Consumer{Name: "buyer", Provider: "shelf", Dir: dir}
	c.Event(t, stockIsLow, func(_ context.Context, m contracttest.Message) error {
		e, err := m.Event()
		if err != nil {
			return err
		}
		var low grpc_testing.SimpleResponse
		if err := protoevents.Decode(e, &low); err != nil {
			return err
		}
		if low.GetUsername() != "p-1" || e.Key != "p-1" || e.Topic != "stock" {
			return fmt.Errorf("got %v of %+v", &low, e)
		}
		return nil
	})
	return dir
}

func stockProvider(dir string, spoil func(*events.Event)) contracttest.Provider {
	id := ""
	return contracttest.Provider{
		Name: "shelf", Pacts: pact.Dir(dir),
		States: map[string]contracttest.StateFunc{
			"a product": func(_ context.Context, s *contracttest.State) error { id = s.String("id"); return nil },
		},
		Events: map[string]contracttest.EventFunc{
			"the stock is low": func(context.Context, contracttest.Interaction) (contracttest.Message, error) {
				e, err := protoevents.New("", "stock", id, &grpc_testing.SimpleResponse{Username: id, Payload: &grpc_testing.Payload{Body: []byte("yy")}})
				if spoil != nil {
					spoil(&e)
				}
				if e.Type == "" {
					err = errors.New("the outbox is empty")
				}
				return contracttest.Of(e), err
			},
		},
	}
}

func TestEvent(t *testing.T) {
	needCore(t)
	contracttest.Verify(t, stockProvider(writeEvent(t), nil))
}

func TestEventBrokenProvider(t *testing.T) {
	needCore(t)
	dir := writeEvent(t)
	for name, c := range map[string]struct {
		spoil func(*events.Event)
		says  string
	}{
		"not emitted":   {func(e *events.Event) { *e = events.Event{} }, "the outbox is empty"},
		"other topic":   {func(e *events.Event) { e.Topic = "stocks" }, "topic"},
		"other type":    {func(e *events.Event) { e.Type = "stock.Low" }, "type"},
		"no key":        {func(e *events.Event) { e.Key = "" }, "partitionkey"},
		"other key":     {func(e *events.Event) { e.Key = "q" }, "partitionkey"},
		"other message": {func(e *events.Event) { e.DataSchema = "grpc.testing.Empty" }, "username"},
		"no data":       {func(e *events.Event) { e.Data = nil }, "payload"},
		"not Protobuf":  {func(e *events.Event) { e.Data = []byte("\xff") }, "no grpc.testing.SimpleResponse"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := contracttest.Check(t.Context(), stockProvider(dir, c.spoil))
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(r.Flagged(), []string{"buyer"}) {
				t.Fatalf("flagged %v", r.Flagged())
			}
			wants(t, fmt.Sprint(r), c.says)
		})
	}
}
