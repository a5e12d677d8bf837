package main

import (
	"context"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestANoteIsTakenOnce sends one request twice and a third under the same key.
func TestANoteIsTakenOnce(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, addr, filepath.Join(t.TempDir(), "notes.db")) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for _, want := range []struct {
		text     string
		code     int
		replayed string
	}{{"milk", http.StatusCreated, ""}, {"milk", http.StatusCreated, "true"}, {"bread", http.StatusUnprocessableEntity, ""}} {
		resp := post(t, "http://"+addr+"/notes", "text="+want.text)
		if resp.StatusCode != want.code || resp.Header.Get("Idempotent-Replayed") != want.replayed {
			t.Errorf("%s: %d, replayed %q; want %d, %q", want.text, resp.StatusCode, resp.Header.Get("Idempotent-Replayed"), want.code, want.replayed)
		}
	}
}

// post waits until the service listens, for at most ten seconds.
func post(t *testing.T, url, body string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Idempotency-Key", "k1")
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			return resp
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-tick.C:
		}
	}
}
