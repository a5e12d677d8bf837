package main

func init() { areas["resilience"] = resilience }

// resilience has the bars of section 9 of the design for calls.
func resilience(r Results) []Bar {
	return []Bar{
		AtMost("pipeline-static-allocs", r.Allocs("BenchmarkPipeline/static/napkin"), 0),
	}
}
