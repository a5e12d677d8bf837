package correlation_test

import (
	"context"
	"strings"
	"testing"

	"github.com/napkin-kit/napkin/kit/correlation"
)

func TestEnsure(t *testing.T) {
	long := strings.Repeat("a", correlation.MaxLength)
	tests := []struct {
		name        string
		in          correlation.IDs
		keepRequest bool
		keepFlow    bool
	}{
		{"nothing", correlation.IDs{}, false, false},
		{"both valid", correlation.IDs{RequestID: "r-1", CorrelationID: "c_1.x"}, true, true},
		{"request only", correlation.IDs{RequestID: "r-1"}, true, false},
		{"flow only", correlation.IDs{CorrelationID: "c"}, false, true},
		{"longest", correlation.IDs{RequestID: long, CorrelationID: long}, true, true},
		{"too long", correlation.IDs{RequestID: long + "a", CorrelationID: long + "a"}, false, false},
		{"log forging", correlation.IDs{RequestID: "a\nlevel=ERROR", CorrelationID: "a b"}, false, false},
		{"not ASCII", correlation.IDs{RequestID: "é", CorrelationID: "日"}, false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, got := correlation.Ensure(correlation.With(t.Context(), tt.in))
			if got != correlation.From(ctx) {
				t.Errorf("returned %+v but the context holds %+v", got, correlation.From(ctx))
			}
			if !correlation.Valid(got.RequestID) || !correlation.Valid(got.CorrelationID) {
				t.Errorf("Ensure left invalid IDs: %+v", got)
			}
			if kept := got.RequestID == tt.in.RequestID; kept != tt.keepRequest {
				t.Errorf("request ID kept: %t, want %t (%+v)", kept, tt.keepRequest, got)
			}
			if kept := got.CorrelationID == tt.in.CorrelationID; kept != tt.keepFlow {
				t.Errorf("correlation ID kept: %t, want %t (%+v)", kept, tt.keepFlow, got)
			}
			if !tt.keepFlow && got.CorrelationID != got.RequestID {
				t.Errorf("a new flow starts with its request: %+v", got)
			}
		})
	}
}

func TestEnsureKeepsUserAndDropsBadCausation(t *testing.T) {
	_, got := correlation.Ensure(correlation.With(t.Context(), correlation.IDs{UserID: "u 1", CausationID: "\x00"}))
	if got.UserID != "u 1" || got.CausationID != "" {
		t.Errorf("got %+v", got)
	}
}

func TestWithUserAndCausedKeepTheRest(t *testing.T) {
	ctx := correlation.With(t.Context(), correlation.IDs{RequestID: "r", CorrelationID: "c"})
	ctx = correlation.Caused(correlation.WithUser(ctx, "u"), "e")
	want := correlation.IDs{RequestID: "r", CorrelationID: "c", CausationID: "e", UserID: "u"}
	if got := correlation.From(ctx); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestFromEmpty(t *testing.T) {
	if got := correlation.From(context.Background()); got != (correlation.IDs{}) {
		t.Errorf("got %+v", got)
	}
}

func TestNewIDIsValidAndFresh(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := correlation.NewID()
		if !correlation.Valid(id) || seen[id] {
			t.Fatalf("NewID gave %q", id)
		}
		seen[id] = true
	}
}

func FuzzValid(f *testing.F) {
	for _, s := range []string{"", "a", "a-b_c.d", "a b", "\n", "é", strings.Repeat("x", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if correlation.Valid(s) && (len(s) > correlation.MaxLength || strings.ContainsAny(s, " \n\r\t\"=:;,")) {
			t.Errorf("accepted %q", s)
		}
	})
}
