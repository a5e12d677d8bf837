//go:build unix && !linux

package pgtest

import "syscall"

// attributes make the server run as the given user, apart from the terminal's
// interrupts. There is no parent-death signal here: a killed test leaves its
// server behind.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Setpgid: true}
}
