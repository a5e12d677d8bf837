//go:build !pact || !cgo

package engine

// Missing is why there is no core, with what to run; "" where there is one.
func Missing() string {
	return "contract tests need the native Pact library: run 'go run github.com/napkin-kit/napkin/cmd/napkin contract install', then 'go run github.com/napkin-kit/napkin/cmd/napkin contract test ./...'"
}

// Mock is not to be had: see [Missing].
func Mock(_, _ string, _ []HTTP, _ func(url string) error) (contract []byte, mismatches []string, err error) {
	return nil, nil, &NotRun{Missing()}
}

// Message is not to be had: see [Missing].
func Message(_, _, _, _ string, _ any, _ func(content []byte) error) (contract []byte, err error) {
	return nil, &NotRun{Missing()}
}

// Verify is not to be had: see [Missing].
func Verify(Target, string) (problems []string, err error) { return nil, &NotRun{Missing()} }
