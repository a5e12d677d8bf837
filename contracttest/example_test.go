package contracttest_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/napkin-kit/napkin/contracttest"
	"github.com/napkin-kit/napkin/contracttest/match"
	"github.com/napkin-kit/napkin/contracttest/pact"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
)

// These are parts of tests: t is the test's.
var t *testing.T

func ExampleConsumer_REST() {
	shop := contracttest.Consumer{Name: "app", Provider: "shop"}
	shop.REST(t, contracttest.REST{
		Name:    "ordering what is in stock",
		Given:   contracttest.Given("a product", contracttest.Params{"id": "p-1"}).And("a customer"),
		Request: contracttest.Request{Method: http.MethodPost, Path: "/orders", Body: match.Object{"product_id": "p-1"}},
		Response: contracttest.Response{
			Status:  http.StatusAccepted,
			Headers: map[string]any{"Location": match.Regex("/orders/o-1", "/orders/.+")},
			Body:    match.Object{"id": match.Like("o-1"), "status": match.Enum("pending", "confirmed")},
		},
	}, func(ctx context.Context, url string) error {
		return order(ctx, url, "p-1") // the app's own client
	})
}

func order(context.Context, string, string) error { return nil }

func ExampleConsumer_GRPC() {
	prober := contracttest.Consumer{Name: "prober", Provider: "shop"}
	prober.GRPC(t, contracttest.GRPC{
		Name:     "asking how it is",
		Method:   grpc_health_v1.Health_Check_FullMethodName,
		Deadline: 2 * time.Second,
		Request:  &grpc_health_v1.HealthCheckRequest{Service: "orders"},
		Response: &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "orders"})
		return err
	})
	prober.GRPC(t, contracttest.GRPC{
		Name:    "asking for a service that is not there",
		Method:  grpc_health_v1.Health_Check_FullMethodName,
		Request: &grpc_health_v1.HealthCheckRequest{Service: "?"},
		Refusal: &contracttest.Refusal{Code: codes.NotFound},
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: "?"})
		if status.Code(err) != codes.NotFound {
			return fmt.Errorf("expected NOT_FOUND, got %w", err)
		}
		return nil
	})
}

// A server stream that stays open is contracted by its first messages.
func ExampleConsumer_GRPC_stream() {
	prober := contracttest.Consumer{Name: "prober", Provider: "shop"}
	prober.GRPC(t, contracttest.GRPC{
		Name:    "watching how it is",
		Method:  grpc_health_v1.Health_Watch_FullMethodName,
		Request: &grpc_health_v1.HealthCheckRequest{Service: "orders"},
		Stream:  match.Array{&grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}},
		Open:    true,
	}, func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := grpc_health_v1.NewHealthClient(conn).Watch(ctx, &grpc_health_v1.HealthCheckRequest{Service: "orders"})
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	})
}

func ExampleConsumer_Event() {
	timer := contracttest.Consumer{Name: "kitchen", Provider: "clock"}
	timer.Event(t, contracttest.Event{
		Name:       "a timer was set",
		Topic:      "timers",
		Attributes: map[string]any{"partitionkey": match.Like("egg")},
		Type:       "clock.v1.TimerSet",
		Data:       match.Object{"seconds": match.Integer(240)},
	}, func(ctx context.Context, m contracttest.Message) error {
		e, err := m.Event()
		if err != nil {
			return err
		}
		return timerSet(ctx, e) // the kitchen's own handler
	})
}

func timerSet(context.Context, events.Event) error { return nil }

// One call verifies everything that consumers have contracted, with the service as
// main composes it.
func ExampleVerify() {
	service := compose()
	contracttest.Verify(t, contracttest.Provider{
		Name: "shop", Pacts: pact.Dir("contracts"),
		URL: service.url, GRPC: service.conn,
		States: map[string]contracttest.StateFunc{
			"a customer": func(ctx context.Context, s *contracttest.State) error { return service.register(ctx) },
			"a product": func(ctx context.Context, s *contracttest.State) error {
				s.Cleanup(func(ctx context.Context) error { return service.remove(ctx, s.String("id")) })
				return service.stock(ctx, s.String("id"), 5)
			},
		},
		Events: map[string]contracttest.EventFunc{
			"a timer was set": func(ctx context.Context, _ contracttest.Interaction) (contracttest.Message, error) {
				e, err := protoevents.New("", "timers", "egg", durationpb.New(4*time.Minute))
				return contracttest.Of(e), err // in earnest: from the outbox, after the real command
			},
		},
		Filter: func(r *http.Request, _ contracttest.Interaction) error {
			r.Header.Set("Authorization", "Bearer "+service.token())
			return nil
		},
	})
}

type composition struct {
	url  string
	conn *grpc.ClientConn
}

func compose() composition                                   { return composition{} }
func (composition) register(context.Context) error           { return nil }
func (composition) remove(context.Context, string) error     { return nil }
func (composition) stock(context.Context, string, int) error { return nil }
func (composition) token() string                            { return "" }

// Check is for who counts: which consumers does this build of the provider break?
func ExampleCheck() {
	report, err := contracttest.Check(context.Background(), contracttest.Provider{
		Name: "shop", Pacts: pact.Consumers(pact.Dir("contracts"), "app"), URL: "http://127.0.0.1:8080",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, consumer := range report.Flagged() {
		fmt.Println(consumer, "is broken")
	}
}

func ExampleGiven() {
	for _, s := range contracttest.Given("a product", contracttest.Params{"id": "p-1"}).And("a customer") {
		fmt.Println(s.Name, s.Params)
	}
	// Output:
	// a product map[id:p-1]
	// a customer map[]
}
