package inbox

import (
	"context"
	"errors"

	"github.com/napkin-kit/napkin/kit/sqldb"
)

// Permanent marks a handler's failure as one that no retry mends: the event is
// dead-lettered at once. It returns nil for nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &classed{err, permanent}
}

// Infrastructure marks a handler's failure as none of the event's: something
// that it needs is not there. The consumer pauses and tries again, and nothing
// is counted. It returns nil for nil.
func Infrastructure(err error) error {
	if err == nil {
		return nil
	}
	return &classed{err, infrastructure}
}

// IsPermanent reports whether err was marked by [Permanent].
func IsPermanent(err error) bool { return classOf(err) == permanent }

// IsInfrastructure reports whether err was marked by [Infrastructure], or comes
// from a database that cannot be reached.
func IsInfrastructure(err error) bool {
	return classOf(err) == infrastructure || sqldb.IsUnavailable(err)
}

type class int

const (
	counted class = iota
	permanent
	infrastructure
)

type classed struct {
	err   error
	class class
}

func (c *classed) Error() string { return c.err.Error() }
func (c *classed) Unwrap() error { return c.err }

func classOf(err error) class {
	var c *classed
	if errors.As(err, &c) {
		return c.class
	}
	return counted
}

// isTimeout reports a failure that says no more than that time ran out.
func isTimeout(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
