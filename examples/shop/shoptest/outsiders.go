package shoptest

import (
	"path/filepath"
	"testing"
	"time"
)

// ProviderKey is the key that the simulated provider wants.
const ProviderKey = "test-provider-key"

// Outsiders are the payment provider's simulator and the mail sink in processes and with stores of their
// own. Nothing that happens to the store touches them, so their ledgers can judge it.
type Outsiders struct {
	Provider, Sink                    *Process
	ProviderURL, SMTPAddr, MessageURL string
}

// StartOutsiders starts both, with their stores in dir.
func StartOutsiders(t testing.TB, shop, dir string) *Outsiders {
	t.Helper()
	provider, smtp, messages := FreeAddr(t), FreeAddr(t), FreeAddr(t)
	o := &Outsiders{ProviderURL: "http://" + provider, SMTPAddr: smtp, MessageURL: "http://" + messages}
	o.Provider = Start(t, Spec{Name: "provider", Path: shop, Args: []string{
		"provider", "--listen", provider, "--data", filepath.Join(dir, "provider.db"), "--key", ProviderKey,
	}})
	o.Sink = Start(t, Spec{Name: "sink", Path: shop, Args: []string{
		"sink", "--smtp", smtp, "--listen", messages, "--data", filepath.Join(dir, "sink.db"),
	}})
	o.Provider.WaitOutput(t, "http://", 20*time.Second)
	o.Sink.WaitOutput(t, "http://", 20*time.Second)
	return o
}
