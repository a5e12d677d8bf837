//go:build unix

package main

import "syscall"

// What the store writes is its user's alone.
func init() { syscall.Umask(0o077) }
