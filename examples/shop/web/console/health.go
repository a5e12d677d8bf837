package console

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/napkin-kit/napkin/kit"
)

// patience is how long a service may take to say how it is. Its checks have two seconds each, at once.
const patience = 3 * time.Second

// healthOf is what one service says of itself.
type healthOf struct {
	Service string
	Report  kit.ReadyReport
	// Error says why there is no report.
	Error string
	Took  time.Duration
}

// newHealthClient reaches admin listeners directly, whatever the environment says of proxies.
func newHealthClient() *http.Client {
	return &http.Client{
		Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (c *console) showHealth(w http.ResponseWriter, r *http.Request) error {
	names := slices.Sorted(maps.Keys(c.admin))
	all := make([]healthOf, len(names))
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { all[i] = c.ask(ctx, name) })
	}
	wg.Wait()
	ready := 0
	for _, h := range all {
		if h.Report.Ready {
			ready++
		}
	}
	return c.site.Render(w, r, http.StatusOK, "health", struct {
		Services []healthOf
		Ready    int
	}{all, ready})
}

func (c *console) ask(ctx context.Context, name string) healthOf {
	start := time.Now()
	h := healthOf{Service: name}
	if err := c.fetch(ctx, c.admin[name], &h.Report); err != nil {
		h.Error = err.Error()
	}
	h.Took = time.Since(start).Round(time.Millisecond)
	return h
}

func (c *console) fetch(ctx context.Context, base string, into *kit.ReadyReport) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(base, "/")+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := c.health.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
		return fmt.Errorf("the service answered %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into); err != nil {
		return fmt.Errorf("the answer could not be read: %w", err)
	}
	return nil
}
