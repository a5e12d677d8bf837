// Package workload gets a service's identity from the SPIFFE Workload API.
package workload
