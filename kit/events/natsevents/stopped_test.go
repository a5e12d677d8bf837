package natsevents_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/napkin-kit/napkin/internal/natstest"
	"github.com/napkin-kit/napkin/kit/events"
	"github.com/napkin-kit/napkin/kit/events/natsevents"
)

const stoppedURL = "NATSEVENTS_TEST_STOPPED_URL"

// subscriberProcess is the process that TestAStoppedSubscriberTakesNothingAway
// stops: it prints what it is given.
func subscriberProcess(url string) error {
	nc, err := nats.Connect(url, natsevents.Options("stopped", nil)...)
	if err != nil {
		return err
	}
	defer nc.Close()
	b, err := natsevents.Connect(context.Background(), nc, nil)
	if err != nil {
		return err
	}
	return b.Subscribe(context.Background(), events.Subscription{Group: "g", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
		fmt.Println(d.Event().ID)
		_ = d.Ack(ctx)
	})
}

// A replica that is stopped (or cut off) leaves its last request with the server,
// which would go on giving it every other event: its successor would handle the
// later ones of a key first.
func TestAStoppedSubscriberTakesNothingAway(t *testing.T) {
	if pause == nil {
		t.Skip("processes cannot be stopped and resumed on this system")
	}
	s := natstest.Start(t)
	b := connect(t, s)
	if err := b.EnsureTopics(t.Context(), "orders"); err != nil {
		t.Fatal(err)
	}
	publish := func(from, to int) {
		for i := from; i <= to; i++ {
			if err := b.Publish(t.Context(), testEvent(strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		}
	}
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^$")
	child.Env = append(os.Environ(), stoppedURL+"="+s.URL)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill() // also where it is stopped
		_ = child.Wait()
	})
	lines := bufio.NewScanner(out)
	publish(1, 3)
	for i := range 3 {
		if !lines.Scan() || lines.Text() != strconv.Itoa(i+1) {
			t.Fatalf("the first subscriber was given %q: %v", lines.Text(), lines.Err())
		}
	}
	pause(t, child.Process)
	var mu sync.Mutex
	var got []int
	all := make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- b.Subscribe(ctx, events.Subscription{Group: "g", Topics: []string{"orders"}}, func(ctx context.Context, d events.Delivery) {
			n, _ := strconv.Atoi(d.Event().ID)
			mu.Lock()
			defer mu.Unlock()
			if !slices.Contains(got, n) {
				got = append(got, n)
			}
			if _ = d.Ack(ctx); n == 40 {
				close(all)
			}
		})
	}()
	publish(4, 20)
	time.AfterFunc(2*time.Second, func() { publish(21, 40) })
	select {
	case <-all:
	case <-time.After(30 * time.Second):
		t.Error("not in time")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	var want []int
	for i := 4; i <= 40; i++ {
		want = append(want, i)
	}
	if i := slices.Index(got, 4); i < 0 || !slices.Equal(got[i:], want) {
		t.Errorf("in the order %v", got)
	}
}
