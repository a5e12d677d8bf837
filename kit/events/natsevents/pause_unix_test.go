//go:build unix

package natsevents_test

import (
	"os"
	"syscall"
)

// pause stops a process, as a machine that is suspended does.
var pause os.Signal = syscall.SIGSTOP
