// Package inbox applies each event to a service's database once, in the order of
// its key, whatever the broker and the process do meanwhile.
//
// A [Consumer] receives from the broker and opens a transaction for what is there,
// one event or several. Its first statement marks them as handled; the handlers
// add the effects and the outgoing events; the acknowledgements follow the commit.
// A crash before the commit leaves nothing behind, one after it brings the events
// again, and the marks tell.
//
//	err := migrate.Up(ctx, db, inbox.Set, inbox.Migrations(db.Dialect))
//	c, err := inbox.NewConsumer("inventory", db, sqldb.Std(db), broker, nil)
//	c.Handle("orders", "shop.order.v1.OrderCreated", func(ctx context.Context, tx *sql.Tx, e events.Event) error {
//		var created orderv1.OrderCreated
//		if err := protoevents.Decode(e, &created); err != nil {
//			return inbox.Permanent(err)
//		}
//		return store.Reserve(ctx, tx, &created) // and outbox.Append, in the same tx
//	})
//	err = c.Run(ctx) // until ctx ends
//
// # Order
//
// Events of one topic and key are handled one after another; different keys side
// by side, up to [ConsumerConfig.Concurrency]. Replicas run the same consumer and
// share its blocks of keys ([ConsumerConfig.Blocks]) by leases in the database.
// When another takes a block over, the broker starts again right behind the oldest
// event of it that was not acknowledged, so nothing overtakes what the other left
// half done; the marks sort out what it had finished.
//
// A topic whose numbers matter can be declared [Strict] or [Latest].
//
// # Shared transactions
//
// The heads of several keys, and consecutive events of one, share a transaction
// where they are ready at the same time ([ConsumerConfig.Batch]); it is never
// waited for more. If one fails, nothing of the transaction is kept and each is
// handled alone: a handler may be called once more than its event has failures.
// [Consumer.HandleBatch] takes them at once, for a statement that writes all.
//
// # Failures
//
// What a handler returns decides. An error counts against the event, in a table:
// it is tried again after a growing wait, in process, while later events of its
// key wait behind it and other keys go on. After [ConsumerConfig.MaxAttempts], or
// at once for [Permanent], it becomes a dead letter, and its key is parked: later
// events join the list behind it. [Consumer.Redrive] or [Consumer.Drop] lets the
// key go on, in order.
//
// An error marked by [Infrastructure] and a database that does not answer say
// nothing about the event. They count for nothing; the whole consumer pauses and
// tries again. A deadlock, a serialization failure and an attempt that ran out of
// time before its handler was called count for nothing either: that one event is
// tried again. A handler that takes longer than [ConsumerConfig.HandlerTimeout]
// while the database answers has failed.
//
// An event that does not decode becomes a dead letter with whatever could be
// read of it.
//
// # Errors
//
// [ErrNotDead]: there is no such dead letter to act on.
//
// # Telemetry
//
// [Hooks] report each step of each event; [ReadDeadLetters] lists what needs an
// operator, with the times and causes of its failures, as `napkin events list` does.
package inbox
