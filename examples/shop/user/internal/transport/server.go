// Package transport is the user service at its edges: gRPC, events in and out.
package transport

import (
	"context"
	"errors"
	"net/http"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/napkin-kit/napkin/authn"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Server is the gRPC service. Whose profile it is comes from the verified token
// alone.
type Server struct {
	userv1.UnimplementedUserServiceServer
	profiles *domain.Profiles
}

// NewServer returns the gRPC service over p.
func NewServer(p *domain.Profiles) *Server { return &Server{profiles: p} }

// GetMe returns the caller's profile.
func (s *Server) GetMe(ctx context.Context, _ *userv1.GetMeRequest) (*userv1.GetMeResponse, error) {
	p, err := s.of(ctx, s.profiles.Get)
	if err != nil {
		return nil, err
	}
	return &userv1.GetMeResponse{Profile: message(p)}, nil
}

// UpdateMe edits the caller's profile.
func (s *Server) UpdateMe(ctx context.Context, req *userv1.UpdateMeRequest) (*userv1.UpdateMeResponse, error) {
	p, err := s.of(ctx, func(ctx context.Context, id string) (domain.Profile, error) {
		return s.profiles.Update(ctx, id, domain.Change{Name: req.Name, Phone: req.Phone, Address: req.Address})
	})
	if err != nil {
		return nil, err
	}
	return &userv1.UpdateMeResponse{Profile: message(p)}, nil
}

// GetPreferences returns the caller's preferences.
func (s *Server) GetPreferences(ctx context.Context, _ *userv1.GetPreferencesRequest) (*userv1.GetPreferencesResponse, error) {
	p, err := s.of(ctx, s.profiles.Get)
	if err != nil {
		return nil, err
	}
	return &userv1.GetPreferencesResponse{Preferences: preferences(p)}, nil
}

// PutPreferences sets the caller's preferences.
func (s *Server) PutPreferences(ctx context.Context, req *userv1.PutPreferencesRequest) (*userv1.PutPreferencesResponse, error) {
	want := req.GetPreferences()
	p, err := s.of(ctx, func(ctx context.Context, id string) (domain.Profile, error) {
		return s.profiles.Prefer(ctx, id, domain.Preferences{Email: want.GetEmail(), SMS: want.GetSms(), Push: want.GetPush()})
	})
	if err != nil {
		return nil, err
	}
	return &userv1.PutPreferencesResponse{Preferences: preferences(p)}, nil
}

// of calls do for the user who calls. The policy has required one already.
func (s *Server) of(ctx context.Context, do func(ctx context.Context, id string) (domain.Profile, error)) (domain.Profile, error) {
	caller, ok := authn.PrincipalFrom(ctx)
	if !ok || !caller.IsUser() {
		return domain.Profile{}, authn.ErrTokenMissing
	}
	p, err := do(ctx, caller.Subject)
	if field, ok := errors.AsType[*domain.FieldError](err); ok {
		return p, problem.Invalid(problem.Field{Field: field.Field, Message: field.Message}).Because(err)
	}
	if errors.Is(err, domain.ErrNotFound) {
		return p, problem.New(http.StatusNotFound, "profile_not_found", "there is no profile for this account").Because(err)
	}
	return p, err
}

func message(p domain.Profile) *userv1.Profile {
	return &userv1.Profile{
		Id: p.ID, Email: p.Personal.Email, Name: p.Personal.Name, Phone: p.Personal.Phone, Address: p.Personal.Address,
		CreatedAt: timestamppb.New(p.CreatedAt), UpdatedAt: timestamppb.New(p.UpdatedAt),
	}
}

func preferences(p domain.Profile) *userv1.Preferences {
	return &userv1.Preferences{Email: p.Prefers.Email, Sms: p.Prefers.SMS, Push: p.Prefers.Push}
}
