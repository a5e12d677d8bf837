package main

func init() { areas["resilience"] = resilience }

// resilience has the bars of calls: the pipeline (retry, budget, breaker and
// bulkhead, a function that does nothing) beside gobreaker and failsafe-go,
// what the adapters add to what is below them, and the price of a refusal.
func resilience(r Results) []Bar {
	static := r.NS("BenchmarkPipeline/static/napkin")
	parallel := r.NS("BenchmarkParallelPipeline/static/napkin")
	// added is what an adapter adds to its base, deadlines on.
	added := func(of func(string) float64, benchmark string) float64 {
		return of(benchmark+"/napkin") - of(benchmark+"/base")
	}
	// share is what a refusal costs of a success of the same.
	share := func(refused, served string) float64 { return r.NS(refused) / r.NS(served) }
	return []Bar{
		AtMost("pipeline-static-allocs", r.Allocs("BenchmarkPipeline/static/napkin"), 0),
		AtMost("pipeline-static-ns", static, r.NS("BenchmarkPipeline/static/gobreaker-alone")+100),
		AtMost("pipeline-static-parallel-ns", parallel, r.NS("BenchmarkParallelPipeline/static/gobreaker-alone")+100),
		AtMost("pipeline-static-of-failsafe-ratio", static/r.NS("BenchmarkPipeline/static/failsafe"), 0.25),
		AtMost("pipeline-static-parallel-of-failsafe-ratio", parallel/r.NS("BenchmarkParallelPipeline/static/failsafe"), 0.25),
		AtMost("roundtripper-adds-ns", added(r.NS, "BenchmarkRoundTripper"), 600),
		AtMost("roundtripper-adds-allocs", added(r.Allocs, "BenchmarkRoundTripper"), 4),
		AtMost("grpc-client-adds-ns", added(r.NS, "BenchmarkUnaryClient"), 500),
		AtMost("grpc-client-adds-allocs", added(r.Allocs, "BenchmarkUnaryClient"), 4),
		AtMost("rejected-open-of-served-ratio", share("BenchmarkRejected/open/napkin", "BenchmarkServed/open/napkin"), 1),
		AtMost("rejected-full-of-served-ratio", share("BenchmarkRejected/full/napkin", "BenchmarkServed/full/napkin"), 1),
		AtMost("rejected-limited-of-served-ratio", share("BenchmarkRejected/limited/napkin", "BenchmarkServed/limited/napkin"), 1),
		// A spent budget refuses after an attempt was made and has failed: its price
		// is what it adds to such a call.
		AtMost("rejected-budget-of-served-ratio",
			(r.NS("BenchmarkRejected/budget/napkin")-r.NS("BenchmarkRejected/failed/napkin"))/r.NS("BenchmarkServed/budget/napkin"), 1),
		AtMost("rejected-roundtripper-of-served-ratio", share("BenchmarkRejectedRoundTripper/napkin", "BenchmarkRoundTripper/napkin"), 1),
		AtMost("rejected-grpc-client-of-served-ratio", share("BenchmarkRejectedUnaryClient/napkin", "BenchmarkUnaryClient/napkin"), 1),
	}
}
