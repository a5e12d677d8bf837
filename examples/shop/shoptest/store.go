package shoptest

import (
	"testing"
	"time"
)

// Store is the whole store in one process, on a data directory that outlives it.
type Store struct {
	URL, Console string
	Data         string
	path         string
	Out          *Outsiders
	*Process
}

// NewStore prepares a store; Boot starts it.
func NewStore(t testing.TB, shop, data string, out *Outsiders) *Store {
	t.Helper()
	return &Store{path: shop, Data: data, Out: out, URL: "http://" + FreeAddr(t), Console: "http://" + FreeAddr(t)}
}

// Boot starts the store, on the same addresses and data each time, and waits until it is ready.
func (s *Store) Boot(t testing.TB, env ...string) {
	t.Helper()
	s.Launch(t, env...)
	s.Process.WaitOutput(t, "ready in", 60*time.Second)
	s.Process.WaitReady(t, s.URL+"/v1/products?page_size=1", 30*time.Second)
}

// Launch starts the store and does not wait.
func (s *Store) Launch(t testing.TB, env ...string) {
	t.Helper()
	s.Process = Start(t, Spec{Name: "shop", Path: s.path, Env: env, Args: []string{
		"run", "--data", s.Data, "--logs", "-", "--listen", s.URL[len("http://"):], "--console", s.Console[len("http://"):],
		"--provider-url", s.Out.ProviderURL, "--provider-key", ProviderKey,
		"--smtp-addr", s.Out.SMTPAddr, "--messages-url", s.Out.MessageURL,
	}})
}
