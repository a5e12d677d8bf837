package domain_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/auth/internal/domain"
)

func TestThrottle(t *testing.T) {
	now := time.Unix(1000, 0)
	th := domain.NewThrottle(3, 10*time.Second, 100)
	for i := range 3 {
		if _, ok := th.Attempt("ann", now); !ok {
			t.Fatalf("attempt %d was refused", i+1)
		}
	}
	wait, ok := th.Attempt("ann", now)
	if ok || wait != 10*time.Second {
		t.Errorf("the fourth: %v, wait %v", ok, wait)
	}
	if _, ok := th.Attempt("bob", now); !ok {
		t.Error("another account is slowed")
	}
	if _, ok := th.Attempt("ann", now.Add(wait)); !ok {
		t.Error("still slowed after the wait")
	}
	for range 50 { // signing in well, again and again
		if _, ok := th.Attempt("carol", now); !ok {
			t.Fatal("who knows the password is slowed")
		}
		th.Forgive("carol", now)
	}
}

func TestThrottleForgetsWhatHasRecoveredFirst(t *testing.T) {
	now := time.Unix(1000, 0)
	th := domain.NewThrottle(1, time.Minute, 10)
	for i := range 9 {
		th.Attempt(fmt.Sprint("old", i), now)
	}
	later := now.Add(time.Minute)
	th.Attempt("guessed", later)
	for i := range 5 { // beyond the bound: the nine old ones have recovered
		th.Attempt(fmt.Sprint("new", i), later)
	}
	if _, ok := th.Attempt("guessed", later); ok {
		t.Error("an account under attack was forgotten though others had recovered")
	}
	for i := range 1000 { // none has recovered: memory stays bounded all the same
		th.Attempt(fmt.Sprint("flood", i), later)
	}
}
