// Package letters lets operators see and resolve the events that a service gave up. Each service that handles
// events registers it.
package letters

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/napkin-kit/napkin/authn"
	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/kit/sqldb"
)

// page bounds a list. Who has more has one cause for most of them.
const page = 200

// Rule lets operators call it, through the gateway.
func Rule(gateway spiffeid.ID) authn.Rule {
	return authn.Rule{Method: "/shop.deadletter.v1.DeadLetterService/*", From: []spiffeid.ID{gateway}, User: authn.UserRequired, Scopes: []string{"shop:admin"}}
}

// Register serves the dead letters in db.
func Register(svc grpc.ServiceRegistrar, db *sqldb.DB, logger *slog.Logger) {
	deadletterv1.RegisterDeadLetterServiceServer(svc, &server{db: db, logger: logger})
}

type server struct {
	deadletterv1.UnimplementedDeadLetterServiceServer
	db     *sqldb.DB
	logger *slog.Logger
}

var errNotDead = problem.New(http.StatusConflict, "not_dead", "The event is no longer there to act on, or it only waits behind another one of its key.")

func (s *server) ListDeadLetters(ctx context.Context, _ *deadletterv1.ListDeadLettersRequest) (*deadletterv1.ListDeadLettersResponse, error) {
	all, err := inbox.ReadDeadLetters(ctx, s.db, "")
	if err != nil {
		return nil, err
	}
	resp := &deadletterv1.ListDeadLettersResponse{Total: int32(len(all))} //nolint:gosec // what was read into memory
	for _, l := range all[:min(page, len(all))] {
		m := &deadletterv1.DeadLetter{
			Id: l.ID, State: string(l.State), Topic: l.Event.Topic, Key: l.Event.Key, EventId: l.Event.ID, Type: l.Event.Type,
			Cause: l.Cause, Attempts: int32(l.Attempts), CreatedAt: timestamppb.New(l.Created), //nolint:gosec // a few
		}
		for _, f := range l.History {
			m.History = append(m.History, &deadletterv1.Failure{At: timestamppb.New(f.At), Cause: f.Cause})
		}
		resp.DeadLetters = append(resp.DeadLetters, m)
	}
	return resp, nil
}

func (s *server) RedriveDeadLetter(ctx context.Context, req *deadletterv1.RedriveDeadLetterRequest) (*deadletterv1.RedriveDeadLetterResponse, error) {
	return &deadletterv1.RedriveDeadLetterResponse{}, s.act(ctx, "redriven", req.GetId(), req.GetReason(), inbox.Redrive)
}

func (s *server) DropDeadLetter(ctx context.Context, req *deadletterv1.DropDeadLetterRequest) (*deadletterv1.DropDeadLetterResponse, error) {
	return &deadletterv1.DropDeadLetterResponse{}, s.act(ctx, "dropped", req.GetId(), req.GetReason(), inbox.Drop)
}

// act resolves a letter and writes to the log who did it and why.
func (s *server) act(ctx context.Context, what string, id int64, reason string, f func(context.Context, *sqldb.DB, int64) error) error {
	err := f(ctx, s.db, id)
	if errors.Is(err, inbox.ErrNotDead) {
		return errNotDead.Because(err)
	}
	if err != nil {
		return err
	}
	who, _ := authn.PrincipalFrom(ctx)
	s.logger.InfoContext(ctx, "a dead letter was "+what, "dead_letter", id, "operator", who.Subject, "reason", reason)
	return nil
}
