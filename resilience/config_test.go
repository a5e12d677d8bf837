package resilience

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"
)

// nonsense are the values that no field of the kind may have. What a field's
// documentation allows all the same is in allowed.
var nonsense = map[reflect.Kind][]any{
	reflect.Int64:   {time.Duration(-1), time.Duration(math.MinInt64), time.Duration(math.MaxInt64)},
	reflect.Int:     {-1, math.MinInt, math.MaxInt},
	reflect.Float64: {-1.0, -math.SmallestNonzeroFloat64, math.NaN(), math.Inf(1), math.Inf(-1), math.MaxFloat64},
}

// allowed are the fields in which a negative value has a meaning.
var allowed = map[string]bool{"Budget.SuccessShare": true, "Budget.MinPerSecond": true, "Destinations.IdleTTL": true}

func negative(v any) bool {
	switch v := v.(type) {
	case time.Duration:
		return v < 0
	case float64:
		return v < 0
	}
	return false
}

// Every number in every configuration is checked, by its type: a field that is
// added without a check fails here.
func TestEveryFieldIsChecked(t *testing.T) {
	for _, tc := range []struct {
		prefix string // of the field's name in errors
		config any    // a pointer; otherwise valid
		build  func(config any) error
	}{
		{"", &Config{}, func(c any) error { _, err := NewPipeline("x", c.(*Config)); return err }},
		{"", &Config{
			Deadline: DeadlineConfig{Off: true}, Retry: RetryConfig{Off: true}, Budget: BudgetConfig{Off: true},
			Breaker: BreakerConfig{Off: true}, Bulkhead: BulkheadConfig{Off: true},
		}, func(c any) error { _, err := NewPipeline("x", c.(*Config)); return err }},
		{"Retry.", &RetryConfig{}, func(c any) error { _, err := NewRetry(nil, c.(*RetryConfig)); return err }},
		{"Budget.", &BudgetConfig{}, func(c any) error { _, err := NewBudget(c.(*BudgetConfig)); return err }},
		{"Breaker.", &BreakerConfig{}, func(c any) error { _, err := NewBreaker("x", c.(*BreakerConfig), nil); return err }},
		{"Bulkhead.", &BulkheadConfig{}, func(c any) error { _, err := NewBulkhead("x", c.(*BulkheadConfig)); return err }},
		{"Hedge.", &HedgeConfig{}, func(c any) error { _, err := NewHedge("x", nil, c.(*HedgeConfig)); return err }},
		{"Throttle.", &ThrottleConfig{}, func(c any) error { _, err := NewThrottle("x", c.(*ThrottleConfig)); return err }},
		{"Limiter.", &LimiterConfig{PerSecond: 1}, func(c any) error { _, err := NewLimiter("x", c.(*LimiterConfig)); return err }},
		{"KeyedLimiter.", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 1}}, func(c any) error {
			_, err := NewKeyedLimiter("x", c.(*KeyedLimiterConfig))
			return err
		}},
		{"Shedder.", &ShedderConfig{}, func(c any) error { _, err := NewShedder(c.(*ShedderConfig)); return err }},
		{"Destinations.", &DestinationsConfig{}, func(c any) error { _, err := NewDestinations(c.(*DestinationsConfig)); return err }},
		{"Middleware.", &MiddlewareConfig{}, func(c any) error { _, err := Middleware(c.(*MiddlewareConfig)); return err }},
	} {
		if err := tc.build(tc.config); err != nil {
			t.Errorf("%T as it is: %v", tc.config, err)
		}
		fields := 0
		each(reflect.ValueOf(tc.config).Elem(), tc.prefix, func(name string, field reflect.Value) {
			fields++
			valid := reflect.ValueOf(field.Interface())
			defer func() { field.Set(valid) }()
			for _, bad := range nonsense[field.Kind()] {
				if allowed[name] && negative(bad) {
					continue
				}
				field.Set(reflect.ValueOf(bad))
				err := tc.build(tc.config)
				if err == nil || !strings.HasPrefix(err.Error(), "resilience: "+name+" is ") || strings.Contains(err.Error(), "\n") {
					t.Errorf("%T with %s = %v: got %v, want one line that names the field", tc.config, name, bad, err)
				}
			}
		})
		if fields == 0 {
			t.Errorf("%T has no field to check", tc.config)
		}
	}
}

