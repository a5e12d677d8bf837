package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
)

// maxBody bounds what is read of one answer.
const maxBody = 16 << 20

// Call is what a contract says of a method beside its messages.
type Call struct {
	// Deadline is the longest that the consumer may allow. 0: the contract is silent.
	Deadline time.Duration
	// Messages is how many messages are read of a stream that stays open. 0: it ends.
	Messages int
}

// NewServer returns a gRPC server that answers every call by an exchange with the
// mock provider at url. calls are by the method's full name.
func NewServer(url string, types Types, calls map[string]Call, opts ...grpc.ServerOption) *grpc.Server {
	s := &server{url: url, types: types, calls: calls, http: &http.Transport{DisableKeepAlives: true}} // nothing stays behind
	return grpc.NewServer(append(opts, grpc.UnknownServiceHandler(s.handle))...)
}

type server struct {
	url   string
	types Types
	calls map[string]Call
	http  http.RoundTripper
}

func (s *server) handle(_ any, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	method, err := s.types.Method(full)
	if err != nil {
		return status.Error(codes.Unimplemented, err.Error())
	}
	in := dynamicpb.NewMessage(method.Input())
	if err := stream.RecvMsg(in); err != nil {
		return err
	}
	resp, err := s.exchange(stream.Context(), full, in)
	if err != nil {
		return status.FromContextError(err).Err()
	}
	header, trailer := fromHeader(resp.header)
	if err := stream.SetHeader(header); err != nil {
		return err
	}
	stream.SetTrailer(trailer)
	if method.IsStreamingServer() {
		return s.stream(stream, method, full, resp)
	}
	return s.unary(stream, method, resp)
}

// answered is what the mock provider answered.
type answered struct {
	code   int
	header http.Header
	body   []byte
}

func (s *server) exchange(ctx context.Context, full string, in proto.Message) (*answered, error) {
	raw, err := s.types.Sent(in)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+full, bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		toHeader(req.Header, "", md)
	}
	req.Header.Set("Content-Type", "application/json")
	call := s.calls[full]
	if deadline, ok := ctx.Deadline(); ok && call.Deadline > 0 {
		// Any shorter deadline keeps the contract, and is written as it stands there.
		left := time.Until(deadline)
		if left <= call.Deadline {
			left = call.Deadline
		}
		req.Header.Set(TimeoutHeader, Timeout(left.Round(time.Millisecond)))
	}
	if call.Messages > 0 {
		req.Header.Set(MessagesHeader, strconv.Itoa(call.Messages))
	}
	resp, err := s.http.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	return &answered{resp.StatusCode, resp.Header, body}, err
}

func (s *server) unary(stream grpc.ServerStream, method protoreflect.MethodDescriptor, resp *answered) error {
	if resp.code != http.StatusOK {
		return s.refused(resp)
	}
	out := dynamicpb.NewMessage(method.Output())
	if err := s.types.Read(resp.body, out); err != nil {
		return notInContract("the contract's response is no %s: %v", method.Output().FullName(), err)
	}
	return stream.SendMsg(out)
}

func (s *server) stream(stream grpc.ServerStream, method protoreflect.MethodDescriptor, full string, resp *answered) error {
	if resp.code != http.StatusOK {
		return s.refused(resp)
	}
	var all Stream
	if err := json.Unmarshal(resp.body, &all); err != nil {
		return notInContract("the contract's response is no stream: %v", err)
	}
	for _, raw := range all.Messages {
		out := dynamicpb.NewMessage(method.Output())
		if err := s.types.Read(raw, out); err != nil {
			return notInContract("a message of the contract is no %s: %v", method.Output().FullName(), err)
		}
		if err := stream.SendMsg(out); err != nil {
			return err
		}
	}
	if s.calls[full].Messages > 0 {
		<-stream.Context().Done() // it stays open until the consumer has had enough
		return status.FromContextError(stream.Context().Err()).Err()
	}
	if all.Status == nil {
		return nil
	}
	return s.types.err(all.Status)
}

// refused is the contract's error, or the mock provider's own, which has no code:
// it knew no such exchange.
func (s *server) refused(resp *answered) error {
	var st Status
	if err := json.Unmarshal(resp.body, &st); err != nil || st.Code == "" {
		return notInContract("the contract has no such call: the mock provider answered %d %s", resp.code, resp.body)
	}
	if err := s.types.err(&st); err != nil {
		return err
	}
	return notInContract("the mock provider answered %d with the code OK", resp.code)
}

// notInContract is INTERNAL, which no client tries again.
func notInContract(format string, args ...any) error {
	return status.Error(codes.Internal, fmt.Sprintf(format, args...))
}

var errTooMany = errors.New("the stream has not ended after 10000 messages; a stream that stays open needs Open in its contract")
