package main

import (
	"bufio"
	"errors"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Results holds the measurements of a file by benchmark and unit, one per run.
type Results map[string]map[string][]float64

// NS is the median of ns/op, NaN if the benchmark is missing. Arithmetic keeps
// NaN, so a bar computed from it is short.
func (r Results) NS(benchmark string) float64 { return r.Metric(benchmark, "ns/op") }

// Allocs is the median of allocs/op, NaN if it is missing.
func (r Results) Allocs(benchmark string) float64 { return r.Metric(benchmark, "allocs/op") }

// Metric is the median of a unit, such as one that b.ReportMetric wrote; NaN if
// it is missing.
func (r Results) Metric(benchmark, unit string) float64 {
	v := slices.Sorted(slices.Values(r[benchmark][unit]))
	if len(v) == 0 {
		return math.NaN()
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Parse reads the benchmark lines of `go test -bench`, in the format of
// golang.org/design/14313-benchmark-format, and skips all others. The suffix of
// GOMAXPROCS ("-2") is taken off the names.
func Parse(in io.Reader) (Results, error) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	raw := Results{}
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		if _, err := strconv.ParseUint(fields[1], 10, 64); err != nil {
			continue // a log line that happens to begin so
		}
		values := raw[fields[0]]
		if values == nil {
			values = map[string][]float64{}
			raw[fields[0]] = values
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				break
			}
			values[fields[i+1]] = append(values[fields[i+1]], v)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(raw) == 0 {
		return nil, errors.New("no benchmark line in it: give it the raw output of go test -bench")
	}
	return withoutProcs(raw), nil
}

// withoutProcs takes the suffix of GOMAXPROCS off, which all names have in
// common or none has: "pool-8" keeps its 8.
func withoutProcs(raw Results) Results {
	suffix, first := "", true
	for name := range raw {
		own := ""
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			if _, err := strconv.ParseUint(name[i+1:], 10, 32); err == nil {
				own = name[i:]
			}
		}
		if !first && own != suffix {
			return raw
		}
		suffix, first = own, false
	}
	r := make(Results, len(raw))
	for name, values := range raw {
		r[strings.TrimSuffix(name, suffix)] = values
	}
	return r
}
