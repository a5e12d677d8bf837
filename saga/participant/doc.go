// Package participant is the other side of a saga's commands: it answers each
// step exactly once, however often its command arrives, and keeps late commands
// from taking effect after they were undone.
//
//	p, err := participant.New(db.Dialect, box, &participant.Config{Topic: "payment"})
//	consumer.Handle("payment-commands", "shop.payment.v1.Authorize",
//		participant.Do(p, runner, func(ctx context.Context, tx *sql.Tx, cmd events.Event) (events.Event, error) {
//			… // the effect, in tx
//			return authorized, nil // the domain event that is the reply, too
//		}))
//	consumer.Handle("payment-commands", "shop.payment.v1.Void", participant.Undo(p, runner, void))
//
// The reply is an event of the participant's own domain; the package adds the
// saga's attributes, appends it to the outbox in the handler's transaction and
// stores it by Do's step key, so that a second arrival of the command gets the
// stored outcome again. Every other service may consume the same event.
//
// # Answers
//
// A handler that returns a reply has done the step. One that returns
// [saga.Refuse], with or without a reply event, has refused it: a definite no,
// committed with what the handler wrote. One that returns [Deferred] will answer
// later, through [Participant.Resolve]: it has written an intent, and an effect
// outside the database is under way. Any other error rolls back, and the
// consumer delivers the command again.
//
// # Undo
//
// An Undo writes a tombstone under Do's step key. A Do that arrives after it is
// refused; an Undo of what never happened, or was refused, succeeds without
// calling the handler. An Undo that meets a deferred Do is given to the handler,
// which records the wish (say, void_requested) and returns [Deferred]; its reply
// is sent once the effect is known absent ([Participant.Resolve] with refused)
// or has been reversed ([Participant.ResolveUndo]).
//
// # Expiry
//
// Commands carry the saga's deadline. One that arrives after it, and was not
// seen before, is refused. [Participant.Purge] forgets outcomes and tombstones;
// give it a retention well beyond every saga's deadline.
package participant
