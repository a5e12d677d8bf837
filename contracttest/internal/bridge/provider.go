package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

// maxMessages ends the reading of a stream that nobody said is endless.
const maxMessages = 10_000

// Handler answers the exchanges of a contract by calls on conn.
func Handler(conn grpc.ClientConnInterface, types Types) http.Handler {
	return &handler{conn, types}
}

type handler struct {
	conn  grpc.ClientConnInterface
	types Types
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method, err := h.types.Method(r.URL.Path)
	if err != nil {
		h.refuse(w, status.New(codes.Unimplemented, err.Error()))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		h.refuse(w, status.New(codes.InvalidArgument, err.Error()))
		return
	}
	in := dynamicpb.NewMessage(method.Input())
	if err := h.types.Read(body, in); err != nil {
		// The consumer sets a field that the provider does not know, or as another type.
		h.refuse(w, status.New(codes.InvalidArgument, fmt.Sprintf("the contract's request is no %s: %v", method.Input().FullName(), err)))
		return
	}
	md, _ := fromHeader(r.Header)
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(r.Context(), md))
	defer cancel()
	if t := r.Header.Get(TimeoutHeader); t != "" {
		d, err := parseTimeout(t)
		if err != nil {
			h.refuse(w, status.New(codes.InvalidArgument, err.Error()))
			return
		}
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if method.IsStreamingServer() {
		h.stream(ctx, w, r, method, in)
		return
	}
	var header, trailer metadata.MD
	out := dynamicpb.NewMessage(method.Output())
	err = h.conn.Invoke(ctx, r.URL.Path, in, out, grpc.Header(&header), grpc.Trailer(&trailer))
	toHeader(w.Header(), "", header)
	toHeader(w.Header(), TrailerPrefix, trailer)
	if err != nil {
		h.refuse(w, status.Convert(err))
		return
	}
	raw, err := h.types.Answered(out)
	if err != nil {
		h.refuse(w, status.New(codes.Internal, err.Error()))
		return
	}
	answer(w, http.StatusOK, raw)
}

func (h *handler) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, method protoreflect.MethodDescriptor, in *dynamicpb.Message) {
	limit, open := maxMessages, false
	if n := r.Header.Get(MessagesHeader); n != "" {
		var err error
		if limit, err = strconv.Atoi(n); err != nil || limit < 1 {
			h.refuse(w, status.New(codes.InvalidArgument, fmt.Sprintf("the header %s is %q; it takes a number from 1", MessagesHeader, n)))
			return
		}
		open = true
	}
	all := Stream{Messages: []json.RawMessage{}}
	header, trailer, err := h.receive(ctx, method, r.URL.Path, in, limit, &all)
	toHeader(w.Header(), "", header)
	toHeader(w.Header(), TrailerPrefix, trailer)
	switch {
	case open && err == nil && len(all.Messages) == limit: // left as it is
	case errors.Is(err, errTooMany):
		all.Status = h.types.status(status.New(codes.Internal, err.Error()))
	default:
		all.Status = h.types.status(status.Convert(err))
	}
	raw, err := json.Marshal(all)
	if err != nil {
		h.refuse(w, status.New(codes.Internal, err.Error()))
		return
	}
	answer(w, http.StatusOK, raw)
}

// receive reads up to limit messages.
func (h *handler) receive(ctx context.Context, method protoreflect.MethodDescriptor, full string, in *dynamicpb.Message, limit int, all *Stream) (header, trailer metadata.MD, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also ends a stream that is left open
	s, err := h.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full)
	if err != nil {
		return nil, nil, err
	}
	if err := s.SendMsg(in); err != nil && !errors.Is(err, io.EOF) { // EOF: RecvMsg says why
		return nil, nil, err
	}
	if err := s.CloseSend(); err != nil {
		return nil, nil, err
	}
	size := 0
	for len(all.Messages) < limit {
		out := dynamicpb.NewMessage(method.Output())
		if err = s.RecvMsg(out); err != nil {
			break
		}
		raw, err := h.types.Answered(out)
		if err != nil {
			return nil, nil, err
		}
		if size += len(raw); size > maxBody {
			return nil, nil, status.Errorf(codes.Internal, "the stream is larger than %d bytes after %d messages", maxBody, len(all.Messages)+1)
		}
		all.Messages = append(all.Messages, raw)
	}
	header, _ = s.Header() // nil where the stream failed before
	switch {
	case errors.Is(err, io.EOF):
		return header, s.Trailer(), nil
	case err != nil:
		return header, s.Trailer(), err
	case limit == maxMessages:
		return header, nil, errTooMany
	}
	return header, nil, nil
}

func (h *handler) refuse(w http.ResponseWriter, s *status.Status) {
	raw, err := json.Marshal(h.types.status(s))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, grpcproblem.HTTPStatus(s.Code()), raw)
}

func answer(w http.ResponseWriter, code int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(body) // the verifier has gone: it says so itself
}
