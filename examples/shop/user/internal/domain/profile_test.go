package domain_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/napkin-kit/napkin/examples/shop/user/internal/domain"
)

func TestApply(t *testing.T) {
	p := domain.New("usr_1", "ann@example.com", "Ann", time.Unix(1, 0))
	str := func(s string) *string { return &s }
	got, differs, err := p.Apply(domain.Change{Name: str(" Anna "), Phone: str("+4930123456"), Address: str("Here")}, time.Unix(2, 0))
	if err != nil || !differs || got.Personal.Name != "Anna" || got.Personal.Phone != "+4930123456" || !got.UpdatedAt.Equal(time.Unix(2, 0)) {
		t.Fatalf("changed %v, %v, %v", got, differs, err)
	}
	if _, differs, err := got.Apply(domain.Change{Name: str("Anna")}, time.Unix(3, 0)); differs || err != nil {
		t.Errorf("the same name is a change: %v, %v", differs, err)
	}
	for field, c := range map[string]domain.Change{
		"name": {Name: str("  ")}, "phone": {Phone: str("030 123")}, "address": {Address: str(strings.Repeat("x", 501))},
	} {
		_, _, err := p.Apply(c, time.Unix(2, 0))
		if f, ok := errors.AsType[*domain.FieldError](err); !ok || f.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestTextMessagesNeedANumber(t *testing.T) {
	p := domain.New("usr_1", "ann@example.com", "Ann", time.Unix(1, 0))
	if _, _, err := p.Prefer(domain.Preferences{SMS: true}, time.Unix(2, 0)); err == nil {
		t.Error("text messages to nowhere")
	}
	number, none := "+4930123456", ""
	p, _, err := p.Apply(domain.Change{Phone: &number}, time.Unix(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	p, differs, err := p.Prefer(domain.Preferences{SMS: true}, time.Unix(2, 0))
	if err != nil || !differs {
		t.Fatalf("%v, %v", differs, err)
	}
	if _, _, err := p.Apply(domain.Change{Phone: &none}, time.Unix(3, 0)); err == nil {
		t.Error("the number of someone who wants text messages was removed")
	}
}

func TestPersonalDataIsNotPrinted(t *testing.T) {
	p := domain.New("usr_1", "ann@example.com", "Ann", time.Unix(1, 0))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, p); strings.Contains(s, "ann@") || strings.Contains(s, "Ann") {
			t.Errorf("%s prints %s", verb, s)
		}
	}
}

// late is a store in which a profile appears after a time.
type late struct {
	from time.Time
	fail error
}

func (l late) Get(context.Context, string) (domain.Profile, error) {
	if time.Now().Before(l.from) {
		return domain.Profile{}, domain.ErrNotFound
	}
	return domain.Profile{ID: "usr_1"}, l.fail
}

func (l late) Update(_ context.Context, _ string, change func(domain.Profile) (domain.Profile, bool, error)) (domain.Profile, error) {
	p, _, err := change(domain.Profile{ID: "usr_1", Personal: domain.Personal{Name: "Ann"}})
	return p, err
}

func TestGetWaitsForAProfileOnItsWay(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		after time.Duration
		fail  error
		want  error
	}{{0, nil, nil}, {time.Second, nil, nil}, {time.Hour, nil, domain.ErrNotFound}, {0, broken, broken}, {time.Second, broken, broken}} {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			s := domain.NewProfiles(late{start.Add(c.after), c.fail}, time.Now)
			if _, err := s.Get(t.Context(), "usr_1"); !errors.Is(err, c.want) {
				t.Errorf("after %v: %v, want %v", c.after, err, c.want)
			}
			if waited := time.Since(start); waited > 3*time.Second {
				t.Errorf("waited %v", waited)
			}
			if _, err := s.Prefer(t.Context(), "usr_1", domain.Preferences{Push: true}); !errors.Is(err, c.want) {
				t.Errorf("preferences after %v: %v, want %v", c.after, err, c.want)
			}
		})
	}
}
