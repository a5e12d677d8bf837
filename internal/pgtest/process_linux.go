package pgtest

import "syscall"

// attributes make the server run as the given user and end with this process,
// even when that is killed: SIGQUIT is PostgreSQL's immediate shutdown. The
// kernel sends it when the *thread* that started the server ends.
func attributes(cred *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGQUIT, Setpgid: true}
}
