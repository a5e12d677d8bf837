//go:build unix

package natsevents_test

import (
	"os"
	"syscall"
	"testing"
)

// pause stops a child process, as a machine that is suspended does, and returns
// once it stands still: the signal alone is obeyed a moment later.
var pause = func(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(p.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the process did not stop: %v, %v", status, err)
	}
}
