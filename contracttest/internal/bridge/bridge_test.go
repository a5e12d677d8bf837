package bridge_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/napkin-kit/napkin/contracttest/internal/bridge"
)

type provider struct {
	grpc_testing.UnimplementedTestServiceServer
}

// UnaryCall answers by what it is asked.
func (provider) UnaryCall(ctx context.Context, r *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if err := errors.Join(
		grpc.SetHeader(ctx, metadata.Pairs("saw", strings.Join(md.Get("hello"), "+"), "saw-bin", strings.Join(md.Get("raw-bin"), "+"))),
		grpc.SetTrailer(ctx, metadata.Pairs("the-end", "yes", "end-bin", "\x01\x00")),
	); err != nil {
		return nil, err
	}
	if r.GetResponseStatus() != nil {
		s := status.New(codes.Code(r.GetResponseStatus().GetCode()), r.GetResponseStatus().GetMessage()) //nolint:gosec // small
		s, err := s.WithDetails(&errdetails.ErrorInfo{Reason: "R", Domain: "d"}, &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "f"}}})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}
	left := "none"
	if d, ok := ctx.Deadline(); ok && time.Until(d) <= 90*time.Second {
		left = "at most 90 s"
	}
	return &grpc_testing.SimpleResponse{Username: left, Payload: r.GetPayload()}, nil
}

func (provider) StreamingOutputCall(r *grpc_testing.StreamingOutputCallRequest, s grpc.ServerStreamingServer[grpc_testing.StreamingOutputCallResponse]) error {
	for _, p := range r.GetResponseParameters() {
		if err := s.Send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: make([]byte, p.GetSize())}}); err != nil {
			return err
		}
	}
	switch {
	case r.GetResponseStatus().GetCode() == int32(codes.OK):
		return nil
	case r.GetResponseStatus().GetMessage() == "hang":
		<-s.Context().Done()
		return s.Context().Err()
	}
	return status.Error(codes.Code(r.GetResponseStatus().GetCode()), r.GetResponseStatus().GetMessage()) //nolint:gosec // small
}

func dial(t *testing.T, s *grpc.Server) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient("passthrough:///bridge", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// through returns a stub whose calls go to the provider over the whole way: gRPC to
// HTTP, as at a consumer, and HTTP to gRPC, as at a provider.
func through(t *testing.T, calls map[string]bridge.Call) (grpc_testing.TestServiceClient, string) {
	t.Helper()
	s := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(s, provider{})
	types := bridge.NewTypes(nil)
	web := httptest.NewServer(bridge.Handler(dial(t, s), types))
	t.Cleanup(web.Close)
	return grpc_testing.NewTestServiceClient(dial(t, bridge.NewServer(web.URL, types, calls))), web.URL
}

func TestUnaryThereAndBack(t *testing.T) {
	stub, _ := through(t, map[string]bridge.Call{grpc_testing.TestService_UnaryCall_FullMethodName: {Deadline: 90 * time.Second}})
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(t.Context(), "hello", "a", "hello", "b", "raw-bin", "\x00\xfe"), time.Minute)
	defer cancel()
	payload := &grpc_testing.Payload{Type: grpc_testing.PayloadType_COMPRESSABLE, Body: []byte("\x00\x01")}
	var header, trailer metadata.MD
	r, err := stub.UnaryCall(ctx, &grpc_testing.SimpleRequest{Payload: payload}, grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(r.GetPayload(), payload) || r.GetUsername() != "at most 90 s" {
		t.Errorf("got %v", r)
	}
	if !slices.Equal(header.Get("saw"), []string{"a+b"}) || !slices.Equal(header.Get("saw-bin"), []string{"\x00\xfe"}) {
		t.Errorf("header %v", header)
	}
	if !slices.Equal(trailer.Get("the-end"), []string{"yes"}) || !slices.Equal(trailer.Get("end-bin"), []string{"\x01\x00"}) {
		t.Errorf("trailer %v", trailer)
	}
}

// TestRefusalsThereAndBack: every code that gRPC has arrives as itself, with the
// text and the details.
func TestRefusalsThereAndBack(t *testing.T) {
	stub, _ := through(t, nil)
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		_, err := stub.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{ResponseStatus: &grpc_testing.EchoStatus{Code: int32(c), Message: "why " + c.String()}})
		s := status.Convert(err)
		if s.Code() != c || s.Message() != "why "+c.String() || len(s.Details()) != 2 {
			t.Fatalf("%v arrived as %v with %v", c, err, s.Details())
		}
		if info, ok := s.Details()[0].(*errdetails.ErrorInfo); !ok || info.GetReason() != "R" || info.GetDomain() != "d" {
			t.Errorf("%v: the detail is %v", c, s.Details()[0])
		}
	}
}

