// Package sagatest tries a saga definition against what can go wrong.
//
// [Explore] runs the definition under every combination of step outcomes: done,
// refused, answered only after a second attempt, answered too late, never
// answered. [Crash] kills the coordinator before and after every commit it makes
// and resumes with another. Each run must end completed, every effect once, or
// compensated, every effect undone once and in reverse order; your own Check
// adds what your tables must show.
//
//	func TestCheckout(t *testing.T) {
//		cfg := sagatest.Config[Checkout]{
//			Open: openDatabase, // a fresh one with your tables
//			New: func(t testing.TB, db *sqldb.DB) sagatest.Case[Checkout] {
//				return sagatest.Case[Checkout]{Definition: definition(db), State: Checkout{…}, Check: check}
//			},
//		}
//		sagatest.Explore(t, cfg)
//		sagatest.Crash(t, cfg)
//	}
//
// Participants of commands are simulated: they keep outcomes and tombstones as
// package participant does. Local steps run on the database, calls against the
// fakes your definition was built with.
//
// What a call or a local step really did, only a Check can see. That each
// function ran, and ran in order, is known here; whether it had its effect, or
// took it back, is not: an Undo that is empty returns nil and passes for one
// that worked. Let the fakes keep what was done, and have Check compare it with
// how the saga ended.
//
// Runs are deterministic: one goroutine, a
// clock that only moves when nothing else can. Combinations with fewer faults
// come first, so the first failure is the simplest.
package sagatest
