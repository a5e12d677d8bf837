//go:build crashpoints

package shop

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
)

// This build is for crash drills. SHOP_CRASH_POINT=service/component/where/what#n makes the process kill
// itself the n-th time it comes by that point (the first time without #n). SHOP_CRASH_RECORD=file appends
// the name of every point, the first time it is passed.
const crashPoints = true

var drill = struct {
	sync.Mutex
	point string
	nth   int
	seen  map[string]int
	file  string
}{seen: map[string]int{}, point: os.Getenv("SHOP_CRASH_POINT"), nth: 1, file: os.Getenv("SHOP_CRASH_RECORD")}

func init() {
	if p, n, ok := strings.Cut(drill.point, "#"); ok {
		drill.point = p
		drill.nth, _ = strconv.Atoi(n)
	}
}

func crash(point string) {
	drill.Lock()
	defer drill.Unlock()
	drill.seen[point]++
	if drill.file != "" && drill.seen[point] == 1 {
		if f, err := os.OpenFile(drill.file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintln(f, point)
			f.Close()
		}
	}
	if point != drill.point || drill.seen[point] != drill.nth {
		return
	}
	if self, err := os.FindProcess(os.Getpid()); err == nil {
		_ = self.Kill() // as kill -9: nothing is flushed, nobody is told
	}
	select {} // until it takes effect; the lock keeps everyone else from passing a point
}