// each calls f for every number of a configuration. Those of a nested one are
// named after it: Config.Breaker.Window is "Breaker.Window".
func each(config reflect.Value, prefix string, f func(name string, field reflect.Value)) {
	for i := range config.NumField() {
		field, kind := config.Field(i), config.Type().Field(i)
		switch {
		case kind.Type.Kind() == reflect.Struct:
			name := kind.Name + "."
			switch kind.Name {
			case "Default": // of destinations: its parts have names of their own
				name = ""
			case "Limit":
				name = "Limiter."
			}
			each(field, name, f)
		case nonsense[kind.Type.Kind()] != nil:
			f(prefix+kind.Name, field)
		case kind.Type.Kind() == reflect.Bool, kind.Type.Kind() == reflect.Func, kind.Type.Kind() == reflect.Pointer:
		default:
			panic("resilience: a field of a kind that no test knows: " + kind.Name + " " + kind.Type.String())
		}
	}
}

// Values that are fine by themselves and not together.
func TestContradictionsAreRefused(t *testing.T) {
	pipeline := func(c Config) func() error {
		return func() error { _, err := NewPipeline("x", &c); return err }
	}
	for field, build := range map[string]func() error{
		"Deadline.Attempt":  pipeline(Config{Deadline: DeadlineConfig{Total: time.Second, Attempt: 2 * time.Second}}),
		"Retry.MaxDelay":    pipeline(Config{Retry: RetryConfig{BaseDelay: 2, MaxDelay: 1}}),
		"Retry.MaxAttempts": pipeline(Config{Retry: RetryConfig{MaxAttempts: 101}}),
		"Budget.TTL":        pipeline(Config{Budget: BudgetConfig{TTL: time.Millisecond}}),
		"Throttle.K":        pipeline(Config{Throttle: ThrottleConfig{K: 0.5}}),
		"Limiter.PerSecond": pipeline(Config{Limiter: LimiterConfig{Burst: 1}}),
		"Breaker.Buckets":   pipeline(Config{Breaker: BreakerConfig{Buckets: 1}}),
		"Breaker.Window":    pipeline(Config{Breaker: BreakerConfig{Window: 5 * time.Millisecond}}),
		"Shedder.MaxLimit":  func() error { _, err := NewShedder(&ShedderConfig{MinLimit: 9, MaxLimit: 3}); return err },
		"Shedder.InitialLimit": func() error {
			_, err := NewShedder(&ShedderConfig{InitialLimit: 3})
			return err
		},
		"Shedder.Tolerance":    func() error { _, err := NewShedder(&ShedderConfig{Tolerance: 0.5}); return err },
		"Destinations.IdleTTL": func() error { _, err := NewDestinations(&DestinationsConfig{IdleTTL: time.Millisecond}); return err },
		"KeyedLimiter.MaxKeys": func() error {
			_, err := NewKeyedLimiter("x", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 1}, MaxKeys: 1})
			return err
		},
		"Limiter.PerSecond ": func() error { _, err := NewLimiter("x", nil); return err },
		"Middleware.Key": func() error {
			_, err := Middleware(&MiddlewareConfig{Limiter: new(KeyedLimiter)})
			return err
		},
		"deadline": func() error { _, err := NewDeadline(0); return err },
	} {
		err := build()
		if err == nil || !strings.Contains(err.Error(), field) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want one line that names the field", field, err)
		}
	}
}

