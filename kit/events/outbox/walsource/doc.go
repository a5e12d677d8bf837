// Package walsource hands an outbox's relay what PostgreSQL's logical decoding
// tells of it: the rows of each transaction, in the order of the commits, as soon
// as they are in the write-ahead log, whichever process wrote them.
//
//	source, err := walsource.New(db, url, nil)
//	…
//	err = source.Check(ctx) // says what the server lacks
//	…
//	relay, err := outbox.NewRelay(db, ob, broker, &outbox.RelayConfig{Source: source})
//	err = relay.Run(ctx)
//
// # What it is for
//
// The relay reads the tables less, and hears of other processes' commits without
// NOTIFY and without waiting for its poll. What is promised stays the same with and
// without it, for the tables stay what counts: the relay publishes what the source
// hands over, keeps its cursors and holes, and polls the tables behind the source.
// So a service may change from one to the other at any deployment, and a source
// that fails costs the latency of the poll.
//
// # What the server needs
//
// wal_level = logical, which takes a restart; a free replication slot and sender
// (max_replication_slots, max_wal_senders). The role in the URL needs REPLICATION.
// The role of db makes the publication, so it needs the ownership of the outbox's
// tables and CREATE on the database; or make it beforehand:
//
//	CREATE PUBLICATION napkin_outbox FOR TABLE napkin_outbox_0, napkin_outbox_1,
//		napkin_outbox_2, napkin_outbox_3 WITH (publish = 'insert')
//
// The URL leads to the primary, and not through a pooler. Where
// synchronous_standby_names is *, name the standbys instead: the source's
// connection would count as one.
//
// # One slot, one reader
//
// The relay that holds the outbox's partitions reads the slot; the others wait for
// its lease. A successor ends a predecessor's connection that the server still
// believes in, for which db's role must be the one in the URL or have
// pg_signal_backend; otherwise it goes by the tables until the server notices
// (wal_sender_timeout).
//
// # Bounded lag
//
// A slot keeps the write-ahead log from its position on. The position follows what
// is published and recorded, and while the outbox is idle what others write. Where
// the slot keeps more than [Config.MaxLag], because the relay does not keep up or a
// transaction has been open for long, the source raises [Hooks].Alarm, gives the
// slot up and makes it anew; the tables, which have it all, are read meanwhile.
// While no relay runs only the server can do so: set max_slot_wal_keep_size. A slot
// that was lost to it, or dropped, is made anew likewise. SlotLag in
// outbox.ReadBacklog shows the lag. Before you stop using the source for good, call
// [Drop].
package walsource
