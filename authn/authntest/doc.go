// Package authntest makes identities, token issuers and tokens for tests. What
// it makes is real: certificates that a bundle verifies and signed tokens whose
// keys a Verifier fetches, so tests run the code that production runs.
package authntest
