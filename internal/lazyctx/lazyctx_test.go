package lazyctx

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type key struct{}

func TestDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent := context.WithValue(t.Context(), key{}, "v")
		var c Context
		c.Init(parent, time.Now().Add(time.Second))
		if d, ok := c.Deadline(); !ok || time.Until(d) != time.Second {
			t.Errorf("deadline %v, %t", d, ok)
		}
		if c.Value(key{}) != "v" {
			t.Error("the parent's value is gone")
		}
		child, cancel := context.WithCancel(&c) // on no goroutine of its own: synctest would see it
		defer cancel()
		time.Sleep(time.Second)
		synctest.Wait()
		if !errors.Is(c.Err(), context.DeadlineExceeded) || !errors.Is(child.Err(), context.DeadlineExceeded) {
			t.Errorf("%v, child %v", c.Err(), child.Err())
		}
		if c.Value(key{}) != "v" {
			t.Error("the parent's value is gone once watched")
		}
		c.Cancel()
	})
}

// Polled and never watched, it ends all the same.
func TestErrWithoutDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancelParent := context.WithCancel(t.Context())
		var late, cancelled, orphan Context
		for _, c := range []*Context{&late, &cancelled, &orphan} {
			c.Init(parent, time.Now().Add(time.Second))
			if c.Err() != nil {
				t.Fatal(c.Err())
			}
		}
		cancelled.Cancel()
		if !errors.Is(cancelled.Err(), context.Canceled) {
			t.Errorf("cancelled: %v", cancelled.Err())
		}
		time.Sleep(time.Second)
		if !errors.Is(late.Err(), context.DeadlineExceeded) {
			t.Errorf("late: %v", late.Err())
		}
		<-late.Done()
		cancelParent()
		if !errors.Is(orphan.Err(), context.Canceled) {
			t.Errorf("orphan: %v", orphan.Err())
		}
		late.Cancel()
		orphan.Cancel()
	})
}

func TestDeadlineIsTheEarlierOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		parent, cancel := context.WithDeadline(t.Context(), now.Add(time.Second))
		defer cancel()
		var c Context
		c.Init(parent, now.Add(time.Minute))
		if d, _ := c.Deadline(); !d.Equal(now.Add(time.Second)) {
			t.Errorf("deadline %v, want the parent's", d)
		}
		c.Cancel()
	})
}

func TestParentCancels(t *testing.T) {
	for name, watchFirst := range map[string]bool{"watched before": true, "watched after": false} {
		t.Run(name, func(t *testing.T) {
			parent, cancel := context.WithCancelCause(t.Context())
			var c Context
			c.Init(parent, time.Time{})
			defer c.Cancel()
			if watchFirst {
				_ = c.Done()
			}
			cause := errors.New("cause")
			cancel(cause)
			<-c.Done()
			if !errors.Is(c.Err(), context.Canceled) || !errors.Is(context.Cause(&c), cause) {
				t.Errorf("%v because of %v", c.Err(), context.Cause(&c))
			}
		})
	}
}

func TestCancel(t *testing.T) {
	for name, watchFirst := range map[string]bool{"watched before": true, "watched after": false} {
		t.Run(name, func(t *testing.T) {
			var c Context
			c.Init(t.Context(), time.Now().Add(time.Hour))
			if watchFirst {
				_ = c.Done()
			}
			c.Cancel()
			c.Cancel()
			<-c.Done()
			if !errors.Is(c.Err(), context.Canceled) {
				t.Error(c.Err())
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Context
		c.InitTimeout(t.Context(), time.Now().Add(time.Second))
		if _, ok := c.Deadline(); ok {
			t.Error("the bound shows as a deadline")
		}
		done := c.Done()
		time.Sleep(999 * time.Millisecond)
		select {
		case <-done:
			t.Fatal("too early")
		default:
		}
		time.Sleep(time.Millisecond)
		<-done
		if inTime, watched := c.Stop(); inTime || !watched || !c.TimedOut() || !errors.Is(c.Err(), context.Canceled) {
			t.Errorf("in time %t, watched %t, %v", inTime, watched, c.Err())
		}
		c.Cancel()
	})
}

func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancelParent := context.WithCancel(t.Context())
		defer cancelParent()

		var watched Context
		watched.InitTimeout(parent, time.Now().Add(time.Second))
		done := watched.Done()
		if inTime, w := watched.Stop(); !inTime || !w {
			t.Errorf("in time %t, watched %t", inTime, w)
		}
		time.Sleep(time.Minute)
		if watched.Err() != nil || watched.TimedOut() {
			t.Errorf("the bound outlived Stop: %v", watched.Err())
		}
		watched.Cancel()
		<-done

		var unwatched Context
		unwatched.InitTimeout(parent, time.Now().Add(time.Second))
		if inTime, w := unwatched.Stop(); !inTime || w {
			t.Errorf("in time %t, watched %t", inTime, w)
		}
		time.Sleep(time.Minute)
		if unwatched.Done() != parent.Done() {
			t.Error("unwatched until Stop, it should be its parent")
		}
	})
}

func TestRaces(t *testing.T) {
	for range 100 {
		parent, cancelParent := context.WithCancel(t.Context())
		var c Context
		c.InitTimeout(parent, time.Now().Add(time.Millisecond))
		var wg sync.WaitGroup
		for _, act := range []func(){
			func() { <-c.Done() }, func() { _ = c.Err() }, func() { c.Stop() },
			c.Cancel, cancelParent, func() { c.Value(key{}) },
		} {
			wg.Go(act)
		}
		wg.Wait()
		c.Cancel()
	}
}
