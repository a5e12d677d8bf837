package main

func init() { areas["events"] = eventsArea }

// eventsArea has the bars of section 9 of the design for the way from an outbox to
// a committed effect. Shares are of drains that took turns in one run.
func eventsArea(r Results) []Bar {
	const turns = "BenchmarkDrainInTurns"
	drain := r.Metric(turns, "plain-events/s")
	watermill := func(form string) float64 { return r.Metric("BenchmarkWatermillSQL/"+form, "events/s") }
	return []Bar{
		AtLeast("events-drain-per-second", drain, 20_000),
		AtLeast("events-live-16-writers-per-second", r.Metric("BenchmarkLive/full", "events/s"), 8_000),
		AtMost("events-p99-at-1000-per-second-ms", r.Metric("BenchmarkLive/paced", "p99-ms"), 20),
		AtLeast("events-drain-retained-of-plain-ratio", r.Metric(turns, "retained/plain"), 0.9),
		AtLeast("events-drain-snapshot-of-plain-ratio", r.Metric(turns, "snapshot/plain"), 0.9),
		// What our drain does: a mark and an effect in another database.
		AtLeast("events-drain-x-watermill-sql-to-another-database", drain/watermill("drain-another-database"), 10),
		// An effect in the database of the messages, in their own transaction.
		AtLeast("events-drain-x-watermill-sql-in-the-same-database", drain/watermill("drain-same-database"), 10),
	}
}
