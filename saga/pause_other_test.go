//go:build !unix

package saga_test

import "os"

// pause and resume do not exist here: the tests that stop processes are skipped.
var pause, resume os.Signal
