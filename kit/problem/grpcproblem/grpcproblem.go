// Package grpcproblem carries a [problem.Problem] over gRPC and back.
//
// A server's handler returns a problem (or any error); [ToStatus] makes the status
// that goes on the wire. A client's [FromStatus], or [Of] for an error, gives the
// problem back:
//
//	problem                  google.rpc
//	Status                   the code, and ErrorInfo.metadata["http_status"]
//	Code                     ErrorInfo.reason, in upper case
//	Detail                   the status message
//	Fields                   BadRequest.field_violations
//	RetryAfter               RetryInfo.retry_delay
//	Type, Title, Extensions  ErrorInfo.metadata
//
// # Errors
//
// An error that says nothing of how it should be answered becomes Internal with a
// text that gives nothing away; so does a gRPC status of code Unknown, Internal or
// Unavailable that no service of ours wrote, for its message holds addresses.
package grpcproblem

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/napkin-kit/napkin/kit/problem"
)

// Domain is the ErrorInfo domain under which problems travel.
const Domain = "napkin-kit.problem"

const (
	metaStatus = "http_status"
	metaType   = "type"
	metaTitle  = "title"
)

// ToStatus returns the status that err is answered with: OK for nil, the status
// that err's chain holds, else that of [problem.Of]. It never returns nil.
func ToStatus(err error) *status.Status {
	if err == nil {
		return status.New(codes.OK, "")
	}
	if p, ok := errors.AsType[*problem.Problem](err); ok && p != nil {
		return fromProblem(p)
	}
	if s, ok := inChain(err); ok {
		if s.Code() == codes.OK {
			return status.New(codes.Internal, "something went wrong on our side")
		}
		if secretive(s) {
			return discreet(s)
		}
		return s
	}
	return fromProblem(problem.Of(err))
}

// Of returns the problem that err stands for, whether err is a problem itself or a
// status received over gRPC. It never returns nil. The result wraps err.
func Of(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok && p != nil {
		return p
	}
	if s, ok := inChain(err); ok && s.Code() != codes.OK {
		return FromStatus(s).Because(err)
	}
	return problem.Of(err)
}

// Write renders err as problem+json, as [problem.Write] does, reading gRPC statuses too.
func Write(w http.ResponseWriter, r *http.Request, err error) { problem.Write(w, r, Of(err)) }

// inChain finds a status without status.FromError's rewriting of its message to
// that of the outermost wrapper, which is the operator's text.
func inChain(err error) (*status.Status, bool) {
	var carrier interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &carrier) {
		return nil, false
	}
	s := carrier.GRPCStatus()
	return s, s != nil
}

// secretive reports whether s is of a code whose message gRPC itself may have
// written, with addresses and causes in it, and no service of ours vouches for it.
func secretive(s *status.Status) bool {
	switch s.Code() {
	case codes.Unknown, codes.Internal, codes.DataLoss, codes.Unavailable:
		return info(s) == nil
	}
	return false
}

// discreet keeps of s what may be told: the code, and when to try again.
func discreet(s *status.Status) *status.Status {
	out := status.New(s.Code(), generic(s.Code()))
	for _, d := range s.Details() {
		if retry, ok := d.(*errdetails.RetryInfo); ok {
			if with, err := out.WithDetails(retry); err == nil {
				out = with
			}
		}
	}
	return out
}

func generic(c codes.Code) string {
	if c == codes.Unavailable {
		return "the service is not available right now"
	}
	return "something went wrong on our side"
}

func info(s *status.Status) *errdetails.ErrorInfo {
	for _, d := range s.Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetDomain() == Domain {
			return i
		}
	}
	return nil
}

