//go:build !unix

package pgtest

// Server stands for a PostgreSQL server. On this system none is started, since
// dropping privileges and Unix sockets are not to be had.
type Server struct{}

// Find returns ErrNotInstalled.
func Find() (string, error) { return "", ErrNotInstalled }

// Start returns ErrNotInstalled.
func Start(dir string, port int, options ...string) (*Server, error) { return nil, ErrNotInstalled }

// URL returns "".
func (s *Server) URL(database string) string { return "" }

// Dir returns "".
func (s *Server) Dir() string { return "" }

// Restart returns ErrNotInstalled.
func (s *Server) Restart() error { return ErrNotInstalled }

// Stop does nothing.
func (s *Server) Stop() error { return nil }

// Crash does nothing.
func (s *Server) Crash() error { return nil }

// Close does nothing.
func (s *Server) Close() error { return nil }
