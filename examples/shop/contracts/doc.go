// Package contracts holds what the shop's services rely on of each other, in the
// folder pacts: one file per consumer and provider, in the Pact Specification,
// version 4. Nobody writes these files by hand: the consumers' tests do
// (contract_test.go beside each consumer), against stubs that do as the contract
// says. The tests here are the other side: the services as they are composed in
// production, together in one process on SQLite and a broker in memory, verify
// every file that names them as the provider.
//
//	go run ./cmd/napkin contract install   # once, from the repository's root
//	make test-contract
//
// TestMutations proves that it holds water: it breaks the providers at their edges
// in dozens of ways, one by one, and wants each to be flagged by the consumers that
// it hurts and by nobody else.
package contracts
