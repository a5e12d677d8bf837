package pact

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

const (
	lockWait  = 30 * time.Second
	lockStale = 10 * time.Second // what it guards takes milliseconds
)

// lock keeps other processes out of a contract's file: `go test ./...` runs the
// packages of one consumer side by side. Its file is among the temporary ones, so
// that a folder of contracts holds contracts only.
func lock(path string) (unlock func(), err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("pact: %w", err)
	}
	name := filepath.Join(os.TempDir(), fmt.Sprintf("napkin-pact-%x.lock", sha256.Sum256([]byte(abs))))
	deadline := time.Now().Add(lockWait)
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			_ = f.Close() // empty
			return func() { _ = os.Remove(name) }, nil
		}
		if !errors.Is(err, os.ErrExist) && !errors.Is(err, os.ErrPermission) { // Windows says permission while one is being removed
			return nil, fmt.Errorf("pact: lock %s: %w", path, err)
		}
		if info, err := os.Stat(name); err == nil && time.Since(info.ModTime()) > lockStale {
			if os.Remove(name) == nil { // its process was killed
				continue
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("pact: %s is still locked after %v; is %s left over?", path, lockWait, name)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
