package check

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	catalogv1 "github.com/napkin-kit/napkin/examples/shop/api/catalog/v1"
	inventoryv1 "github.com/napkin-kit/napkin/examples/shop/api/inventory/v1"
	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
)

// Sent is an event in the outbox of the service that told it.
type Sent struct {
	ID, Type, Topic, Key string
	KeySeq               int64
}

// listeners are the services that handle an event, by its type.
var listeners = func() map[string][]string {
	out := map[string][]string{saga.ReplyType: {"order"}}
	for service, messages := range map[string][]proto.Message{
		"user":    {&authv1.UserRegistered{}},
		"catalog": {&inventoryv1.StockLevelChanged{}},
		"cart":    {&orderv1.OrderCreated{}},
		"order": {
			&paymentv1.PaymentAuthorized{}, &paymentv1.PaymentDeclined{}, &paymentv1.PaymentVoided{},
			&paymentv1.PaymentCaptured{}, &paymentv1.PaymentCaptureRefused{}, &paymentv1.RefundIssued{}, &paymentv1.RefundRefused{},
			&inventoryv1.StockReserved{}, &inventoryv1.StockRejected{}, &inventoryv1.StockReleased{},
			&inventoryv1.StockCommitted{}, &inventoryv1.StockRestocked{},
		},
		"payment": {
			&paymentv1.AuthorizePayment{}, &paymentv1.VoidPayment{}, &paymentv1.CapturePayment{}, &paymentv1.RefundPayment{},
		},
		"inventory": {
			&inventoryv1.ReserveStock{}, &inventoryv1.ReleaseStock{}, &inventoryv1.CommitStock{}, &inventoryv1.RestockItems{},
			&catalogv1.ProductCreated{},
		},
		"notification": {
			&userv1.ProfileChanged{},
			&orderv1.OrderConfirmed{}, &orderv1.OrderFailed{}, &orderv1.OrderCancelled{}, &orderv1.OrderRefunded{},
		},
	} {
		for _, m := range messages {
			out[protoevents.Type(m)] = append(out[protoevents.Type(m)], service)
		}
	}
	return out
}()

// readSent reads what a service has told and still keeps: a day of it.
func readSent(ctx context.Context, db *sqldb.DB) ([]Sent, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT event_id, topic, key, key_seq, attributes FROM napkin_outbox`)
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	defer rows.Close()
	var out []Sent
	for rows.Next() {
		var s Sent
		var attributes []byte
		if err := rows.Scan(&s.ID, &s.Topic, &s.Key, &s.KeySeq, &attributes); err != nil {
			return nil, fmt.Errorf("read the outbox: %w", err)
		}
		var a struct {
			Type string `json:"type"`
		}
		if err := json.Unmarshal(attributes, &a); err != nil {
			return nil, fmt.Errorf("read the outbox: event %s: %w", s.ID, err)
		}
		s.Type = a.Type
		out = append(out, s)
	}
	return out, rows.Err()
}

// readHandled reads which events a service has handled, each with the time in microseconds.
func readHandled(ctx context.Context, db *sqldb.DB, consumer string) (map[string]int64, error) {
	rows, err := db.Read.QueryContext(ctx, `SELECT event_id, handled FROM napkin_inbox WHERE consumer = $1`, consumer)
	if err != nil {
		return nil, fmt.Errorf("read the inbox: %w", err)
	}
	defer rows.Close()
	out := map[string]int64{}
	for rows.Next() {
		var id string
		var at int64
		if err := rows.Scan(&id, &at); err != nil {
			return nil, fmt.Errorf("read the inbox: %w", err)
		}
		out[id] = at
	}
	return out, rows.Err()
}

// delivered compares the outboxes with the inboxes: the broker can lose nothing unnoticed.
func delivered(f Facts) Line {
	l := Line{Name: "each event is handled by every service that listens, and none that was not told"}
	known := make(map[string]bool, len(f.Sent))
	for _, s := range f.Sent {
		known[s.ID] = true
		for _, service := range listeners[s.Type] {
			l.Checked++
			if _, ok := f.Handled[service][s.ID]; !ok {
				l.Breaches = append(l.Breaches, fmt.Sprintf("%s has not handled %s %s of %s", service, s.Type, s.ID, s.Key))
			}
		}
	}
	for service, handled := range f.Handled {
		if f.Trimmed {
			break // the outboxes keep less than the inboxes
		}
		for id := range handled {
			if !known[id] {
				l.Breaches = append(l.Breaches, fmt.Sprintf("%s has handled %s, which nobody told", service, id))
			}
		}
	}
	return l
}

// inOrder compares the order in which a service handled the events of a key with that in which they were
// told.
func inOrder(f Facts) Line {
	l := Line{Name: "each service handled the events of a key in their order"}
	type key struct{ topic, key string }
	byKey := map[key][]Sent{}
	for _, s := range f.Sent {
		if s.Key != "" {
			byKey[key{s.Topic, s.Key}] = append(byKey[key{s.Topic, s.Key}], s)
		}
	}
	for _, told := range byKey {
		slices.SortFunc(told, func(a, b Sent) int { return cmp.Compare(a.KeySeq, b.KeySeq) })
		for service, handled := range f.Handled {
			var last Sent
			var at int64
			for _, s := range told {
				t, ok := handled[s.ID]
				if !ok {
					continue
				}
				l.Checked++
				if t < at {
					l.Breaches = append(l.Breaches, fmt.Sprintf("%s handled %s (%d of %s) after %s (%d)", service, last.Type, last.KeySeq, s.Key, s.Type, s.KeySeq))
				}
				last, at = s, t
			}
		}
	}
	return l
}
