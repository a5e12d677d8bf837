// Package events is how services tell each other what happened: CloudEvents 1.0
// over a broker, written and read in the transactions of each service's own
// database.
//
// An [Event] is the envelope: CloudEvents attributes, correlation and causation
// IDs, the W3C trace context, and a key by which order is kept. A [Broker] moves
// it. Between the database and the broker stand two packages:
//
//   - outbox: [github.com/napkin-kit/napkin/kit/events/outbox] writes events in
//     the transaction that changes the business row; a relay publishes them after
//     the commit. An event is published if and only if its transaction committed.
//   - inbox: [github.com/napkin-kit/napkin/kit/events/inbox] marks each event as
//     handled in the transaction of its effect, so that a redelivery has none.
//
// The broker may lose its connection, restart, deliver twice or deliver late;
// the two tables make of it: each event's effect once, in the order of its key.
//
//	// one transaction: the business row and its event
//	err := sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
//		if _, err := tx.ExecContext(ctx, `INSERT INTO orders …`); err != nil {
//			return err
//		}
//		e, err := protoevents.New("", "orders", order.ID, &orderv1.OrderCreated{…})
//		if err != nil {
//			return err
//		}
//		return ob.Append(ctx, tx, e)
//	})
//
// # Brokers
//
// natsevents speaks to NATS JetStream, kafkaevents to Kafka, watermillevents to
// what Watermill has a driver for (SNS with SQS, Google Pub/Sub), memevents lives
// in memory, for tests. How they differ is a value, [Features].
// eventstest.TestBroker is the suite that each of them passes, and that yours can.
//
// # Errors
//
// [ErrInvalid] is an event that breaks the rules. [ErrRejected] is one that the
// broker refuses for good. A [*PublishError] says which events of a call were
// not acknowledged.
//
// # Telemetry
//
// [Hooks] carry the trace context through an event. The outbox and the inbox
// have hooks of their own for spans and metrics.
package events
