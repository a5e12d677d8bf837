// Package outbox publishes events if and only if the transaction that they
// belong to commits.
//
// [Outbox.Append] inserts the event in the caller's own transaction. A [Relay]
// reads what was committed and hands it to the broker, in the order of each key,
// until the broker has acknowledged it.
//
//	err := migrate.Up(ctx, db, outbox.Set, outbox.Migrations(db.Dialect))
//	ob, err := outbox.New(db.Dialect, "order", nil)
//	…
//	err = sqldb.InTx(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
//		if _, err := tx.ExecContext(ctx, `INSERT INTO orders …`); err != nil {
//			return err
//		}
//		return ob.Append(ctx, tx, events.Event{Type: "shop.order.v1.OrderCreated", Topic: "orders", Key: id, Data: data})
//	})
//	…
//	relay, err := outbox.NewRelay(db, ob, broker, nil)
//	err = relay.Run(ctx) // until ctx ends
//
// # What is promised
//
// Every committed event is published at least once, and those of one topic and
// key in the order of their commits. An event may be published again after a
// crash or a failure, so consumers use an inbox. Append makes the writers of one
// key take turns until they commit, and counts them in KeySeq.
//
// # Many relays
//
// Any number of relays may run on one outbox; every replica of a service runs one.
// They share the partitions in blocks ([RelayConfig.Blocks]) by leases in the
// database, evenly. Every record of progress names the epoch of its block, so a
// relay that was paused past its lease can record nothing there; what it may still
// publish is a copy of what its successor published, which inboxes drop. A relay
// that stops hands over at once; one that dies is replaced after
// [RelayConfig.LeaseTTL].
//
// # No event is lost between two commits
//
// On PostgreSQL ids are handed out before transactions commit, so a reader that
// has seen id 7 may meet id 6 later. The relay publishes 7 at once, and keeps 6
// as a hole that it reads again on every pass. It forgets the hole only once all
// transactions that can have taken the id have ended, in whichever database of
// the server: that delays the forgetting, never the publishing. The holes are
// persisted with the cursor; ids, cursors and holes are each partition's own. On
// SQLite one writer at a time means that ids are in the order of commits, and
// there are no holes.
//
// # Wake-ups
//
// A relay looks at once where its own process has committed, and every
// [RelayConfig.Poll] anyway. For the commits of other processes give it
// [RelayConfig.Listen]: they are notified of, many at a time, outside of the
// writers' transactions (see [Outbox.Notify]).
//
// # Failures
//
// Nothing is passed by for good. An event that the broker refuses, or that fails
// while others of its topic come through, stops its key: it and the later events
// of its key move to a list that is tried again with a growing wait, while the
// other keys go on. [ReadStalled] shows them, [DiscardStalled] gives one up. A
// topic that takes nothing, or too slowly ([RelayConfig.SlowTopic]), falls behind
// by itself and is published beside the others, in order, until it has caught up.
//
// # Brokers that lose events
//
// NATS JetStream acknowledges before its disk has synced, so a power failure may
// take acknowledged events from it. Rows are kept for [Config.Retention] after
// they were published. Where the publisher is an events.Log, the relay remembers
// the identity of each topic's log and the sequences it acknowledged; a log that
// was made anew, or that ends below them, makes it publish again from the point
// up to which the log is known to be whole, in the blocks that are concerned.
//
// # PostgreSQL
//
// The tables are found by the connection's search_path: to have them in a schema
// of their own, migrate and connect with search_path set to it. Rows are in a
// ring of four tables, with the view napkin_outbox over them; the relay's role
// needs the privilege to TRUNCATE them. Rows come from the tables; a [Source] may
// hand them over earlier.
//
// # Errors
//
// events.ErrInvalid: Append refuses the event. [ErrNotStalled]: there is nothing
// to discard.
//
// # Telemetry
//
// [RelayHooks] report every event, every record of progress and every block taken
// or lost; [ReadBacklog] gives the numbers to watch. Package outboxtest is the
// suite that the outbox passes.
package outbox
