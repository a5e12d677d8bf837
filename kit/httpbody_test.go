package kit_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/resilience"
	"github.com/napkin-kit/napkin/telemetry/telemetrytest"
)

// openPost sends the head of a POST and the first bytes of its body, and no more.
func openPost(t *testing.T, addr, path string, length int, first string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, length, first); err != nil {
		t.Fatal(err)
	}
	return c
}

// Clients that do not send the bodies they have announced take nobody's place.
func TestSlowBodiesHoldNoPlace(t *testing.T) {
	t.Parallel() // waits for seconds
	shedder, err := resilience.NewShedder(&resilience.ShedderConfig{MinLimit: 2, InitialLimit: 2, MaxLimit: 2})
	if err != nil {
		t.Fatal(err)
	}
	s, _, _ := edge(t, kit.Config{Shedder: shedder}, func(m *http.ServeMux) {
		m.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
			if n, err := io.Copy(w, r.Body); err != nil {
				t.Errorf("after %d bytes: %v", n, err)
			}
		})
	})
	start := time.Now()
	var small []net.Conn
	for range 20 {
		small = append(small, openPost(t, s.HTTPAddr(), "/echo", 100, "{"))
	}
	for range 80 { // more than are held at once
		openPost(t, s.HTTPAddr(), "/echo", 1<<20, strings.Repeat("x", 20<<10))
	}
	for _, size := range []int{0, 1, 16 << 10} {
		resp, body := do(t, request(t, "POST", "http://"+s.HTTPAddr()+"/echo", bytes.NewReader(make([]byte, size))))
		if resp.StatusCode != http.StatusOK || len(body) != size {
			t.Fatalf("meanwhile, a body of %d bytes: %s, %d bytes", size, resp.Status, len(body))
		}
	}
	telemetrytest.Wait(t, "a large body among too many to be refused", func() bool { // the 80 arrive in their own time
		resp, _ := do(t, request(t, "POST", "http://"+s.HTTPAddr()+"/echo", bytes.NewReader(make([]byte, 20<<10))))
		return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
	})
	for _, c := range small {
		_ = c.SetReadDeadline(start.Add(13 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("still connected after %v: %v", time.Since(start), err)
		}
		if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusRequestTimeout {
			t.Fatalf("%s, %v", resp.Status, err)
		}
	}
}

func TestBodiesOfEverySizeArriveWhole(t *testing.T) {
	s, _, _ := edge(t, kit.Config{MaxRequestBytes: 3 << 20}, func(m *http.ServeMux) {
		m.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				kit.WriteError(w, r, err)
				return
			}
			_, _ = w.Write(body)
		})
	})
	type unsized struct{ io.Reader }
	for _, size := range []int{0, 1, 16<<10 - 1, 16 << 10, 16<<10 + 1, 1<<20 - 1, 1 << 20, 1<<20 + 1, 3 << 20} {
		sent := bytes.Repeat([]byte("0123456789abcde"), size/15+1)[:size]
		for kind, body := range map[string]io.Reader{"sized": bytes.NewReader(sent), "chunked": unsized{bytes.NewReader(sent)}} {
			if resp, got := do(t, request(t, "POST", "http://"+s.HTTPAddr()+"/echo", body)); resp.StatusCode != http.StatusOK || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes, %s: %s, %d bytes", size, kind, resp.Status, len(got))
			}
		}
	}
}

// net/http reads what a handler has left of a body before it sends the answer.
func TestAnswerDoesNotWaitForABodyNobodyReads(t *testing.T) {
	t.Parallel() // waits for seconds
	s, _, _ := edge(t, kit.Config{MaxRequestBytes: 3 << 20}, func(m *http.ServeMux) {
		m.HandleFunc("POST /refuse", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) })
	})
	c := openPost(t, s.HTTPAddr(), "/refuse", 1<<20+100<<10, strings.Repeat("x", 1<<20+1)) // the rest is neither held nor read
	_ = c.SetReadDeadline(time.Now().Add(8 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusForbidden {
		t.Errorf("%s, %v", resp.Status, err)
	}
}
