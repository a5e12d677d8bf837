package domain

import (
	"strings"
	"testing"
	"time"
)

func TestDecideHonoursPreferences(t *testing.T) {
	all := Contact{UserID: "usr_1", Email: "a@example.test", Name: "Ada", Phone: "+491", WantEmail: true, WantSMS: true, WantPush: true}
	outcome := Outcome{OrderID: "ord_1", UserID: "usr_1", Kind: Confirmed, TotalMinor: 1905, Currency: "EUR"}
	for name, tc := range map[string]struct {
		change func(*Contact)
		want   []Channel
	}{
		"all":                {func(*Contact) {}, []Channel{Email, SMS, Push}},
		"none":               {func(c *Contact) { c.WantEmail, c.WantSMS, c.WantPush = false, false, false }, nil},
		"SMS without number": {func(c *Contact) { c.Phone = "" }, []Channel{Email, Push}},
	} {
		c := all
		tc.change(&c)
		got := Decide(c, outcome, time.Unix(1, 0))
		if len(got) != len(tc.want) {
			t.Fatalf("%s: %+v", name, got)
		}
		for i, n := range got {
			if n.Channel != tc.want[i] || !strings.Contains(n.Body, "19.05 EUR") {
				t.Errorf("%s: %+v", name, n)
			}
		}
	}
}

func TestDecidingAgainGivesTheSameIDs(t *testing.T) {
	c := Contact{UserID: "u", Email: "a@example.test", WantEmail: true}
	a := Decide(c, Outcome{OrderID: "ord_1", Kind: Failed}, time.Unix(1, 0))
	b := Decide(c, Outcome{OrderID: "ord_1", Kind: Failed}, time.Unix(2, 0))
	other := Decide(c, Outcome{OrderID: "ord_1", Kind: Refunded}, time.Unix(1, 0))
	if a[0].ID != b[0].ID || a[0].ID == other[0].ID {
		t.Errorf("%s %s %s", a[0].ID, b[0].ID, other[0].ID)
	}
}

func TestBackoffIsBounded(t *testing.T) {
	for n, want := range map[int]time.Duration{0: time.Second, 1: time.Second, 2: 2 * time.Second, 100: 5 * time.Minute} {
		if got := Backoff(n); got != want {
			t.Errorf("after %d attempts %s, want %s", n, got, want)
		}
	}
}
