package main

func init() { areas["idempotency"] = idempotency }

// idempotency has the bars of section 9 of the design for idempotent writes. The
// ratios are of operations that took turns in one run, so that they had the same
// disk.
func idempotency(r Results) []Bar {
	const turns = "BenchmarkPostgresInTurns"
	return []Bar{
		AtMost("idempotency-transactional-postgres-x-bare", r.Metric(turns, "transactional/bare"), 1.4),
		AtMost("idempotency-leased-postgres-x-bare", r.Metric(turns, "leased/bare"), 2.2),
		AtMost("idempotency-memory-ns", r.NS("BenchmarkMemory/napkin"), 2000),
	}
}
