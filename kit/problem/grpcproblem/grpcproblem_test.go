package grpcproblem_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/problem/grpcproblem"
)

func TestRoundTrip(t *testing.T) {
	for _, in := range []*problem.Problem{
		problem.New(404, "order_not_found", "no such order"),
		problem.New(422, "key_reused", "another request used this key"),
		problem.New(410, "", "gone"),
		problem.New(500, "internal", "something went wrong on our side"),
		problem.Invalid(problem.Field{Field: "a[0].b", Message: "m", Rule: "r"}, problem.Field{Field: "c", Message: "n"}),
		{Status: 429, Code: "limited", Detail: "slow down", RetryAfter: 1500 * time.Millisecond},
		{Type: "https://x.test/p", Title: "T", Status: 409, Code: "c", Detail: "d", Extensions: map[string]string{"k": "v"}},
	} {
		t.Run(in.Error(), func(t *testing.T) {
			s := grpcproblem.ToStatus(fmt.Errorf("wrapped: %w", in))
			if s.Code() == codes.OK || s.Code() == codes.Unknown {
				t.Errorf("code %v", s.Code())
			}
			if got := grpcproblem.FromStatus(s); !reflect.DeepEqual(got, in) {
				t.Errorf("got  %+v\nwant %+v", got, in)
			}
		})
	}
}

func TestToStatusOfOtherErrors(t *testing.T) {
	secret := errors.New("hunter2")
	tests := []struct {
		name string
		err  error
		code codes.Code
		msg  string
	}{
		{"nil", nil, codes.OK, ""},
		{"deadline", fmt.Errorf("x: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "the request could not be answered in time"},
		{"canceled", context.Canceled, codes.Canceled, "the request was cancelled"},
		{"unknown", secret, codes.Internal, "something went wrong on our side"},
		{"status keeps its own text", fmt.Errorf("hunter2: %w", status.Error(codes.NotFound, "no such cart")), codes.NotFound, "no such cart"},
		{"transport text is hidden", status.Error(codes.Unavailable, "dial tcp hunter2"), codes.Unavailable, "the service is not available right now"},
		{"unknown status is hidden", status.Error(codes.Unknown, "hunter2"), codes.Unknown, "something went wrong on our side"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := grpcproblem.ToStatus(tt.err)
			if s.Code() != tt.code || s.Message() != tt.msg {
				t.Errorf("got %v %q, want %v %q", s.Code(), s.Message(), tt.code, tt.msg)
			}
			if strings.Contains(s.String(), "hunter2") {
				t.Error("gave the cause away")
			}
		})
	}
}

func TestFromForeignStatus(t *testing.T) {
	s, err := status.New(codes.InvalidArgument, "bad").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "f", Description: "d"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := grpcproblem.FromStatus(s)
	if got.Status != 400 || got.Code != "invalid_argument" || len(got.Fields) != 1 || got.Detail != "bad" {
		t.Errorf("got %+v", got)
	}
	if p := grpcproblem.FromStatus(status.New(codes.Unavailable, "dial tcp 10.0.0.1")); p.Status != 503 || strings.Contains(p.Detail, "10.0") {
		t.Errorf("got %+v", p)
	}
	if p := grpcproblem.FromStatus(status.New(codes.OK, "")); p != nil {
		t.Errorf("OK is no problem, got %+v", p)
	}
}

func TestOfKeepsTheChain(t *testing.T) {
	err := status.Error(codes.AlreadyExists, "taken")
	p := grpcproblem.Of(fmt.Errorf("registering: %w", err))
	if p.Status != 409 || p.Code != "already_exists" || !errors.Is(p, err) {
		t.Errorf("got %+v", p)
	}
}

// Every gRPC code maps to an error status and back to an error code.
func TestEveryCode(t *testing.T) {
	for c := codes.Canceled; c <= codes.Unauthenticated; c++ {
		p := grpcproblem.FromStatus(status.New(c, "m"))
		if p.Status < 400 || p.Code == "" || strings.ToLower(p.Code) != p.Code {
			t.Errorf("%v gave %+v", c, p)
		}
		if grpcproblem.Code(p.Status) == codes.OK {
			t.Errorf("%d maps to OK", p.Status)
		}
	}
}
