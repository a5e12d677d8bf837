package devworkload

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// maxSocketPath is what every Unix holds (macOS 104 bytes, Linux 108, both
// with a final zero).
const maxSocketPath = 103

var notInName = regexp.MustCompile(`[^a-zA-Z0-9]+`)

// SocketAddr returns the address at which an Issuer serves id under socketDir,
// without asking one: a service in another process finds its own socket by it.
// It fails if the path is too long for a Unix socket.
func SocketAddr(socketDir string, id spiffeid.ID) (string, error) {
	path, err := socketPath(socketDir, id)
	if err != nil {
		return "", fmt.Errorf("devworkload: %w", err)
	}
	return addressOf(path), nil
}

// socketPath is short, readable and different for each identity: the last word
// of the path, and a digest of the whole.
func socketPath(dir string, id spiffeid.ID) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	word := notInName.ReplaceAllString(filepath.Base(id.Path()), "")
	digest := sha256.Sum256([]byte(id.String()))
	name := fmt.Sprintf("%.16s-%s.sock", word, hex.EncodeToString(digest[:3]))
	path := filepath.Join(abs, name)
	if len(path) > maxSocketPath {
		return "", fmt.Errorf("socket path %s has %d bytes, more than the %d a Unix socket can have: choose a shorter directory", path, len(path), maxSocketPath)
	}
	return path, nil
}

func addressOf(path string) string {
	return (&url.URL{Scheme: "unix", Path: path}).String()
}

// listenUnix listens at path for this user alone. A socket left behind by a
// process that was killed is replaced; one that is being served is not.
func listenUnix(ctx context.Context, path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Lstat(path)
	switch {
	case err == nil && info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("%s is there and not a socket: move it away", path)
	case err == nil:
		dialCtx, cancel := context.WithTimeout(ctx, time.Second)
		conn, dialErr := (&net.Dialer{}).DialContext(dialCtx, "unix", path)
		cancel()
		if dialErr == nil {
			_ = conn.Close() // only asked whether anyone answers
			return nil, fmt.Errorf("another process serves %s: stop it or choose another directory", path)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	return lis, nil
}
