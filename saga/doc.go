// Package saga runs sagas: sequences of steps in several services that either
// all happen or are all undone, without a transaction across the services.
//
// It is a library in the service's process and durable in the service's own
// database: a saga starts, moves on and ends in the same transactions as the
// service's rows, its inbox marks and its outgoing events.
//
// # Defining
//
// A [Definition] is a list of steps over a state of your own:
//
//	checkout := saga.Definition[Checkout]{
//		Name:     "checkout",
//		Deadline: time.Minute,
//		Steps: []saga.Step[Checkout]{
//			saga.Parallel[Checkout]("prepare",
//				&saga.Command[Checkout]{Name: "reserve-stock", Do: reserve, Undo: release},
//				&saga.Command[Checkout]{Name: "authorize-payment", Do: authorize, Undo: void},
//			),
//			&saga.Command[Checkout]{Name: "capture-payment", Kind: saga.Pivot, Do: capture},
//			&saga.Local[Checkout]{Name: "confirm-order", Kind: saga.Retriable, Do: confirm},
//		},
//	}
//
// Every step is [Compensatable], the [Pivot] or [Retriable], in this order;
// [Register] refuses a definition that breaks the rule and says how to mend it.
// A [Command] asks another service by events, a [Call] by a remote call, a
// [Local] writes in the service's own database, a [Timer] and a [Signal] wait.
//
// # Running
//
//	store, err := sqlsaga.New(db, nil)
//	coordinator, err := saga.NewCoordinator(store, &saga.Config{Outbox: box})
//	checkouts, err := saga.Register(coordinator, checkout)
//	go coordinator.Run(ctx)
//	…
//	err = checkouts.Start(ctx, tx, orderID, Checkout{…}) // in your transaction
//
// Replies come in through [Coordinator.HandleReply], an inbox handler. The
// other side of commands is package participant.
//
// # What is guaranteed
//
// An undo is owed from the moment a step is attempted, not once it succeeded:
// an attempt whose answer was lost may have happened. Only a refusal ([Refuse])
// owes none. Undos run in reverse, those of a group together.
//
// Recording the result of one step and the attempt of the next is one commit,
// before the next is called. Each attempt of a step has the same [StepKey].
//
// The deadline and [Handle.Cancel] compensate until the pivot is attempted.
// From then on they set a flag: the pivot is tried again until its outcome is
// known. [CancelRequested] tells OnCompleted of a cancellation that came too
// late, so that it can start the saga that makes up for it in the same
// transaction.
//
// A saga that cannot go on by itself is stuck: a state that one can list, alert
// on ([Hooks].Stuck) and operate: [Coordinator.Retry], [Coordinator.Skip],
// [Coordinator.Compensate], each kept in the history with its operator. A late
// reply to the step it is stuck at moves it on by itself. [Coordinator.Console]
// shows all of this.
//
// # Many replicas
//
// Any number of coordinators may share one PostgreSQL database. An instance
// that waits belongs to nobody: whoever receives the reply or meets the time
// moves it on, under its row's lock and revision. Only calls in flight have an
// owner, a node that shows its heartbeat in the database. The calls of a dead
// node are taken over under a higher fencing epoch, so what a paused one still
// writes is refused ([Hooks].Fenced). On SQLite one process owns the file.
//
// # Errors
//
// [ErrExists], [ErrNotFound], [ErrNotServed], [ErrNotStuck], [ErrPastPivot] and
// [ErrDefinition] are for errors.Is. In steps, [Refuse] is a definite no, [Pause]
// marks a local rejection that is no attempt, and any other error is ambiguous.
//
// # Sources
//
// Garcia-Molina and Salem, Sagas (SIGMOD 1987); Richardson, Microservices
// Patterns, chapter 4 (compensatable, pivot and retriable transactions); fencing
// after Gray and Cheriton, Leases (SOSP 1989).
package saga
