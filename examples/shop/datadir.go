package shop

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/gofrs/flock"
)

// dataDir is where a store in one process keeps its state: a SQLite file per service, the broker's
// streams, and the keys of the vault, of personal data and of sessions.
type dataDir struct {
	path      string
	lock      *flock.Flock
	ephemeral bool
}

// openDataDir creates and locks the directory. An empty path makes a temporary one that close removes.
func openDataDir(path string) (*dataDir, error) {
	d := &dataDir{path: path}
	if path == "" {
		tmp, err := os.MkdirTemp("", "shop-")
		if err != nil {
			return nil, fmt.Errorf("no room for a temporary data directory: %w", err)
		}
		d.path, d.ephemeral = tmp, true
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory %s: %w; name another one with --data", d.path, err)
	}
	d.lock = flock.New(filepath.Join(d.path, "lock"))
	ok, err := d.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("data directory %s cannot be locked: %w; name another one with --data", d.path, err)
	}
	if !ok {
		return nil, fmt.Errorf("data directory %s is in use by another store; stop that one, or name another directory with --data", d.path)
	}
	return d, nil
}

// file is a path in the directory.
func (d *dataDir) file(name string) string { return filepath.Join(d.path, name) }

// key reads a 32-byte key, and makes it on first use.
func (d *dataDir) key(name string) ([]byte, error) {
	dir := d.file("keys")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, name)
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == 32:
		return key, nil
	case err == nil:
		return nil, fmt.Errorf("%s holds %d bytes where a key has 32; restore it, what it encrypted cannot be read without it", path, len(key))
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	key = make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	// Written aside and renamed: a crash in between leaves no half key.
	tmp := path + ".new"
	if err := os.WriteFile(tmp, key, 0o600); err != nil {
		return nil, err
	}
	return key, os.Rename(tmp, path)
}

func (d *dataDir) close() error {
	err := d.lock.Unlock()
	if d.ephemeral {
		err = errors.Join(err, os.RemoveAll(d.path))
	}
	return err
}
