// Package lease shares work between the replicas of a service through the
// service's own database, with fencing epochs. Outbox relays and saga
// coordinators use it.
//
// # Nodes
//
// Each process that takes part is a node with one heart-beat row, under an id
// that is never used again. [Run] keeps the row alive and calls the work; when
// the node may have been taken for dead, the work's context ends with [ErrLost],
// and once the work has returned Run joins again under a new id.
//
// A node is dead once its row is gone: expired rows are deleted by whoever
// meets them, and only then may what the node held be taken. A row that has
// expired is never revived. Owners of rows of their own (a saga instance, say)
// store the node's id beside an epoch, and take over where
//
//	node <> '' AND NOT EXISTS (SELECT 1 FROM napkin_nodes n WHERE n.node = saga.node)
//
// raising the epoch in the same statement.
//
// # Leases
//
// [Node.Claim] takes named leases, and [Node.Share] keeps a fair share of them.
// A [Lease] carries an epoch that rises each time the lease changes hands.
// No heart-beat can stop a process that was paused from writing when it
// resumes; the epoch does: write it beside the data and refuse a lower one, or
// call [Lease.Guard] in the transaction that writes.
//
// Time is the database's clock, so replicas' clocks need not agree.
package lease
