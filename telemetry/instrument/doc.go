// Package instrument makes the hooks that let telemetry see what the packages of this
// module do: events, outbox, inbox, saga and resilience know nothing of telemetry
// themselves. It needs OpenTelemetry's API only, so it works with any SDK.
//
//	ins, err := instrument.New(tel) // *telemetry.Telemetry, or anything with its three providers
//
//	ob, err := outbox.New(db.Dialect, "order", &outbox.Config{Hooks: ins.Events()})
//	relay, err := outbox.NewRelay(db, ob, broker, &outbox.RelayConfig{Hooks: ins.Relay()})
//	consumer, err := inbox.NewConsumer("payments", db, runner, broker, &inbox.ConsumerConfig{
//		EventHooks: ins.Events(), Hooks: ins.Consumer(),
//	})
//	coordinator, err := saga.NewCoordinator(store, &saga.Config{Hooks: ins.Saga()})
//	dests, err := resilience.NewDestinations(&resilience.DestinationsConfig{Hooks: ins.Resilience()})
//
// # One trace, one correlation ID
//
// An event carries the trace context of the transaction that appended it, and whoever
// handles it continues that trace, however much later. So one trace leads from the
// customer's request through every event it caused, and each span in it has the
// attribute napkin.correlation_id.
//
// # Metrics
//
// Names of OpenTelemetry's semantic conventions where there is one, else under
// "napkin."; the constants of this package are the list. Durations are in seconds.
package instrument
