// Package transport is payment's edge: gRPC calls, commands and replies over
// the broker, and the provider's HTTP API.
package transport

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
	paymentv1 "github.com/napkin-kit/napkin/examples/shop/api/payment/v1"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/domain"
	"github.com/napkin-kit/napkin/examples/shop/payment/internal/store"
	"github.com/napkin-kit/napkin/kit/correlation"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/inbox"
	"github.com/napkin-kit/napkin/kit/events/protoevents"
	"github.com/napkin-kit/napkin/kit/sqldb"
	"github.com/napkin-kit/napkin/saga"
	"github.com/napkin-kit/napkin/saga/participant"
)

// Topics that this service owns.
const (
	CommandTopic = "payment-commands"
	EventTopic   = "payment"
)

// Commands turns commands into intents (T1) and settled intents into replies
// (T2). It is safe for concurrent use.
type Commands struct {
	runner      sqldb.Runner[*sql.Tx]
	participant *participant.Participant
	hooks       events.Hooks
	wake        func()
}

// NewCommands returns the command handlers of a database. hooks carry the trace
// over from T1 to T2. wake is called after each commit that recorded an intent.
func NewCommands(db *sqldb.DB, p *participant.Participant, hooks events.Hooks, wake func()) *Commands {
	return &Commands{runner: sqldb.Std(db), participant: p, hooks: hooks, wake: wake}
}

// Register gives the handlers to the consumer of the command topic.
func (c *Commands) Register(consumer *inbox.Consumer[*sql.Tx]) {
	for typ, handler := range map[string]func(context.Context, *sql.Tx, events.Event) error{
		protoevents.Type(&paymentv1.AuthorizePayment{}): participant.Do(c.participant, c.runner, c.authorize),
		protoevents.Type(&paymentv1.VoidPayment{}):      participant.Undo(c.participant, c.runner, c.void),
		protoevents.Type(&paymentv1.CapturePayment{}):   participant.Do(c.participant, c.runner, c.capture),
		protoevents.Type(&paymentv1.RefundPayment{}):    participant.Do(c.participant, c.runner, c.refund),
	} {
		consumer.Handle(CommandTopic, typ, handler)
	}
}

func (c *Commands) authorize(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m paymentv1.AuthorizePayment
	return c.intend(ctx, tx, cmd, &m, func(b domain.Book, key string, from domain.Origin, now time.Time) (domain.Decision, error) {
		return domain.Authorize(ctx, b, key, domain.Charge{
			OrderID: m.GetOrderId(), UserID: m.GetUserId(), MethodID: m.GetPaymentMethodId(),
			Amount: int64(m.GetAmount().GetAmountMinor()), Currency: m.GetAmount().GetCurrency(),
		}, from, now)
	}, func(reason string) proto.Message {
		return &paymentv1.PaymentDeclined{OrderId: m.GetOrderId(), Reason: reason}
	})
}

func (c *Commands) capture(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m paymentv1.CapturePayment
	return c.intend(ctx, tx, cmd, &m, func(b domain.Book, key string, from domain.Origin, now time.Time) (domain.Decision, error) {
		return domain.Capture(ctx, b, key, m.GetOrderId(), int64(m.GetAmount().GetAmountMinor()), from, now)
	}, func(reason string) proto.Message {
		return &paymentv1.PaymentCaptureRefused{OrderId: m.GetOrderId(), Reason: reason}
	})
}

func (c *Commands) refund(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m paymentv1.RefundPayment
	return c.intend(ctx, tx, cmd, &m, func(b domain.Book, key string, from domain.Origin, now time.Time) (domain.Decision, error) {
		return domain.Refund(ctx, b, key, m.GetOrderId(), int64(m.GetAmount().GetAmountMinor()), from, now)
	}, func(reason string) proto.Message {
		return &paymentv1.RefundRefused{OrderId: m.GetOrderId(), Reason: reason}
	})
}

func (c *Commands) void(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
	var m paymentv1.VoidPayment
	return c.intend(ctx, tx, cmd, &m, func(b domain.Book, key string, from domain.Origin, now time.Time) (domain.Decision, error) {
		// An Undo names Do's step; what it wants of the provider has a key of its
		// own.
		return domain.Void(ctx, b, key+"/undo", m.GetOrderId(), from, now)
	}, func(string) proto.Message { return &paymentv1.PaymentVoided{OrderId: m.GetOrderId()} })
}

