package resilience

import (
	"math"
	"time"
)

// gradient is the limit of a [Shedder]: Gradient2 of Netflix' concurrency-limits
// (limit × long-term latency / short-term latency, plus a queue of its root),
// over windows of samples, with a multiplicative decrease when requests time
// out. It is not safe for concurrent use.
type gradient struct {
	limit     float64
	min, max  float64
	tolerance float64

	long  float64 // long-term average of the windows' latency, ns
	short float64 // the last window's, smoothed; ns

	since    time.Time // start of the window
	sum      float64
	count    int
	timeouts int
	peak     int // most requests in service and waiting during the window
}

const (
	gradientWindow    = 100 * time.Millisecond
	gradientMinCount  = 10
	gradientMaxCount  = 1000 // close the window early under high rates
	gradientLongRatio = 2.0 / (600 + 1)
	gradientSmoothing = 0.2
	gradientDecrease  = 0.9
)

func newGradient(c ShedderConfig) gradient {
	return gradient{
		limit: float64(c.InitialLimit), min: float64(c.MinLimit), max: float64(c.MaxLimit),
		tolerance: c.Tolerance, since: time.Now(),
	}
}

func (g *gradient) sawInFlight(n int) { g.peak = max(g.peak, n) }

// serviceTime is what a request takes of late.
func (g *gradient) serviceTime() time.Duration { return time.Duration(g.short) }

func (g *gradient) sample(now time.Time, latency time.Duration, timeout bool) {
	if timeout {
		g.timeouts++
	} else {
		g.sum += float64(latency)
		g.count++
	}
	n := g.count + g.timeouts
	if n >= gradientMaxCount || n >= gradientMinCount && now.Sub(g.since) >= gradientWindow {
		g.update()
		g.since, g.sum, g.count, g.timeouts, g.peak = now, 0, 0, 0, 0
	}
}

func (g *gradient) update() {
	if g.count > 0 {
		window := max(g.sum/float64(g.count), 1)
		if g.long == 0 {
			g.long, g.short = window, window
		}
		g.short += (window - g.short) / 2
		g.long += (window - g.long) * gradientLongRatio
		// After a long overload the average has drifted up: let it come back.
		if g.long > 2*window {
			g.long *= 0.95
		}
	}
	switch {
	case g.timeouts*10 >= g.count+g.timeouts: // a tenth or more did not make it
		g.set(g.limit * gradientDecrease)
	case g.count == 0 || float64(g.peak) < g.limit/2:
		// The limit was not what bounded the load: nothing learnt.
	default:
		slope := min(max(g.tolerance*g.long/g.short, 0.5), 1)
		target := g.limit*slope + math.Sqrt(g.limit)
		g.set(g.limit*(1-gradientSmoothing) + target*gradientSmoothing)
	}
}

func (g *gradient) set(limit float64) { g.limit = min(max(limit, g.min), g.max) }
