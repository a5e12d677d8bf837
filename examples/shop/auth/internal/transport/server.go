// Package transport is the auth service at its edges: OpenID Connect over HTTP, on
// a maintained provider library, registration over gRPC, events out.
package transport

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Topic is what the service tells.
const Topic = "auth"

// Encode makes the event that other services read, keyed by the user.
func Encode(e domain.Registered) (events.Event, error) {
	return protoevents.New("", Topic, e.Account.ID,
		&authv1.UserRegistered{UserId: e.Account.ID, Email: e.Account.Email, Name: e.Account.Name})
}

// Server is the gRPC service.
type Server struct {
	authv1.UnimplementedAuthServiceServer
	registry *domain.Registry
}

// NewServer returns the gRPC service over r.
func NewServer(r *domain.Registry) *Server { return &Server{registry: r} }

// Register creates an account.
func (s *Server) Register(ctx context.Context, req *authv1.RegisterRequest) (*authv1.RegisterResponse, error) {
	a, err := s.registry.Register(ctx, domain.Registration{Email: req.GetEmail(), Password: req.GetPassword(), Name: req.GetName()})
	if field, ok := errors.AsType[*domain.FieldError](err); ok {
		return nil, problem.Invalid(problem.Field{Field: field.Field, Message: field.Message}).Because(err)
	}
	if errors.Is(err, domain.ErrExists) {
		return nil, status.Error(codes.AlreadyExists, "this e-mail address has an account")
	}
	if err != nil {
		return nil, err
	}
	return &authv1.RegisterResponse{User: &authv1.Account{Id: a.ID, Email: a.Email, Name: a.Name}}, nil
}

func writeJSON(w http.ResponseWriter, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "something went wrong on our side", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the reader is gone; nobody is left to tell
}
