// Package sqlsaga keeps sagas in the service's own database, PostgreSQL or
// SQLite.
//
//	err := migrate.Up(ctx, db, sqlsaga.Set, sqlsaga.Migrations(db.Dialect))
//	store, err := sqlsaga.New(db, nil)
//	coordinator, err := saga.NewCoordinator(store, cfg)
//
// An instance is one row: its state, its progress as one JSON document, and
// what the coordinators look for. Its history is kept beside it, insert-only.
// Writes are guarded by the row's lock and its revision.
//
// On PostgreSQL any number of coordinators, in many processes, may share the
// tables. A SQLite file belongs to one process.
package sqlsaga
