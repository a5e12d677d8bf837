package auth

import (
	"strings"
	"testing"
)

func TestTheDemoNoteFitsTheClient(t *testing.T) {
	for client, email := range map[string]string{
		"storefront": "demo@shop.test", "cli": "demo@shop.test", consoleClient: "admin@shop.test",
	} {
		if got := demoNote(client); !strings.Contains(got, email) {
			t.Errorf("%s: %q, want %s", client, got, email)
		}
	}
}
