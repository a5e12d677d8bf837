package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sample = `goos: linux
goarch: amd64
cpu: Some CPU @ 2.10GHz
BenchmarkPipeline/static-2         	 5000000	       200 ns/op	       0 B/op	       0 allocs/op
BenchmarkPipeline/static-2         	 5000000	       300 ns/op	       0 B/op	       0 allocs/op
BenchmarkPipeline/static-2         	 5000000	       900 ns/op	       0 B/op	       0 allocs/op
BenchmarkDrain/pool-8-2            	       1	     22500 events/s	         3.5 p99-ms
BenchmarkDrain/pool-8-2            	       1	     23500 events/s	         4.5 p99-ms
BenchmarkBroken-2 	--- FAIL: BenchmarkBroken-2
Benchmark text that is none
PASS
ok  	example	12.3s
`

func TestParse(t *testing.T) {
	r, err := Parse(strings.NewReader(sample))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ got, want float64 }{
		"odd count: the one in the middle": {r.NS("BenchmarkPipeline/static"), 300},
		"allocs":                           {r.Allocs("BenchmarkPipeline/static"), 0},
		"even count: the mean of two":      {r.Metric("BenchmarkDrain/pool-8", "events/s"), 23000},
		"a metric":                         {r.Metric("BenchmarkDrain/pool-8", "p99-ms"), 4},
		"missing benchmark":                {r.NS("BenchmarkBroken"), math.NaN()},
		"missing unit":                     {r.NS("BenchmarkDrain/pool-8"), math.NaN()},
	} {
		if tc.got != tc.want && !(math.IsNaN(tc.got) && math.IsNaN(tc.want)) {
			t.Errorf("%s: %v, want %v", name, tc.got, tc.want)
		}
	}
}

func TestParseOfOneProcessor(t *testing.T) {
	r, err := Parse(strings.NewReader("BenchmarkA/pool-8 10 5 ns/op\nBenchmarkB 10 7 ns/op\n"))
	if err != nil {
		t.Fatal(err)
	}
	if r.NS("BenchmarkA/pool-8") != 5 || r.NS("BenchmarkB") != 7 {
		t.Errorf("%v", r)
	}
}

func TestParseOfNothingIsAnError(t *testing.T) {
	if _, err := Parse(strings.NewReader("PASS\nok example 0.1s\n")); err == nil {
		t.Error("no error")
	}
}

func TestBars(t *testing.T) {
	missing := Results{}.NS("Benchmark")
	for want, bar := range map[string]Bar{
		"BAR a-ns 99.5 <= 100 ok":                AtMost("a-ns", 99.5, 100),
		"BAR a-ns 100.1 <= 100 short":            AtMost("a-ns", 100.1, 100),
		"BAR a-ns 123457 >= 20000 ok":            AtLeast("a-ns", 123456.7, 20000),
		"BAR a-ratio 0.25 <= 0.25 ok":            AtMost("a-ratio", 0.25, 0.25),
		"BAR a-ns missing <= 100 short":          AtMost("a-ns", missing-3, 100),
		"BAR a-ns 10 <= missing short":           AtMost("a-ns", 10, missing+100),
		"BAR a-per-second 10 >= 5000 short":      AtLeast("a-per-second", 10, 5000),
		"BAR a-allocs 0 <= 0 ok":                 AtMost("a-allocs", 0, 0),
		"BAR a-of-an-unknown-kind 0  0 short":    {Name: "a-of-an-unknown-kind"},
		"BAR a-per-second missing >= 5000 short": AtLeast("a-per-second", missing, 5000),
	} {
		if got := bar.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Every area must speak, and be short, when nothing of it was measured.
func TestAreasWithoutMeasurementsAreShort(t *testing.T) {
	for name, area := range areas {
		bars := area(Results{})
		if len(bars) == 0 {
			t.Errorf("%s has no bars", name)
		}
		for _, b := range bars {
			if b.OK() || strings.ContainsAny(b.Name, " \t") || b.Name == "" {
				t.Errorf("%s: %q", name, b)
			}
		}
	}
}

func TestRun(t *testing.T) {
	areas["test"] = func(r Results) []Bar { return []Bar{AtMost("static-ns", r.NS("BenchmarkPipeline/static"), 300)} }
	defer delete(areas, "test")
	file := filepath.Join(t.TempDir(), "raw.txt")
	if err := os.WriteFile(file, []byte(sample), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"good":         {[]string{"-area", "test", file}, 0, "BAR static-ns 300 <= 300 ok\n"},
		"unknown area": {[]string{"-area", "cooking", file}, 2, ""},
		"no area":      {[]string{file}, 2, ""},
		"no file":      {[]string{"-area", "test"}, 2, ""},
		"absent file":  {[]string{"-area", "test", file + "x"}, 2, ""},
		"bad flag":     {[]string{"-aera", "test", file}, 2, ""},
	} {
		var out, errs strings.Builder
		if code := run(tc.args, &out, &errs); code != tc.code || out.String() != tc.want || (code != 0) != (errs.Len() > 0) {
			t.Errorf("%s: exit %d, %q, %q", name, code, out.String(), errs.String())
		}
	}
}
