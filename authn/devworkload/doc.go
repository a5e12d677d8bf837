// Package devworkload is a SPIFFE Workload API for development and tests: a
// certificate authority in this process that serves the real API over Unix
// sockets, so that services get their identity as they would from SPIRE.
package devworkload
