package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/authn"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	"github.com/napkin-kit/napkin/kit"
)

// watchOrder is an order's progress as server-sent events, each the HTML that the page shows. The API has
// the same at /v1/orders/{id}/events for clients that hold a token; a browser's page holds none.
func (s *store) watchOrder(w http.ResponseWriter, r *http.Request) error {
	who, _ := authn.PrincipalFrom(r.Context())
	leave, err := s.cfg.Streams.Enter(who.Subject)
	if err != nil {
		return err
	}
	defer leave()
	ctx, stop := context.WithCancel(r.Context())
	defer stop()
	cancelling := r.URL.Query().Get("cancelling") != ""
	id := r.PathValue("id")
	stream, err := s.watch.WatchOrder(ctx, &orderv1.WatchOrderRequest{Id: id})
	if err != nil {
		return err
	}
	first, err := stream.Recv() // before the header: an order that is not there is an error, not an empty stream
	if err != nil {
		return err
	}
	updates := make(chan *orderv1.Order)
	go s.follow(ctx, id, stream, cancelling, updates) // ends with ctx

	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // nginx would hold the events back
	out := &eventStream{s: s, w: w, flush: http.NewResponseController(w), cancelling: cancelling}
	out.send("retry: 1000\n\n")
	out.order(first.GetOrder())
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	for out.err == nil {
		select {
		case o, ok := <-updates:
			if !ok {
				return nil // the browser asks again
			}
			out.order(o)
		case <-beat.C:
			out.send(": still here\n\n")
		case <-kit.Draining(ctx):
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	return nil // it was sent its end, or has gone away
}

// follow passes an order's changes on. A stream ends with a confirmed order; where that is being cancelled,
// there is more to come, and follow looks again.
func (s *store) follow(ctx context.Context, id string, stream orderv1.OrderService_WatchOrderClient, cancelling bool, updates chan<- *orderv1.Order) {
	defer close(updates)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		for {
			m, err := stream.Recv()
			if err != nil && !errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				break
			}
			select {
			case updates <- m.GetOrder():
			case <-ctx.Done():
				return
			}
		}
		if !cancelling {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		}
		var err error
		if stream, err = s.watch.WatchOrder(ctx, &orderv1.WatchOrderRequest{Id: id}); err != nil {
			return
		}
	}
}

// eventStream writes events until the first error.
type eventStream struct {
	s          *store
	w          io.Writer
	flush      *http.ResponseController
	cancelling bool
	last       string
	err        error
}

func (e *eventStream) send(text string) {
	if e.err != nil {
		return
	}
	if _, e.err = io.WriteString(e.w, text); e.err == nil {
		e.err = e.flush.Flush()
	}
}

// order sends how an order stands, once, and the end of the stream after the order's.
func (e *eventStream) order(o *orderv1.Order) {
	if e.err != nil {
		return
	}
	html, err := e.s.site.Fragment("order", "progress", viewOf(o, e.cancelling))
	if err != nil {
		e.err = err
		return
	}
	if html != e.last {
		e.last = html
		// Each line of the data is a field of its own.
		e.send(fmt.Sprintf("event: order\ndata: %s\n\n", strings.ReplaceAll(strings.TrimSpace(html), "\n", "\ndata: ")))
	}
	if over(o, e.cancelling) {
		e.send("event: end\ndata: end\n\n")
		if e.err == nil {
			e.err = io.EOF
		}
	}
}
