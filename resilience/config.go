package resilience

import (
	"fmt"
	"math"
	"time"
)

// fieldError is the one form of configuration errors: the field, what it is,
// and what it may be.
func fieldError(field string, got any, want string) error {
	return fmt.Errorf("resilience: %s is %v: set it to %s", field, got, want)
}

// maxDuration and maxCount bound what is plausible, and keep sums of them from
// overflowing.
const (
	maxDuration = 365 * 24 * time.Hour
	maxCount    = 1_000_000_000
)

func checkDuration(field string, d time.Duration) error {
	if d < 0 || d > maxDuration {
		return fieldError(field, d, "a positive duration of at most a year, or leave it 0 for the default")
	}
	return nil
}

func checkCount(field string, n int) error {
	if n < 0 || n > maxCount {
		return fieldError(field, n, "a positive number of at most 1e9, or leave it 0 for the default")
	}
	return nil
}

func checkFraction(field string, f float64) error {
	if math.IsNaN(f) || f < 0 || f > 1 {
		return fieldError(field, f, "a fraction between 0 and 1")
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
