// Sim shows what a stall of a few seconds does to a service whose clients retry,
// and what package resilience does about it.
//
//	go run ./resilience/sim [-svg plot.svg] [-seed 1] [-after 300s]
//	go run ./resilience/sim -loopback
//
// # The world
//
// A server can do 300 requests per second, one after the other. Clients make 280
// calls per second (93 %), wait a second for an answer and try three more times.
// For ten seconds the server does nothing. Then it is as healthy as before.
// In the second scenario nothing stalls, but ten times what the server can do
// is asked for; of that, 200 per second are CRITICAL and the rest SHEDDABLE.
//
// Calls come at random (a Poisson process) whether others were answered or not,
// service times vary evenly by half. Both are seeded. The jitter of the library's
// own waits is not, so figures differ in the last digit from run to run.
//
// # The library, not a model of it
//
// The curves named after the library come from its own code: [resilience.Pipeline],
// [resilience.Budget] and [resilience.Shedder], with the errors between them
// translated by package grpcresilience as on the wire. They take the time from
// package time, so a run takes place in a bubble of testing/synctest, where time
// passes only when every goroutine waits: five minutes take a second.
//
// With -loopback the same happens between processes: a server and two clients
// that talk gRPC on the loopback interface, in real time, first without and then
// with the library.
//
// # What one sees
//
// docs/metastability.md explains the plot.
package main
