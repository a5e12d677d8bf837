package kit

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// workers runs the functions given to Service.Go. They start together, and stop
// together when their context ends.
type workers struct {
	ctx    context.Context
	cancel context.CancelFunc
	failed chan error // the first failure

	mu      sync.Mutex
	started bool
	waiting []worker
	running map[*worker]bool
	wg      sync.WaitGroup
}

type worker struct {
	name string
	fn   func(context.Context) error
}

func (w *workers) init() {
	w.ctx, w.cancel = context.WithCancel(context.Background())
	w.failed = make(chan error, 1)
	w.running = make(map[*worker]bool)
}

func (w *workers) add(name string, fn func(context.Context) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.started {
		w.waiting = append(w.waiting, worker{name, fn})
		return
	}
	w.launch(worker{name, fn})
}

func (w *workers) start() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.started = true
	for _, one := range w.waiting {
		w.launch(one)
	}
	w.waiting = nil
}

// launch needs w.mu. After stop it does nothing: the process is on its way out.
func (w *workers) launch(one worker) {
	if w.ctx.Err() != nil {
		return
	}
	w.running[&one] = true
	w.wg.Go(func() {
		err := one.run(w.ctx)
		w.mu.Lock()
		delete(w.running, &one)
		w.mu.Unlock()
		if err != nil && w.ctx.Err() == nil {
			select {
			case w.failed <- err:
			default: // the first failure stops the service
			}
		}
	})
}

func (one *worker) run(ctx context.Context) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("kit: worker %q panicked: %v\n%s", one.name, r, debug.Stack())
		}
	}()
	if err := one.fn(ctx); err != nil {
		return fmt.Errorf("kit: worker %q: %w", one.name, err)
	}
	return nil
}

// stop ends the workers and waits for them, at most for limit.
func (w *workers) stop(limit time.Duration) error {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	done := make(chan struct{})
	go func() {
		w.wg.Wait()
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
		return nil
	case <-timer.C:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for one := range w.running {
		names = append(names, one.name)
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return errors.New("kit: workers did not stop within " + limit.String() + ": " + strings.Join(names, ", "))
}
