package resilience

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// BudgetConfig sets up a [Budget].
type BudgetConfig struct {
	// Ratio is how many retries each call pays for. Defaults to 0.1: at most
	// 10 % more load, beside what MinPerSecond allows. At most 1.
	Ratio float64
	// SuccessShare is the part of Ratio that a call pays only if its first
	// attempt succeeds. Defaults to 0.5: in a total outage the budget shrinks to
	// half of Ratio, where retries could do nothing but harm. A negative value
	// means 0: each call pays the whole ratio, however it ends.
	SuccessShare float64
	// MinPerSecond is the rate of retries allowed whatever the traffic, so that
	// a rarely called destination has retries at all. It comes on top of Ratio,
	// in each process for each destination, and what was not used in the last TTL
	// may be spent at once: over a time t it allows MinPerSecond·(t + TTL)
	// retries, with the defaults a burst of about 10 and then one per second.
	// Defaults to 1. A negative value means 0.
	MinPerSecond float64
	// TTL is how long an unused deposit lasts. Defaults to 10 s.
	TTL time.Duration
	// Off turns the budget of a pipeline off. Retries then multiply load.
	Off bool
}

func (c *BudgetConfig) fill() error {
	c.Ratio = orDefault(c.Ratio, 0.1)
	c.SuccessShare = orDefault(c.SuccessShare, 0.5)
	c.MinPerSecond = orDefault(c.MinPerSecond, 1)
	c.TTL = orDefault(c.TTL, 10*time.Second)
	if err := firstError(
		checkFraction("Budget.Ratio", c.Ratio),
		checkFraction("Budget.SuccessShare", max(c.SuccessShare, 0)),
	); err != nil {
		return err
	}
	if math.IsNaN(c.MinPerSecond) || c.MinPerSecond > 1e6 {
		return fieldError("Budget.MinPerSecond", c.MinPerSecond, "a rate of at most 1e6, negative for none")
	}
	if c.TTL < time.Second || c.TTL > time.Hour {
		return fieldError("Budget.TTL", c.TTL, "a duration between 1s and 1h")
	}
	return nil
}

// Budget bounds retries and hedges to a fraction of the calls. Over any time t,
//
//	retries ≤ Ratio·calls + MinPerSecond·(t + TTL)
//
// for any latency and any backoff: deposits are made per call and spent per
// retry, and calls in flight play no part. (Budgets measured against calls in
// flight count those that sleep before their retry, which lets them allow four
// times the load when failures are instant.) After Finagle's RetryBudget, with
// a share funded by success only, as in M. Brooker's "Fixing retries with token
// buckets" (2022).
//
// A Budget is safe for concurrent use. A nil *Budget allows everything.
type Budget struct {
	onSuccess int64 // deposit of a call that succeeded at once, in millionths of a retry
	onFailure int64 // deposit of one that did not
	reserve   int64 // MinPerSecond·TTL, in millionths of a retry

	base  time.Time
	width time.Duration // of one slot

	slots [budgetSlots]budgetSlot
	mu    sync.Mutex // serialises turning a slot over and withdrawing
}

const (
	budgetSlots = 11        // ten for the TTL, one that is being filled
	token       = 1_000_000 // amounts are in millionths of a retry
)

type budgetSlot struct {
	epoch    atomic.Int64 // which period the slot holds; -1: none
	deposits atomic.Int64
	spent    int64 // under mu
}

// NewBudget returns a budget; a nil config means the defaults.
func NewBudget(cfg *BudgetConfig) (*Budget, error) {
	var c BudgetConfig
	if cfg != nil {
		c = *cfg
	}
	if err := c.fill(); err != nil {
		return nil, err
	}
	b := &Budget{
		onSuccess: int64(math.Round(c.Ratio * token)),
		onFailure: int64(math.Round(c.Ratio * (1 - max(c.SuccessShare, 0)) * token)),
		reserve:   int64(math.Round(max(c.MinPerSecond, 0) * c.TTL.Seconds() * token)),
		base:      time.Now(),
		width:     c.TTL / (budgetSlots - 1),
	}
	for i := range b.slots {
		b.slots[i].epoch.Store(-1)
	}
	return b, nil
}

// Deposit records that a call was made, and whether its first attempt succeeded.
func (b *Budget) Deposit(success bool) {
	if b == nil {
		return
	}
	amount := b.onFailure
	if success {
		amount = b.onSuccess
	}
	epoch := int64(time.Since(b.base) / b.width)
	s := &b.slots[epoch%budgetSlots]
	if s.epoch.Load() != epoch {
		b.turnOver(s, epoch)
	}
	// Should the slot be turned over just now, the deposit counts for the next
	// period: it is counted once either way.
	s.deposits.Add(amount)
}

func (b *Budget) turnOver(s *budgetSlot, epoch int64) {
	b.mu.Lock()
	if s.epoch.Load() < epoch {
		s.deposits.Store(0)
		s.spent = 0
		s.epoch.Store(epoch)
	}
	b.mu.Unlock()
}

// Withdraw takes one retry from the budget, and reports whether there was one.
func (b *Budget) Withdraw() bool { return b.withdraw(token) }

func (b *Budget) withdraw(amount int64) bool {
	if b == nil {
		return true
	}
	epoch := int64(time.Since(b.base) / b.width)
	s := &b.slots[epoch%budgetSlots]
	if s.epoch.Load() != epoch {
		b.turnOver(s, epoch)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.balance(epoch) < amount {
		return false
	}
	s.spent += amount
	return true
}

// Balance returns how many retries could be made now.
func (b *Budget) Balance() int {
	if b == nil {
		return math.MaxInt
	}
	epoch := int64(time.Since(b.base) / b.width)
	b.mu.Lock()
	defer b.mu.Unlock()
	return int(max(b.balance(epoch), 0) / token)
}

// balance sums what the window holds. Periods are judged by their number, not
// by whether somebody has turned the slot over, so they expire without traffic.
func (b *Budget) balance(epoch int64) int64 {
	sum := b.reserve
	for i := range b.slots {
		s := &b.slots[i]
		if e := s.epoch.Load(); e >= 0 && epoch-e < budgetSlots {
			sum += s.deposits.Load() - s.spent
		}
	}
	return sum
}