func fromProblem(p *problem.Problem) *status.Status {
	msg := p.Detail
	if msg == "" {
		msg = p.Title
	}
	s := status.New(Code(p.Status), msg)
	meta := make(map[string]string, len(p.Extensions)+3)
	for k, v := range p.Extensions {
		meta[k] = v
	}
	meta[metaStatus] = strconv.Itoa(p.Status)
	if p.Type != "" {
		meta[metaType] = p.Type
	}
	if p.Title != "" {
		meta[metaTitle] = p.Title
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: strings.ToUpper(p.Code), Domain: Domain, Metadata: meta}}
	if len(p.Fields) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range p.Fields {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: f.Field, Description: f.Message, Reason: f.Rule})
		}
		details = append(details, bad)
	}
	if p.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(p.RetryAfter)})
	}
	with, err := s.WithDetails(details...)
	if err != nil { // only text that is not UTF-8 fails to marshal
		return s
	}
	return with
}

// FromStatus returns the problem that s carries; nil for OK. A status that did not
// start as a problem maps by its code, with the code's name in snake case as Code.
func FromStatus(s *status.Status) *problem.Problem {
	if s.Code() == codes.OK {
		return nil
	}
	p := problem.New(HTTPStatus(s.Code()), snake(s.Code()), s.Message())
	if secretive(s) {
		p.Detail = generic(s.Code())
	}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetReason() != "" || d.GetDomain() == Domain {
				p.Code = strings.ToLower(d.GetReason())
			}
			if d.GetDomain() == Domain {
				readMetadata(p, d.GetMetadata())
			}
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				p.Fields = append(p.Fields, problem.Field{Field: v.GetField(), Message: v.GetDescription(), Rule: v.GetReason()})
			}
		case *errdetails.RetryInfo:
			p.RetryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return p
}

func readMetadata(p *problem.Problem, meta map[string]string) {
	for k, v := range meta {
		switch k {
		case metaStatus:
			if n, err := strconv.Atoi(v); err == nil && n >= 400 && n <= 599 {
				p.Status = n
			}
		case metaType:
			p.Type = v
		case metaTitle:
			p.Title = v
		default:
			if p.Extensions == nil {
				p.Extensions = make(map[string]string)
			}
			p.Extensions[k] = v
		}
	}
}

// Code returns the gRPC code for an HTTP status, after google.rpc.Code's own table.
func Code(httpStatus int) codes.Code {
	switch httpStatus {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusNotAcceptable:
		return codes.InvalidArgument
	case http.StatusUnauthorized:
		return codes.Unauthenticated
	case http.StatusForbidden:
		return codes.PermissionDenied
	case http.StatusNotFound, http.StatusGone:
		return codes.NotFound
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return codes.Unimplemented
	case http.StatusConflict:
		return codes.Aborted
	case http.StatusPreconditionFailed, http.StatusUnprocessableEntity, http.StatusPreconditionRequired:
		return codes.FailedPrecondition
	case http.StatusTooManyRequests:
		return codes.ResourceExhausted
	case problem.StatusClientClosedRequest:
		return codes.Canceled
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return codes.Unavailable
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return codes.DeadlineExceeded
	}
	if httpStatus >= 400 && httpStatus < 500 {
		return codes.FailedPrecondition
	}
	return codes.Internal
}

// HTTPStatus returns the HTTP status for a gRPC code, after google.rpc.Code's own table.
func HTTPStatus(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.Canceled:
		return problem.StatusClientClosedRequest
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	case codes.NotFound:
		return http.StatusNotFound
	case codes.AlreadyExists, codes.Aborted:
		return http.StatusConflict
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func snake(c codes.Code) string {
	switch c {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		return "internal"
	case codes.Canceled:
		return "canceled"
	case codes.OutOfRange:
		return "out_of_range"
	}
	var b strings.Builder
	for i, r := range c.String() {
		if i > 0 && 'A' <= r && r <= 'Z' {
			b.WriteByte('_')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// FromContext returns the status for a context's error: DeadlineExceeded or
// Canceled, nil while ctx is not done.
func FromContext(ctx context.Context) *status.Status {
	if err := ctx.Err(); err != nil {
		return fromProblem(problem.Of(err))
	}
	return nil
}
