package migrate

// LockID is the number of a set's advisory lock.
func LockID(set string) int64 { return advisoryLock(set).id() }
