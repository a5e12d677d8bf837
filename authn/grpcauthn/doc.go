// Package grpcauthn protects gRPC servers with a policy of package authn, and
// forwards users' tokens from gRPC clients.
package grpcauthn
