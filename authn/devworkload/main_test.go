package devworkload_test

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(issuerEnv) != "" {
		os.Exit(runIssuerProcess())
	}
	goleak.VerifyTestMain(m)
}
