package transport

import (
	"context"
	"encoding/base64"
	"encoding/json"

	"google.golang.org/protobuf/types/known/timestamppb"

	notificationv1 "github.com/napkin-kit/napkin/examples/shop/api/notification/v1"
	"github.com/napkin-kit/napkin/examples/shop/notification/internal/store"
	"github.com/napkin-kit/napkin/kit/problem"
)

// Server is the gRPC service, for operators.
type Server struct {
	notificationv1.UnimplementedNotificationServiceServer
	store *store.Store
}

// NewServer returns the gRPC service over st.
func NewServer(st *store.Store) *Server { return &Server{store: st} }

// ListNotifications lists, newest first. The text is left out: it is between the shop and its customer.
func (s *Server) ListNotifications(ctx context.Context, req *notificationv1.ListNotificationsRequest) (*notificationv1.ListNotificationsResponse, error) {
	after, err := parsePlace(req.GetPageToken())
	if err != nil {
		return nil, problem.Invalid(problem.Field{Field: "page_token", Message: "not a page token of this list", Rule: "page_token"})
	}
	size := int(req.GetPageSize())
	if size == 0 {
		size = 50
	}
	list, err := s.store.List(ctx, req.GetOrderId(), after, size+1)
	if err != nil {
		return nil, err
	}
	out := &notificationv1.ListNotificationsResponse{}
	if len(list) > size {
		list = list[:size]
		last := list[size-1]
		out.NextPageToken = placeToken(store.Place{CreatedAt: last.CreatedAt.UnixMicro(), ID: last.ID})
	}
	for _, n := range list {
		m := &notificationv1.Notification{
			Id: n.ID, UserId: n.UserID, OrderId: n.OrderID, Channel: string(n.Channel), Kind: string(n.Kind), Status: string(n.Status),
			Subject: n.Subject, Attempts: int32(n.Attempts), CreatedAt: timestamppb.New(n.CreatedAt),
		}
		if !n.SentAt.IsZero() {
			m.SentAt = timestamppb.New(n.SentAt)
		}
		out.Notifications = append(out.Notifications, m)
	}
	return out, nil
}

func placeToken(p store.Place) string {
	raw, err := json.Marshal(p)
	if err != nil { // a number and a string always marshal
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func parsePlace(token string) (store.Place, error) {
	var p store.Place
	if token == "" {
		return p, nil
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil {
		return p, err
	}
	err = json.Unmarshal(raw, &p)
	return p, err
}
