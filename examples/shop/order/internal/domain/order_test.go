package domain_test

import (
	"errors"
	"testing"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/order/internal/domain"
)

func TestTransitions(t *testing.T) {
	now := time.Now()
	changes := map[string]func(*domain.Order) error{
		"confirm": func(o *domain.Order) error { return o.Confirm(now) },
		"fail":    func(o *domain.Order) error { return o.Fail("out_of_stock", now) },
		"cancel":  func(o *domain.Order) error { return o.Cancel("changed my mind", now) },
		"refund":  func(o *domain.Order) error { return o.Refund(now) },
	}
	allowed := map[domain.Status]map[string]domain.Status{
		domain.Pending:   {"confirm": domain.Confirmed, "fail": domain.Failed, "cancel": domain.Cancelled},
		domain.Confirmed: {"refund": domain.Refunded},
		domain.Failed:    {},
		domain.Cancelled: {},
		domain.Refunded:  {},
	}
	for from, to := range allowed {
		for name, change := range changes {
			o := domain.Order{ID: "ord_1", Status: from, Revision: 1}
			err := change(&o)
			want, ok := to[name]
			switch {
			case !ok && !errors.Is(err, domain.ErrTransition):
				t.Errorf("%s of a %s order: %v", name, from, err)
			case ok && (err != nil || o.Status != want || o.Revision != 2):
				t.Errorf("%s of a %s order: %+v %v", name, from, o, err)
			}
		}
	}
}

func TestARefundBeginsOnce(t *testing.T) {
	o := domain.Order{Status: domain.Confirmed}
	if !o.Ended() {
		t.Error("a confirmed order has ended")
	}
	if first, err := o.BeginRefund(time.Now()); !first || err != nil || o.Ended() {
		t.Fatalf("first %v, %v, %+v", first, err, o)
	}
	if first, err := o.BeginRefund(time.Now()); first || err != nil {
		t.Fatalf("again: first %v, %v", first, err)
	}
	if err := o.Refund(time.Now()); err != nil || o.Refunding || !o.Ended() {
		t.Fatalf("%v, %+v", err, o)
	}
	failed := domain.Order{Status: domain.Failed}
	if _, err := failed.BeginRefund(time.Now()); !errors.Is(err, domain.ErrTransition) {
		t.Fatalf("refund of a failed order: %v", err)
	}
}