// intend is T1: decode, decide, and say so to the participant. answer makes the
// event for a command that is answered at once, with the reason of a refusal.
func (c *Commands) intend(ctx context.Context, tx *sql.Tx, cmd events.Event, m proto.Message,
	decide func(b domain.Book, key string, from domain.Origin, now time.Time) (domain.Decision, error), answer func(reason string) proto.Message,
) (events.Event, error) {
	if err := protoevents.Decode(cmd, m); err != nil {
		return events.Event{}, inbox.Permanent(err)
	}
	d, err := decide(store.Book(c.runner.Wrap(tx), c.runner.Dialect()), participant.StepKey(cmd), c.origin(ctx), time.Now())
	if err != nil {
		return events.Event{}, err
	}
	if d.Deferred {
		sqldb.AfterCommit(ctx, c.wake)
		return events.Event{}, participant.Deferred
	}
	reply, err := protoevents.New("", EventTopic, cmd.Key, answer(d.Refusal))
	if err != nil {
		return events.Event{}, inbox.Permanent(err)
	}
	if d.Refusal != "" {
		return reply, saga.Refuse(d.Refusal)
	}
	return reply, nil
}

// origin remembers the flow that ctx belongs to.
func (c *Commands) origin(ctx context.Context) domain.Origin {
	ids := correlation.From(ctx)
	var trace events.Event
	c.hooks.InjectInto(ctx, &trace)
	return domain.Origin{
		CorrelationID: ids.CorrelationID, CausationID: ids.CausationID, UserID: ids.UserID,
		TraceParent: trace.TraceParent, TraceState: trace.TraceState,
	}
}

// Resume returns a context that continues the flow of a claim, for the call to
// the provider and for T2.
func (c *Commands) Resume(ctx context.Context, claim domain.Claim) context.Context {
	o := claim.Intent.Origin
	ctx = correlation.With(ctx, correlation.IDs{CorrelationID: o.CorrelationID, CausationID: o.CausationID, UserID: o.UserID})
	return c.hooks.ExtractFrom(ctx, events.Event{TraceParent: o.TraceParent, TraceState: o.TraceState})
}

// Reply is the end of T2: it answers the command behind a settled intent.
func (c *Commands) Reply(ctx context.Context, tx *sql.Tx, claim domain.Claim, o domain.Outcome) error {
	order, t := claim.Intent.OrderID, c.runner.Wrap(tx)
	amount := money(claim.Intent.Amount, claim.Intent.Currency)
	do := func(key string, yes, no proto.Message) error {
		m := yes
		if o.Refused {
			m = no
		}
		reply, err := protoevents.New("", EventTopic, order, m)
		if err != nil {
			return err
		}
		return c.participant.Resolve(ctx, t, key, o.Refused, o.Reason, reply)
	}
	switch claim.Intent.Kind {
	case domain.KindAuthorize:
		return do(claim.Intent.Key, &paymentv1.PaymentAuthorized{OrderId: order, Amount: amount},
			&paymentv1.PaymentDeclined{OrderId: order, Reason: o.Reason})
	case domain.KindCapture:
		return do(claim.Intent.Key, &paymentv1.PaymentCaptured{OrderId: order, Amount: amount},
			&paymentv1.PaymentCaptureRefused{OrderId: order, Reason: o.Reason})
	case domain.KindRefund:
		return do(claim.Intent.Key, &paymentv1.RefundIssued{OrderId: order, Amount: amount},
			&paymentv1.RefundRefused{OrderId: order, Reason: o.Reason})
	case domain.KindVoid:
		return c.replyVoided(ctx, t, claim, o)
	default:
		return fmt.Errorf("payment: no reply to intent %q", claim.Intent.Kind)
	}
}

// replyVoided answers the authorisation, if nothing has, and then its undo.
func (c *Commands) replyVoided(ctx context.Context, tx sqldb.Tx, claim domain.Claim, o domain.Outcome) error {
	if o.Refused {
		// The hold cannot be let go: an operator has to look at the order, which
		// stays listed with a saga that waits.
		return nil
	}
	order, key := claim.Intent.OrderID, claim.Payment.AuthorizeKey
	var authorisation proto.Message = &paymentv1.PaymentDeclined{OrderId: order, Reason: "withdrawn"}
	if o.Held {
		authorisation = &paymentv1.PaymentAuthorized{OrderId: order, Amount: money(claim.Intent.Amount, claim.Intent.Currency)}
	}
	first, err := protoevents.New("", EventTopic, order, authorisation)
	if err != nil {
		return err
	}
	voided, err := protoevents.New("", EventTopic, order, &paymentv1.PaymentVoided{OrderId: order})
	if err != nil {
		return err
	}
	if err := c.participant.Resolve(ctx, tx, key, !o.Held, "withdrawn", first); err != nil {
		return err
	}
	return c.participant.ResolveUndo(ctx, tx, key, voided)
}

// money narrows an amount to the wire's width, which it came from.
func money(minor int64, currency string) *commonv1.Money {
	return &commonv1.Money{AmountMinor: int32(minor), Currency: currency}
}
