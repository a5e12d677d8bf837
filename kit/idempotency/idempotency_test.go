package idempotency_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/napkin-kit/napkin/kit/idempotency"
	"github.com/napkin-kit/napkin/kit/problem"
)

func TestParseKey(t *testing.T) {
	for _, c := range []struct {
		in, want string
		err      error
	}{
		{"8e03978e-40d5-43dd-bc93-6894a57f9324", "8e03978e-40d5-43dd-bc93-6894a57f9324", nil},
		{`"8e03978e-40d5-43dd-bc93-6894a57f9324"`, "8e03978e-40d5-43dd-bc93-6894a57f9324", nil},
		{"  abc\t", "abc", nil},
		{`"a\"b\\c"`, `a"b\c`, nil},
		{`"a,b;c"`, "a,b;c", nil},
		{"saga/1/step", "saga/1/step", nil},
		{strings.Repeat("x", 255), strings.Repeat("x", 255), nil},
		{"", "", idempotency.ErrKeyMissing},
		{"   ", "", idempotency.ErrKeyMissing},
		{`""`, "", idempotency.ErrKeyMissing},
		{strings.Repeat("x", 256), "", idempotency.ErrKeyInvalid},
		{strings.Repeat("x", 10_000), "", idempotency.ErrKeyInvalid},
		{`"open`, "", idempotency.ErrKeyInvalid},
		{`"`, "", idempotency.ErrKeyInvalid},
		{`"a" `, "a", nil},
		{`"a"b`, "", idempotency.ErrKeyInvalid},
		{`"a", "b"`, "", idempotency.ErrKeyInvalid},
		{`"a";retry`, "a", nil},
		{`"a"; n=1;d=-12.345; s="x \"; y";t=*tok/en:1 ;b=:aGk=:;f=?0`, "", idempotency.ErrKeyInvalid}, // a space before the semicolon
		{`"a"; n=1;d=-12.345; s="x \"; y";t=*tok/en:1;b=:aGk=:;f=?0`, "a", nil},
		{`"a";`, "", idempotency.ErrKeyInvalid},
		{`"a";N=1`, "", idempotency.ErrKeyInvalid},
		{`"a";n=`, "", idempotency.ErrKeyInvalid},
		{`"a";n=1234567890123456`, "", idempotency.ErrKeyInvalid},
		{`"a";n="open`, "", idempotency.ErrKeyInvalid},
		{`"a";n=?2`, "", idempotency.ErrKeyInvalid},
		{"a;b", "a;b", nil}, // bare, so no item
		{`a, b`, "", idempotency.ErrKeyInvalid},
		{`"a\x"`, "", idempotency.ErrKeyInvalid},
		{`"a\`, "", idempotency.ErrKeyInvalid},
		{"a b", "", idempotency.ErrKeyInvalid},
		{`"a b"`, "", idempotency.ErrKeyInvalid},
		{"ключ", "", idempotency.ErrKeyInvalid},
		{"a\x00b", "", idempotency.ErrKeyInvalid},
	} {
		got, err := idempotency.ParseKey(c.in)
		if !errors.Is(err, c.err) || got != c.want {
			t.Errorf("ParseKey(%.40q) = %q, %v; want %q, %v", c.in, got, err, c.want, c.err)
		}
	}
}

func TestFormatThenParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringMatching(`[!-~]{1,255}`).Draw(t, "key")
		got, err := idempotency.ParseKey(idempotency.FormatKey(key))
		if err != nil || got != key {
			t.Fatalf("%q came back as %q, %v", key, got, err)
		}
	})
}

// Whatever a client sends, a key that is accepted is valid, and is the same key
// when sent on.
func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"abc", `"abc"`, `"a\"b\\c"`, `"open`, "a,b", `"a"b`, " x ", "\xff", `"\`, `"a";b=1.5;c="\""`, `"a";b=:=:`, `"";a`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		key, err := idempotency.ParseKey(in)
		if err != nil {
			if !errors.Is(err, idempotency.ErrKeyInvalid) && !errors.Is(err, idempotency.ErrKeyMissing) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if len(key) == 0 || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Fatalf("accepted %q", key)
		}
		again, err := idempotency.ParseKey(idempotency.FormatKey(key))
		if err != nil || again != key {
			t.Fatalf("%q sent on is %q, %v", key, again, err)
		}
	})
}

func TestFingerprintKeepsPartsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		parts := rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 0, 4))
		a, b := parts.Draw(t, "a"), parts.Draw(t, "b")
		same := len(a) == len(b)
		for i := range min(len(a), len(b)) {
			same = same && string(a[i]) == string(b[i])
		}
		if got := string(idempotency.Fingerprint(a...)) == string(idempotency.Fingerprint(b...)); got != same {
			t.Fatalf("fingerprints equal: %v, requests equal: %v", got, same)
		}
	})
}

func TestErrorsAnswerThemselves(t *testing.T) {
	for err, status := range map[error]int{
		idempotency.ErrKeyMissing: 400, idempotency.ErrKeyInvalid: 400, idempotency.ErrMismatch: 422,
		idempotency.ErrInProgress: 409, idempotency.ErrLeaseLost: 409, idempotency.ErrTooLarge: 500, idempotency.ErrFull: 503,
	} {
		wrapped := errors.Join(errors.New("secret of the operator"), err)
		p := problem.Of(wrapped)
		if p.Status != status || strings.Contains(p.Detail, "secret") {
			t.Errorf("%v: answered %d %q", err, p.Status, p.Detail)
		}
		if !errors.Is(p, err) {
			t.Errorf("%v: not to be found in its problem", err)
		}
	}
	if problem.Of(idempotency.ErrInProgress).RetryAfter == 0 {
		t.Error("409 without Retry-After")
	}
}

// sent returns the keys that reach the server.
func sent(t *testing.T, do func(c *http.Client, url string)) []string {
	t.Helper()
	var keys []string
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get(idempotency.Header))
	}))
	defer srv.Close()
	twice := retryOnce{srv.Client().Transport}
	do(&http.Client{Transport: idempotency.NewTransport(twice, nil)}, srv.URL)
	return keys
}

// retryOnce sends each request twice, as a retrying transport might.
type retryOnce struct{ base http.RoundTripper }

func (t retryOnce) RoundTrip(r *http.Request) (*http.Response, error) {
	if resp, err := t.base.RoundTrip(r.Clone(r.Context())); err == nil {
		resp.Body.Close()
	}
	return t.base.RoundTrip(r)
}

func TestTransportSendsOneKeyForAllAttempts(t *testing.T) {
	request := func(ctx func(*http.Request) *http.Request, method string) func(*http.Client, string) {
		return func(c *http.Client, url string) {
			r, _ := http.NewRequestWithContext(t.Context(), method, url, nil)
			r = ctx(r)
			before := r.Header.Get(idempotency.Header)
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if r.Header.Get(idempotency.Header) != before {
				t.Error("the caller's request was changed")
			}
		}
	}
	plain := func(r *http.Request) *http.Request { return r }
	withKey := func(r *http.Request) *http.Request {
		return r.WithContext(idempotency.WithKey(r.Context(), "step/1"))
	}
	withHeader := func(r *http.Request) *http.Request {
		r = withKey(r)
		r.Header.Set(idempotency.Header, "mine")
		return r
	}
	first := sent(t, request(plain, "POST"))
	if len(first) != 2 || first[0] == "" || first[0] != first[1] {
		t.Errorf("POST sent %q, want one fresh key twice", first)
	}
	if again := sent(t, request(plain, "POST")); again[0] == first[0] {
		t.Error("two requests got one key")
	}
	for name, c := range map[string]struct {
		do   func(*http.Client, string)
		want string
	}{
		"GET":               {request(plain, "GET"), ""},
		"GET with a key":    {request(withKey, "GET"), ""},
		"PUT":               {request(plain, "PUT"), ""},
		"PUT with a key":    {request(withKey, "PUT"), `"step/1"`},
		"POST with a key":   {request(withKey, "POST"), `"step/1"`},
		"header goes first": {request(withHeader, "POST"), "mine"},
	} {
		if got := sent(t, c.do); got[0] != c.want || got[1] != c.want {
			t.Errorf("%s: sent %q, want %q", name, got, c.want)
		}
	}
}
