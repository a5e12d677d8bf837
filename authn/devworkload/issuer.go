package devworkload

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Config adjusts an [Issuer].
type Config struct {
	// TTL is how long an SVID is valid. A new one is handed out at half of it.
	// At least 2 seconds. Defaults to 1 hour.
	TTL time.Duration

	// CATTL is how long the authority's own certificate is valid. A successor
	// takes over at half of it. At least twice TTL. Defaults to 30 days.
	CATTL time.Duration

	// CAOverlap is how long a new authority is only trusted before it signs,
	// so that everyone's bundle has it first. At most a quarter of CATTL.
	// Defaults to 10 seconds, or that quarter if it is less.
	CAOverlap time.Duration

	// Dir keeps the authority's keys across restarts of the process, readable
	// by its user alone. It is created if absent. Defaults to "": the authority
	// lives and dies with the Issuer.
	Dir string

	// Logger is told of rotations, without secrets. Defaults to slog.Default().
	Logger *slog.Logger
}

// Issuer is a SPIFFE authority with one Workload API listener per identity.
// It is safe for concurrent use.
type Issuer struct {
	cfg    Config
	domain spiffeid.TrustDomain
	ca     *authority

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	endpoints map[spiffeid.ID]*endpoint
	tempDir   string // made for Listen with an empty socketDir; removed by Close
}

// New returns an Issuer for a trust domain such as "shop.test", with the
// authority found in cfg.Dir or a new one. It fails if the name or a field of
// cfg is not valid, or if Dir holds another trust domain's authority.
func New(trustDomain string, cfg *Config) (*Issuer, error) {
	var c Config
	if cfg != nil {
		c = *cfg
	}
	if err := c.setDefaults(); err != nil {
		return nil, fmt.Errorf("devworkload: Config.%w", err)
	}
	domain, err := spiffeid.TrustDomainFromString(trustDomain)
	if err != nil {
		return nil, fmt.Errorf("devworkload: trust domain %q: %w", trustDomain, err)
	}
	ca, err := openAuthority(domain, c)
	if err != nil {
		return nil, fmt.Errorf("devworkload: %w", err)
	}
	i := &Issuer{cfg: c, domain: domain, ca: ca, endpoints: map[spiffeid.ID]*endpoint{}}
	i.ctx, i.cancel = context.WithCancel(context.Background())
	i.wg.Go(i.renewAuthority)
	return i, nil
}