func TestStreamsThereAndBack(t *testing.T) {
	full := grpc_testing.TestService_StreamingOutputCall_FullMethodName
	two := []*grpc_testing.ResponseParameters{{Size: 1}, {Size: 0}}
	for name, c := range map[string]struct {
		status *grpc_testing.EchoStatus
		call   bridge.Call
		ends   codes.Code
	}{
		"to the end": {nil, bridge.Call{}, codes.OK},
		"broken off": {&grpc_testing.EchoStatus{Code: int32(codes.Aborted), Message: "enough"}, bridge.Call{}, codes.Aborted},
		"left open":  {&grpc_testing.EchoStatus{Code: 1, Message: "hang"}, bridge.Call{Messages: 2}, codes.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			stub, _ := through(t, map[string]bridge.Call{full: c.call})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := stub.StreamingOutputCall(ctx, &grpc_testing.StreamingOutputCallRequest{ResponseParameters: two, ResponseStatus: c.status})
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range two {
				m, err := s.Recv()
				if err != nil || len(m.GetPayload().GetBody()) != int(p.GetSize()) {
					t.Fatalf("got %v, %v", m, err)
				}
			}
			if c.ends == codes.Canceled {
				cancel()
			}
			_, err = s.Recv()
			if errors.Is(err, io.EOF) {
				err = nil
			}
			if status.Code(err) != c.ends {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}

// TestEndlessStreamIsEnded: a provider that streams without end, in a contract that
// says it ends, is told so.
func TestEndlessStreamIsEnded(t *testing.T) {
	_, url := through(t, nil)
	many := strings.Repeat(`{"size":1},`, 10_000)
	resp, err := http.Post(url+grpc_testing.TestService_StreamingOutputCall_FullMethodName, "application/json",
		strings.NewReader(`{"response_parameters":[`+many+`{"size":1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "needs Open") {
		t.Errorf("%v, %d bytes", err, len(body))
	}
}

// TestHugeStreamIsEnded: large messages do not have to be 10000 to be too much.
func TestHugeStreamIsEnded(t *testing.T) {
	_, url := through(t, nil)
	resp, err := http.Post(url+grpc_testing.TestService_StreamingOutputCall_FullMethodName, "application/json",
		strings.NewReader(`{"response_parameters":[`+strings.Repeat(`{"size":3000000},`, 9)+`{"size":1}]}`))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(body), "larger than") {
		t.Errorf("%v, %d bytes", err, len(body))
	}
}

// TestHandlerRefusesByName: what the provider does not have is named.
func TestHandlerRefusesByName(t *testing.T) {
	_, url := through(t, nil)
	unary := grpc_testing.TestService_UnaryCall_FullMethodName
	for name, c := range map[string]struct {
		path, body, header, value string
		code                      int
		says                      string
	}{
		"no service":    {"/no.such.Service/M", "{}", "", "", 501, "no.such.Service"},
		"no method":     {"/grpc.testing.TestService/Gone", "{}", "", "", 501, "has no method Gone"},
		"no path":       {"/x", "{}", "", "", 501, "/package.Service/Method"},
		"a message":     {"/grpc.testing.Payload/M", "{}", "", "", 501, "no gRPC service"},
		"client stream": {"/grpc.testing.TestService/FullDuplexCall", "{}", "", "", 501, "client stream"},
		"unknown field": {unary, `{"colour":"red"}`, "", "", 400, "colour"},
		"no JSON":       {unary, `{`, "", "", 400, "no grpc.testing.SimpleRequest"},
		"timeout":       {unary, `{}`, "Grpc-Timeout", "soon", 400, "Grpc-Timeout"},
		"messages":      {grpc_testing.TestService_StreamingOutputCall_FullMethodName, `{}`, "Grpc-Messages", "0", 400, "Grpc-Messages"},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequest(http.MethodPost, url+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			if c.header != "" {
				req.Header.Set(c.header, c.value)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.code || !strings.Contains(string(body), c.says) {
				t.Errorf("got %d %s", resp.StatusCode, body)
			}
		})
	}
}

// TestCallsThatTheContractLacks: the consumer is told, and no client tries again.
func TestCallsThatTheContractLacks(t *testing.T) {
	for name, answer := range map[string]string{
		"unexpected": `{"error":"Unexpected request"}`, "no JSON": "<html>", "no code": `{"code":"NO_SUCH_CODE"}`, "no detail": `{"code":"ABORTED","details":[{"@type":"x/no.such.Type"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, answer, 500) }))
			defer web.Close()
			stub := grpc_testing.NewTestServiceClient(dial(t, bridge.NewServer(web.URL, bridge.NewTypes(nil), nil)))
			if _, err := stub.UnaryCall(t.Context(), &grpc_testing.SimpleRequest{}); status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "contract") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		2 * time.Hour: "2H", 90 * time.Second: "90S", time.Minute: "1M", 1500 * time.Millisecond: "1500m",
		time.Microsecond: "1u", 3: "3n", time.Hour + time.Nanosecond: "3600000m",
	} {
		if got := bridge.Timeout(d); got != want {
			t.Errorf("%v is %q, not %q", d, got, want)
		}
	}
}
