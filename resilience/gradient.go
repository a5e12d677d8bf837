package resilience

import (
	"math"
	"time"
)

// gradient is the limit of a [Shedder]: Gradient2 of Netflix' concurrency-limits
// (limit × long-term latency / short-term latency, plus a queue of its root),
// over windows of samples, with a multiplicative decrease when requests time
// out. It is not safe for concurrent use.
//
// Three things are added, since a gradient alone takes every rise of the average
// for a queue, such as the first answers of the slower handlers:
//   - While it warms up, the long-term average is the plain one of all windows,
//     and a rise of the latency holds the limit where it is.
//   - As long as nothing has ever been too much, a limit that is used up and costs
//     no latency grows by half with each window, as TCP's slow start does.
//   - Where lowering the limit has not made the requests faster, their number is
//     not what made them slow: the present latency becomes the long-term one.
type gradient struct {
	limit     float64
	min, max  float64
	tolerance float64

	long  float64 // long-term average of the windows' latency, ns
	short float64 // the last windows', smoothed; ns

	windows   int  // that were measured, up to gradientWarmUp
	slowStart bool // nothing was ever too much
	raised    rise

	since    time.Time // start of the window
	sum      float64
	count    int
	timeouts int
	peak     int // most requests in service and waiting during the window
}

// rise is a rise of the latency for which the limit is being lowered.
type rise struct {
	limit   float64 // before; 0: there is none
	latency float64 // the highest since; ns
	now     float64 // at present, smoothed over some windows
	settle  int     // windows to wait until what was admitted before has ended
}

const (
	gradientWindow    = 100 * time.Millisecond
	gradientMinCount  = 10
	gradientMaxCount  = 1000 // close the window early under high rates
	gradientLongRatio = 2.0 / (600 + 1)
	gradientSmoothing = 0.2
	gradientDecrease  = 0.9
	gradientWarmUp    = 20  // windows
	gradientSlowStart = 1.5 // growth per window
	gradientCalm      = 1.2 // short/long up to which the latency has not risen
	gradientLever     = 0.6 // how far the limit falls before it is asked what that did
	gradientUnmoved   = 0.85
)

func newGradient(c ShedderConfig) gradient {
	return gradient{
		limit: float64(c.InitialLimit), min: float64(c.MinLimit), max: float64(c.MaxLimit),
		tolerance: c.Tolerance, since: time.Now(), slowStart: true,
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
		g.update(now)
		g.since, g.sum, g.count, g.timeouts, g.peak = now, 0, 0, 0, 0
	}
}

func (g *gradient) update(now time.Time) {
	if g.count > 0 {
		g.measure(max(g.sum/float64(g.count), 1))
	}
	switch {
	case g.timeouts*10 >= g.count+g.timeouts: // a tenth or more did not make it
		g.slowStart = false
		g.set(g.limit * gradientDecrease)
	case g.count == 0 || float64(g.peak) < g.limit/2:
		// The limit was not what bounded the load: nothing learnt.
		g.raised = rise{}
	case g.tolerance*g.long >= g.short:
		g.raised = rise{}
		g.grow()
	case g.windows < gradientWarmUp:
		// The average is that of the fast ones, which answered first.
	default:
		g.slowStart = false
		g.lower(now)
	}
}

// measure takes in the average of a window.
func (g *gradient) measure(window float64) {
	if g.windows == 0 {
		g.short = window
	}
	g.short += (window - g.short) / 2
	if g.windows < gradientWarmUp {
		g.windows++
		g.long += (window - g.long) / float64(g.windows)
		return
	}
	g.long += (window - g.long) * gradientLongRatio
	// After a long overload the average has drifted up: let it come back.
	if g.long > 2*window {
		g.long *= 0.95
	}
}

func (g *gradient) grow() {
	if g.slowStart && float64(g.peak) >= g.limit*0.9 && g.short <= gradientCalm*g.long {
		g.set(g.limit * gradientSlowStart)
		return
	}
	g.set(g.limit + math.Sqrt(g.limit)*gradientSmoothing)
}

// lower follows the gradient down, unless that has been shown to be in vain.
func (g *gradient) lower(now time.Time) {
	r := &g.raised
	if r.limit == 0 {
		*r = rise{limit: g.limit, latency: g.short, now: g.short}
	}
	r.now += (g.short - r.now) / 4
	r.latency = max(r.latency, g.short)
	if g.limit > max(r.limit*gradientLever, g.min) {
		slope := max(g.tolerance*g.long/g.short, 0.5)
		target := g.limit*slope + math.Sqrt(g.limit)
		g.set(g.limit*(1-gradientSmoothing) + target*gradientSmoothing)
		// What was admitted under the former limit ends within the latency of then;
		// the smoothing takes some windows more.
		length := max(now.Sub(g.since), gradientWindow)
		r.settle = int(r.latency/float64(length)) + 8
		return
	}
	if r.settle--; r.settle > 0 {
		return
	}
	if r.now >= gradientUnmoved*r.latency {
		g.long, g.slowStart = g.short, true
	}
	*r = rise{} // or go on from here
}

func (g *gradient) set(limit float64) { g.limit = min(max(limit, g.min), g.max) }
