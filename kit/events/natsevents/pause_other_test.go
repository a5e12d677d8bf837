//go:build !unix

package natsevents_test

import (
	"os"
	"testing"
)

// pause does not exist here: the test that stops a process is skipped.
var pause func(*testing.T, *os.Process)