func (c *Config) setDefaults() error {
	if c.TTL == 0 {
		c.TTL = time.Hour
	}
	if c.CATTL == 0 {
		c.CATTL = max(30*24*time.Hour, 4*c.TTL)
	}
	if c.CAOverlap == 0 {
		c.CAOverlap = min(10*time.Second, c.CATTL/4)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	switch {
	case c.TTL < 2*time.Second:
		return fmt.Errorf("TTL is %v: at least 2s, since certificates count in seconds", c.TTL)
	case c.CATTL < 2*c.TTL:
		return fmt.Errorf("CATTL is %v: at least twice TTL (%v)", c.CATTL, c.TTL)
	case c.CAOverlap < 0 || c.CAOverlap > c.CATTL/4:
		return fmt.Errorf("CAOverlap is %v: between 0 and a quarter of CATTL (%v)", c.CAOverlap, c.CATTL)
	}
	return nil
}

// TrustDomain returns the domain that the issuer vouches for.
func (i *Issuer) TrustDomain() spiffeid.TrustDomain { return i.domain }

// Listen serves the Workload API for one identity on a Unix socket under
// socketDir and returns its address ("unix:///…"), to be passed to
// workload.Connect. Whoever can open the socket is that identity: the
// directory is created for this user alone, and so is the socket.
//
// An empty socketDir means a directory of the Issuer's own with a short name,
// removed by Close; Unix socket paths hold about 100 bytes. The address of an
// identity in a directory is always the same (see [SocketAddr]), so a restarted
// issuer is found again by services that kept running. ctx bounds the set-up;
// the listener lives until Close.
//
// It fails if id is of another trust domain, is being served already (here or
// by another process), or the path is too long.
func (i *Issuer) Listen(ctx context.Context, id spiffeid.ID, socketDir string) (addr string, err error) {
	if !id.MemberOf(i.domain) || id.Path() == "" {
		return "", fmt.Errorf("devworkload: %q is not an identity of %s: use spiffe://%s/<name>", id, i.domain, i.domain)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return "", errors.New("devworkload: the issuer is closed")
	}
	if i.endpoints[id] != nil {
		return "", fmt.Errorf("devworkload: %s is already being served", id)
	}
	if socketDir == "" {
		if socketDir, err = i.ownDir(); err != nil {
			return "", fmt.Errorf("devworkload: %w", err)
		}
	}
	path, err := socketPath(socketDir, id)
	if err != nil {
		return "", fmt.Errorf("devworkload: %w", err)
	}
	lis, err := listenUnix(ctx, path)
	if err != nil {
		return "", fmt.Errorf("devworkload: %w", err)
	}
	e, err := newEndpoint(i, id)
	if err != nil {
		return "", errors.Join(fmt.Errorf("devworkload: %w", err), lis.Close())
	}
	i.endpoints[id] = e
	i.wg.Go(e.rotate)
	i.wg.Go(func() { i.serve(e, lis) })
	return addressOf(path), nil
}

func (i *Issuer) serve(e *endpoint, lis net.Listener) {
	if err := e.server.Serve(lis); err != nil && i.ctx.Err() == nil {
		i.cfg.Logger.Error("dev workload API listener failed", "spiffe_id", e.id.String(), "error", err)
	}
}

// ownDir is called with the lock held.
func (i *Issuer) ownDir() (string, error) {
	if i.tempDir != "" {
		return i.tempDir, nil
	}
	dir, err := os.MkdirTemp("", "spiffe-")
	if err != nil {
		return "", err
	}
	i.tempDir = dir
	return dir, nil
}

// ListenAll is Listen for each of ids, all under socketDir. It returns the
// addresses by identity. If one fails, the earlier ones keep being served
// until Close.
func (i *Issuer) ListenAll(ctx context.Context, socketDir string, ids ...spiffeid.ID) (map[spiffeid.ID]string, error) {
	addrs := make(map[spiffeid.ID]string, len(ids))
	for _, id := range ids {
		addr, err := i.Listen(ctx, id, socketDir)
		if err != nil {
			return nil, err
		}
		addrs[id] = addr
	}
	return addrs, nil
}

// Rotate hands out a new SVID to every identity now, as if half of the TTL had
// passed.
func (i *Issuer) Rotate() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, e := range i.endpoints {
		e.renewNow()
	}
}

// RotateCA makes a new authority. It is part of everyone's bundle at once and
// signs all SVIDs once CAOverlap has passed; the old one stays trusted until it
// expires.
func (i *Issuer) RotateCA() error {
	if err := i.ca.rotate(); err != nil {
		return fmt.Errorf("devworkload: %w", err)
	}
	i.cfg.Logger.Info("dev workload API has a new authority", "trust_domain", i.domain.String(), "signs_in", i.cfg.CAOverlap)
	i.Rotate() // carries the new bundle; endpoints wake again when it signs
	return nil
}

// renewAuthority replaces the authority at half of its life.
func (i *Issuer) renewAuthority() {
	for {
		wait := time.Until(i.ca.renewAt())
		if wait <= 0 {
			if err := i.RotateCA(); err != nil {
				i.cfg.Logger.Error("dev workload API cannot renew its authority", "error", err)
				wait = time.Minute
			} else {
				continue
			}
		}
		select {
		case <-time.After(wait):
		case <-i.ctx.Done():
			return
		}
	}
}

// Close stops every listener and waits for them. Services keep the SVIDs they
// have until those expire.
func (i *Issuer) Close() error {
	i.mu.Lock()
	i.closed = true
	endpoints := i.endpoints
	i.endpoints = map[spiffeid.ID]*endpoint{}
	dir := i.tempDir
	i.tempDir = ""
	i.mu.Unlock()

	i.cancel()
	for _, e := range endpoints {
		e.server.Stop() // removes the socket too
	}
	i.wg.Wait()
	if dir != "" {
		return os.RemoveAll(filepath.Clean(dir))
	}
	return nil
}
