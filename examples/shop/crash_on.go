//go:build crashpoints

package shop

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// This build is for crash drills. A point is named service/component/where/what.
//
// SHOP_CRASH_POINT=point#n makes the process kill itself the n-th time it comes by that point (the first
// time without #n). SHOP_CRASH_CONTROL=file says so while the process runs: it is read at every point and
// holds lines "kill point#n", counted from when the line is there, and "hold point", at which everyone who
// comes by waits until the line is gone. SHOP_CRASH_RECORD=file appends the name of a point each time it is
// passed, and "killed point#n" at the end.
const crashPoints = true

var drill = struct {
	sync.Mutex
	control, record string
	kill            string // the order that passes are counted for, point#n
	passes          int
}{
	control: os.Getenv("SHOP_CRASH_CONTROL"),
	record:  os.Getenv("SHOP_CRASH_RECORD"),
	kill:    os.Getenv("SHOP_CRASH_POINT"),
}

func crash(point string) {
	pass(point)
	for held(point) {
		time.Sleep(5 * time.Millisecond)
	}
}

// pass records that point was passed, and ends the process if its time has come.
func pass(point string) {
	drill.Lock()
	defer drill.Unlock()
	note(point)
	kill := os.Getenv("SHOP_CRASH_POINT")
	if k := orders("kill"); len(k) > 0 {
		kill = k[0]
	}
	if kill != drill.kill {
		drill.kill, drill.passes = kill, 0
	}
	name, nth, _ := strings.Cut(kill, "#")
	if name != point {
		return
	}
	drill.passes++
	if n, err := strconv.Atoi(nth); err == nil && drill.passes < n {
		return
	}
	note("killed " + kill)
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Kill() // as kill -9: nothing is flushed, nobody is told
	}
	select {} // until it takes effect; the lock keeps everyone else from passing a point
}

func held(point string) bool { return slices.Contains(orders("hold"), point) }

// orders are what the control file says after the given word.
func orders(word string) []string {
	if drill.control == "" {
		return nil
	}
	text, _ := os.ReadFile(drill.control) // not there: nothing is ordered
	var out []string
	for line := range strings.Lines(string(text)) {
		if what, ok := strings.CutPrefix(strings.TrimSpace(line), word+" "); ok {
			out = append(out, what)
		}
	}
	return out
}

func note(line string) {
	if drill.record == "" {
		return
	}
	f, err := os.OpenFile(drill.record, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		fmt.Fprintln(os.Stderr, "SHOP_CRASH_RECORD:", err)
		return
	}
	fmt.Fprintln(f, line)
	f.Close()
}