// A configuration that is made by Configure is refused with the first use, and
// costs the other destinations nothing.
func TestConfigureIsChecked(t *testing.T) {
	d := mustDestinations(t, &DestinationsConfig{Configure: func(name string, c *Config) {
		if name == "bad" {
			c.Breaker.FailureRate = 2
		}
	}})
	if _, err := d.Get("bad"); err == nil || !strings.Contains(err.Error(), "Breaker.FailureRate") {
		t.Fatalf("got %v, want the field's name", err)
	}
	if err := mustGet(t, d, "good").Execute(t.Context(), succeed); err != nil {
		t.Fatal(err)
	}
}

// The slowest limit there is overflows nothing.
func TestLimiterOfAlmostNothing(t *testing.T) {
	l, err := NewKeyedLimiter("x", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: math.SmallestNonzeroFloat64, Burst: maxCount}})
	if err != nil {
		t.Fatal(err)
	}
	q, _ := l.Allow("ada")
	if q.Window <= 0 || q.Reset < 0 || q.Window > maxDuration {
		t.Fatalf("%+v", q)
	}
	h := make(http.Header)
	setQuota(h, q)
	if strings.Contains(h.Get("RateLimit"), "-") {
		t.Fatal(h)
	}
}

// What a stranger claims about itself is capped or ignored, and its refusals are
// well formed whatever it sends.
func FuzzMiddleware(f *testing.F) {
	f.Add("CRITICAL_PLUS", "2", "ada", true)
	f.Add("critical", "-1", "", true)
	f.Add("SHEDDABLE", "99999999999999999999", strings.Repeat("k", 5000), true)
	f.Add("CRITICAL_PLUS", "100", "\x00\xff", false)
	limiter, err := NewKeyedLimiter("api", &KeyedLimiterConfig{Limit: LimiterConfig{PerSecond: 1e-6, Burst: 1}, MaxKeys: 16})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, criticality, attempt, key string, trusted bool) {
		guard, err := Middleware(&MiddlewareConfig{Limiter: limiter, Key: func(*http.Request) string { return key }, TrustCriticality: trusted})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header[HeaderCriticality] = []string{criticality}
		r.Header[HeaderAttempt] = []string{attempt}
		w := httptest.NewRecorder()
		guard(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			n, c := AttemptFrom(r.Context()), CriticalityFrom(r.Context())
			if n < 1 || n > maxAttemptOnWire || c < Sheddable || c > CriticalPlus {
				t.Errorf("attempt %d, criticality %d", n, c)
			}
			if !trusted && (n != 1 || HasCriticality(r.Context())) {
				t.Errorf("a stranger is believed: attempt %d, criticality %v", n, c)
			}
		})).ServeHTTP(w, r)
		if w.Code == http.StatusTooManyRequests {
			if _, ok := ParseRetryAfter(w.Header().Get("Retry-After"), time.Now()); !ok || w.Header().Get("RateLimit") == "" {
				t.Errorf("a refusal with headers %v", w.Header())
			}
		}
	})
}

// A server can make a client wait, for so long and no longer, and not crash it.
func FuzzTransportResponse(f *testing.F) {
	f.Add("3600", 503)
	f.Add("-1", 429)
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", 503)
	f.Add("9223372036854775807", 502)
	f.Fuzz(func(t *testing.T, after string, code int) {
		if code < 200 || code > 599 {
			return
		}
		d := mustDestinations(t, &DestinationsConfig{Default: Config{
			Retry: RetryConfig{BaseDelay: 1, MaxRetryAfter: 1},
			Hooks: &Hooks{Retry: func(_ context.Context, _ string, _ int, delay time.Duration, _ error) {
				if delay < 0 || delay > time.Microsecond {
					t.Errorf("Retry-After %q: waits %v, with a cap of 1ns", after, delay)
				}
			}},
		}})
		rt := NewTransport(roundTripper(func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: code, Header: http.Header{"Retry-After": {after}}, Body: http.NoBody, Request: r}, nil
		}), d)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://shop.test/", nil)
		resp, err := rt.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	})
}
