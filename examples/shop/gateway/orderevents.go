package gateway

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/napkin-kit/napkin/authn"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/examples/shop/internal/streams"
	"github.com/napkin-kit/napkin/kit"
)

// orderEvents serves GET /v1/orders/{id}/events: the order now and after each change, as server-sent
// events, until it has ended. The browser reconnects by itself, and gets the order as it then is.
type orderEvents struct {
	orders    orderv1.OrderServiceClient
	streams   *streams.Limit
	heartbeat time.Duration
}

func newOrderEvents(svc *kit.Service, cfg Config) (http.Handler, error) {
	// A connection of their own: streams hold a place with the peer for as long as they last, and would
	// leave none for orders. Whoever reads them asks again by himself.
	conn, err := svc.Dial("order", kit.WithoutResilience())
	if err != nil {
		return nil, err
	}
	return &orderEvents{orders: orderv1.NewOrderServiceClient(conn), streams: cfg.Streams, heartbeat: cfg.Heartbeat}, nil
}

type orderUpdate struct {
	order *orderv1.Order
	err   error
}

func (e *orderEvents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	who, _ := authn.PrincipalFrom(r.Context())
	leave, err := e.streams.Enter(who.Subject)
	if err != nil {
		kit.WriteError(w, r, err)
		return
	}
	defer leave()
	stream, err := e.orders.WatchOrder(r.Context(), &orderv1.WatchOrderRequest{Id: r.PathValue("id")})
	if err != nil {
		kit.WriteError(w, r, err)
		return
	}
	first, err := stream.Recv() // before the header: no such order is a 404, not an empty stream
	if err != nil {
		kit.WriteError(w, r, err)
		return
	}
	updates := make(chan orderUpdate)
	go func() { // ends with the stream, which ends with the request
		defer close(updates)
		for {
			m, err := stream.Recv()
			select {
			case updates <- orderUpdate{m.GetOrder(), err}:
			case <-r.Context().Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()

	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would hold the events back
	if r.Method == http.MethodHead {
		return
	}
	flush := http.NewResponseController(w)
	if _, err := io.WriteString(w, "retry: 1000\n\n"); err != nil {
		return
	}
	if writeOrder(w, first.GetOrder()) != nil {
		return
	}
	beat := time.NewTicker(e.heartbeat)
	defer beat.Stop()
	for {
		if err := flush.Flush(); err != nil {
			return
		}
		select {
		case u, ok := <-updates:
			if !ok || u.err != nil {
				if u.err != nil && !errors.Is(u.err, io.EOF) && status.Code(u.err) != codes.Canceled {
					fmt.Fprint(w, ": the store is catching up\n\n") // the client asks again
				}
				return
			}
			if writeOrder(w, u.order) != nil {
				return
			}
		case <-beat.C:
			if _, err := io.WriteString(w, ": still here\n\n"); err != nil {
				return
			}
		case <-kit.Draining(r.Context()):
			return
		case <-r.Context().Done():
			return
		}
	}
}

func writeOrder(w io.Writer, o *orderv1.Order) error {
	data, err := jsonOut.Marshal(o)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "event: order\nid: %d\ndata: %s\n\n", o.GetUpdatedAt().AsTime().UnixMicro(), data)
	return err
}
