//go:build unix

package inbox_test

import (
	"os"
	"syscall"
)

// pause and resume stop a process and let it go on, as a machine that is suspended does.
var pause, resume os.Signal = syscall.SIGSTOP, syscall.SIGCONT
