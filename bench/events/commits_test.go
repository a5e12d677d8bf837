package events

import (
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkCommits is what the server commits on this disk: single small inserts.
func BenchmarkCommits(b *testing.B) {
	for _, clients := range []int{1, writers} {
		b.Run(strconv.Itoa(clients), func(b *testing.B) {
			for b.Loop() {
				apart(b, func(b testing.TB) figures { return commits(b, clients) }).reportRate(b)
			}
		})
	}
}

func commits(b testing.TB, clients int) figures {
	b.Helper()
	url := database(b)
	effects(b, open(b, url))
	p := pool(b, url)
	start := time.Now()
	ends := start.Add(2 * time.Second)
	var n atomic.Int64
	errs := make(chan error, clients)
	for range clients {
		go func() {
			var err error
			for time.Now().Before(ends) && err == nil {
				_, err = p.Exec(b.Context(), `INSERT INTO effect (k, seq) VALUES ($1, $2)`, "o-1", n.Add(1))
			}
			errs <- err
		}()
	}
	for range clients {
		must(b, <-errs)
	}
	return figures{rate: float64(n.Load()) / time.Since(start).Seconds()}
}
