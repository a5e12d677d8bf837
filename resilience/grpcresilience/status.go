package grpcresilience

import (
	"context"
	"errors"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/napkin-kit/napkin/resilience"
)

// Classify says what a gRPC error means, by its status code:
//
//   - UNAVAILABLE and DEADLINE_EXCEEDED: a failure, may be retried;
//   - UNAVAILABLE with RetryInfo: refused by a server that sheds load, may be
//     retried, and no reason for a breaker to open;
//   - UNKNOWN, INTERNAL, DATA_LOSS: a failure, not retried;
//   - CANCELLED: neutral;
//   - RESOURCE_EXHAUSTED: an answer, retried if the server says when (RetryInfo);
//   - anything else: an answer.
//
// Errors without a status are left to resilience.Classify.
func Classify(err error) resilience.Class {
	var s interface{ GRPCStatus() *status.Status }
	if err == nil || !errors.As(err, &s) || resilience.IsLocalRejection(err) {
		return resilience.Classify(err)
	}
	st := s.GRPCStatus()
	after, asked := retryInfo(st)
	switch st.Code() {
	case codes.Unavailable:
		return resilience.Class{Health: resilience.Unhealthy, Retry: true, After: after, Refused: asked}
	case codes.DeadlineExceeded:
		return resilience.Class{Health: resilience.Unhealthy, Retry: true, After: after}
	case codes.Unknown, codes.Internal, codes.DataLoss:
		return resilience.Class{Health: resilience.Unhealthy}
	case codes.Canceled:
		return resilience.Class{Health: resilience.Neutral}
	case codes.ResourceExhausted:
		return resilience.Class{Health: resilience.Healthy, Retry: asked, After: after}
	default:
		return resilience.Class{Health: resilience.Healthy}
	}
}

func retryInfo(st *status.Status) (time.Duration, bool) {
	if len(st.Proto().GetDetails()) == 0 {
		return 0, false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return max(info.GetRetryDelay().AsDuration(), 0), true
		}
	}
	return 0, false
}

// callError is a failed attempt with what the attempt alone knows. It keeps the
// status of the error it wraps.
type callError struct {
	err   error
	class resilience.Class
}

func (e *callError) Error() string              { return e.err.Error() }
func (e *callError) Unwrap() error              { return e.err }
func (e *callError) Class() resilience.Class    { return e.class }
func (e *callError) GRPCStatus() *status.Status { return status.Convert(e.err) }

// pushbackKey is the trailer of gRFC A6.
const pushbackKey = "grpc-retry-pushback-ms"

// attemptError classifies the error of one attempt. sent says that the attempt
// had a stream on a connection.
func attemptError(err error, sent bool, trailer metadata.MD) error {
	c := Classify(err)
	switch {
	case sent || c.Health != resilience.Unhealthy:
	case status.Code(err) == codes.Internal:
		// gRPC itself refuses it, such as metadata with a line break: the same next
		// time, and no word on the destination. See unsendable.
		c = resilience.Class{Health: resilience.Neutral}
	default:
		c.NeverSent, c.Retry = true, true
	}
	if v := trailer.Get(pushbackKey); len(v) > 0 {
		ms, parseErr := strconv.ParseInt(v[0], 10, 32)
		// A6: negative or unreadable means "do not retry". A number says when, and
		// not that what is no use with this code is of use now.
		c.Retry = parseErr == nil && ms >= 0 && (c.Retry || status.Code(err) == codes.ResourceExhausted)
		if c.Retry {
			c.After = time.Duration(ms) * time.Millisecond
		}
	}
	return &callError{err: err, class: c}
}

// unsendable returns what to report in place of err where req is no message that the wire takes, such as
// one with text that is not UTF-8; else nil. gRPC calls that INTERNAL, as if the destination had failed,
// which knows nothing of it: input from outside could open the breaker for everyone.
func unsendable(err error, req any) error {
	m, ok := req.(proto.Message)
	if !ok || status.Code(err) != codes.Internal {
		return nil
	}
	if _, fault := proto.Marshal(m); fault == nil {
		return nil
	}
	return &callError{
		err:   status.Error(codes.InvalidArgument, "the request cannot be sent: a text in it is not UTF-8"),
		class: resilience.Class{Health: resilience.Neutral},
	}
}

// StatusError gives a rejection of package resilience its status: the result
// has a GRPCStatus method and still matches err with errors.Is. Other errors
// are returned as they are.
func StatusError(err error) error {
	if err == nil {
		return nil
	}
	if r, ok := err.(*resilience.Rejection); ok { //nolint:errorlint // the short way of most refusals; wrapped ones are met below
		return rejection(r, err)
	}
	var has interface{ GRPCStatus() *status.Status }
	if errors.As(err, &has) {
		return err
	}
	var r *resilience.Rejection
	switch {
	case errors.As(err, &r):
		return rejection(r, err)
	case errors.Is(err, context.DeadlineExceeded):
		return &rejected{err: err, code: codes.DeadlineExceeded}
	case errors.Is(err, context.Canceled):
		return &rejected{err: err, code: codes.Canceled}
	}
	return err
}

func rejection(r *resilience.Rejection, err error) error {
	code := codes.Unavailable
	if errors.Is(r.Err, resilience.ErrBulkheadFull) || errors.Is(r.Err, resilience.ErrLimited) {
		code = codes.ResourceExhausted
	}
	return &rejected{err: err, code: code, after: r.After}
}

// rejected is a rejection with a status, which is built only if asked for.
type rejected struct {
	err   error
	code  codes.Code
	after time.Duration
}

func (r *rejected) Error() string { return r.err.Error() }
func (r *rejected) Unwrap() error { return r.err }

// GRPCStatus returns the status.
func (r *rejected) GRPCStatus() *status.Status {
	st := status.New(r.code, r.err.Error())
	if r.after <= 0 {
		return st
	}
	if with, err := st.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(r.after)}); err == nil {
		return with
	}
	return st
}
