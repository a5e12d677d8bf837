//go:build !unix

package natsevents_test

import "os"

// pause does not exist here: the test that stops a process is skipped.
var pause os.Signal
