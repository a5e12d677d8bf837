package kit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// checkTimeout bounds one readiness check.
const checkTimeout = 2 * time.Second

// readiness holds the named checks of one service.
type readiness struct {
	mu     sync.Mutex
	checks []check
	last   []CheckResult // of the last run
}

type check struct {
	name string
	fn   func(context.Context) error
}

// CheckResult is one line of /readyz.
type CheckResult struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	// Error says what is wrong, for an operator.
	Error string `json:"error,omitempty"`
	// Milliseconds is how long the check took.
	Milliseconds float64 `json:"ms"`
}

func (r *readiness) add(name string, fn func(context.Context) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = slices.DeleteFunc(r.checks, func(c check) bool { return c.name == name })
	r.checks = append(r.checks, check{name, fn})
}

// run runs all checks at once and returns the results by name.
func (r *readiness) run(ctx context.Context) (results []CheckResult, ok bool) {
	r.mu.Lock()
	checks := slices.Clone(r.checks)
	r.mu.Unlock()
	results = make([]CheckResult, len(checks))
	var wg sync.WaitGroup
	for i, c := range checks {
		wg.Go(func() { results[i] = c.run(ctx) })
	}
	wg.Wait()
	slices.SortFunc(results, func(a, b CheckResult) int { return strings.Compare(a.Name, b.Name) })
	r.mu.Lock()
	r.last = results
	r.mu.Unlock()
	return results, !slices.ContainsFunc(results, func(r CheckResult) bool { return !r.OK })
}

// latest are the results of the last run, not to be changed.
func (r *readiness) latest() []CheckResult {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last
}

func (c check) run(ctx context.Context) CheckResult {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	start := time.Now()
	err := c.call(ctx)
	res := CheckResult{Name: c.name, OK: err == nil, Milliseconds: float64(time.Since(start).Microseconds()) / 1000}
	if err != nil {
		res.Error = err.Error()
	}
	return res
}

func (c check) call(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the check panicked: %v", r)
		}
	}()
	return c.fn(ctx)
}

// identityValid is the built-in check: a service whose certificate has run out can
// neither call nor be called.
func (s *Service) identityValid(context.Context) error {
	svid, err := s.identity.GetX509SVID()
	if err != nil {
		return err
	}
	if len(svid.Certificates) == 0 {
		return errors.New("the SVID holds no certificate")
	}
	if until := svid.Certificates[0].NotAfter; time.Now().After(until) {
		return fmt.Errorf("the SVID expired at %s: the issuer does not renew it", until.Format(time.RFC3339))
	}
	return nil
}

func (s *Service) isDraining() bool {
	select {
	case <-s.draining:
		return true
	default:
		return false
	}
}
