package transport

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/napkin-kit/napkin/authn"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/order/internal/store"
	"github.com/napkin-kit/napkin/kit/problem"
	"github.com/napkin-kit/napkin/saga"
)

// statusStuck selects, beside the statuses of orders, those whose saga waits for
// an operator.
const statusStuck = "stuck"

// maxStuck bounds how many stuck orders are listed at once.
const maxStuck = 200

// Admin is the gRPC service for operators. All fields are required.
type Admin struct {
	orderv1.UnimplementedOrderAdminServiceServer

	Orders      *store.Store
	Coordinator *saga.Coordinator
}

// AdminListOrders lists everybody's orders with the state of their sagas.
func (a *Admin) AdminListOrders(ctx context.Context, req *orderv1.AdminListOrdersRequest) (*orderv1.AdminListOrdersResponse, error) {
	var orders []domain.Order
	var next string
	var err error
	if req.GetStatus() == statusStuck {
		orders, err = a.stuck(ctx)
	} else {
		orders, next, err = page(ctx, a.Orders, store.Filter{Status: domain.Status(req.GetStatus())}, req.GetPageSize(), req.GetPageToken())
	}
	if err != nil {
		return nil, err
	}
	counts, err := a.counts(ctx)
	if err != nil {
		return nil, err
	}
	out := &orderv1.AdminListOrdersResponse{NextPageToken: next, Counts: counts}
	for _, o := range orders {
		m, _, err := a.describe(ctx, o)
		if err != nil {
			return nil, err
		}
		out.Orders = append(out.Orders, m)
	}
	return out, nil
}

func (a *Admin) counts(ctx context.Context) (map[string]int32, error) {
	byStatus, err := a.Orders.Counts(ctx)
	if err != nil {
		return nil, err
	}
	sagas, err := a.Coordinator.Counts(ctx)
	if err != nil {
		return nil, err
	}
	counts := map[string]int32{statusStuck: int32(sagas[saga.StatusStuck])}
	for status, n := range byStatus {
		counts[string(status)] = int32(n)
	}
	return counts, nil
}

func (a *Admin) stuck(ctx context.Context) ([]domain.Order, error) {
	sagas, err := a.Coordinator.List(ctx, saga.Filter{Status: saga.StatusStuck, Limit: maxStuck})
	if err != nil {
		return nil, err
	}
	var orders []domain.Order
	for _, in := range sagas {
		o, err := a.Orders.Get(ctx, orderOf(in.ID))
		if errors.Is(err, domain.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		orders = append(orders, o)
	}
	return orders, nil
}

// orderOf is the inverse of domain.CheckoutID and domain.RefundID.
func orderOf(sagaID string) string { return strings.TrimSuffix(sagaID, ".refund") }

// describe joins an order with its newest saga, and returns all of its sagas.
func (a *Admin) describe(ctx context.Context, o domain.Order) (*orderv1.AdminOrder, []*saga.Instance, error) {
	out := &orderv1.AdminOrder{Order: message(o), UserId: o.UserID}
	var sagas []*saga.Instance
	for _, id := range []string{domain.CheckoutID(o.ID), domain.RefundID(o.ID)} {
		in, err := a.Coordinator.Get(ctx, id)
		if errors.Is(err, saga.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		sagas = append(sagas, in)
		out.SagaState, out.SagaStep = string(in.Status), step(in)
	}
	return out, sagas, nil
}

// step names where a saga stands.
func step(in *saga.Instance) string {
	if in.StuckStep != "" {
		return in.StuckStep
	}
	var at []string
	for name, r := range in.Steps {
		if r.Status == saga.StepAttempted || r.Status == saga.StepUndoing {
			at = append(at, name)
		}
	}
	slices.Sort(at)
	return strings.Join(at, ", ")
}

// GetTimeline tells everything that the sagas of an order did.
func (a *Admin) GetTimeline(ctx context.Context, req *orderv1.GetTimelineRequest) (*orderv1.GetTimelineResponse, error) {
	o, err := a.Orders.Get(ctx, req.GetOrderId())
	if err != nil {
		return nil, answer(err)
	}
	described, sagas, err := a.describe(ctx, o)
	if err != nil {
		return nil, err
	}
	out := &orderv1.GetTimelineResponse{Order: described}
	for i, in := range sagas {
		if i == 0 {
			out.CorrelationId, out.TraceId = in.IDs.CorrelationID, traceID(in.Carrier["traceparent"])
		}
		entries, err := a.Coordinator.History(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			detail := e.Detail
			if e.Actor != "" {
				detail = strings.TrimSpace(detail + " (" + e.Actor + ")")
			}
			out.Entries = append(out.Entries, &orderv1.TimelineEntry{
				At: timestamppb.New(e.At), SagaId: in.ID, Step: e.Step, What: string(e.Kind), Attempt: int32(e.Attempt), Detail: detail,
			})
		}
	}
	return out, nil
}

// traceID takes the trace's id out of a W3C traceparent.
func traceID(traceparent string) string {
	parts := strings.Split(traceparent, "-")
	if len(parts) < 4 {
		return ""
	}
	return parts[1]
}

// ResolveSaga is an operator's act on a stuck saga. The coordinator keeps who
// did it and why in the saga's history.
func (a *Admin) ResolveSaga(ctx context.Context, req *orderv1.ResolveSagaRequest) (*orderv1.ResolveSagaResponse, error) {
	p, _ := authn.PrincipalFrom(ctx)
	act := map[string]func(ctx context.Context, id, operator, reason string) error{
		"retry": a.Coordinator.Retry, "skip": a.Coordinator.Skip, "compensate": a.Coordinator.Compensate,
	}[req.GetAct()]
	if act == nil {
		return nil, problem.Invalid(problem.Field{Field: "act", Message: "must be retry, skip or compensate", Rule: "string.in"})
	}
	switch err := act(ctx, req.GetSagaId(), p.Subject, req.GetReason()); {
	case errors.Is(err, saga.ErrNotFound):
		return nil, problem.New(http.StatusNotFound, "saga_not_found", "there is no such saga").Because(err)
	case errors.Is(err, saga.ErrNotStuck):
		return nil, problem.New(http.StatusConflict, "saga_not_stuck", "the saga is not stuck").Because(err)
	case errors.Is(err, saga.ErrPastPivot):
		return nil, problem.New(http.StatusConflict, "saga_past_pivot", "the payment was captured: the order can only be finished").Because(err)
	case err != nil:
		return nil, err
	}
	return &orderv1.ResolveSagaResponse{}, nil
}
