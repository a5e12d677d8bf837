package gateway

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	orderv1 "github.com/napkin-kit/napkin/examples/shop/api/order/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/kit/problem"
)

func TestPlainRefusesWhatNoMethodMeans(t *testing.T) {
	var passed *http.Request
	h := plain(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { passed = r }))
	for _, tt := range []struct {
		name, target, body string
		header             map[string]string
		status             int
	}{
		{"no body", "/v1/orders", "", nil, 200},
		{"json", "/v1/orders", "{}", map[string]string{"Content-Type": "application/json"}, 200},
		{"media types have no case", "/v1/orders", "{}", map[string]string{"Content-Type": "Application/JSON; charset=UTF-8"}, 200},
		{"no type", "/v1/orders", "{}", nil, 415},
		{"another type", "/v1/orders", "{}", map[string]string{"Content-Type": "application/jsonx"}, 415},
		{"another charset", "/v1/orders", "{}", map[string]string{"Content-Type": "application/json; charset=utf-16"}, 415},
		{"compressed", "/v1/orders", "{}", map[string]string{"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415},
		{"not compressed", "/v1/orders", "{}", map[string]string{"Content-Type": "application/json", "Content-Encoding": "identity"}, 200},
		{"path", "/v1/orders/x%ff/events", "", nil, 400},
		{"query", "/v1/orders?page_token=%ff", "", nil, 400},
		{"name in the query", "/v1/orders?%ff=1", "", nil, 400},
		{"key", "/v1/orders", "", map[string]string{"Idempotency-Key": "é"}, 400},
		{"a deadline of the client's", "/v1/orders", "", map[string]string{"Grpc-Timeout": "1n"}, 200},
	} {
		t.Run(tt.name, func(t *testing.T) {
			passed = nil
			r := httptest.NewRequest(http.MethodPost, tt.target, strings.NewReader(tt.body))
			for k, v := range tt.header {
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status || (passed != nil) != (tt.status == http.StatusOK) {
				t.Errorf("status %d, want %d: %s", w.Code, tt.status, w.Body)
			}
			// With it, a client could make calls fail at will until the breaker opens for everyone.
			if passed != nil && passed.Header.Get("Grpc-Timeout") != "" {
				t.Error("the client sets the calls' deadline")
			}
		})
	}
}

func TestBodiesAreDecodedByTheContract(t *testing.T) {
	for name, tt := range map[string]struct{ body, field, message string }{
		"good":                  {`{"payment_method_id": "pm", "items": [{"product_id": "p", "quantity": 2}]}`, "", ""},
		"a whole number":        {`{"items": [{"quantity": 2.0}]}`, "", ""},
		"null is left out":      {`{"items": null}`, "", ""},
		"number in quotes":      {`{"items": [{"quantity": "1"}]}`, "items[0].quantity", "must be a whole number"},
		"fraction":              {`{"items": [{"quantity": 1.5}]}`, "items[0].quantity", "must be a whole number of at most 32 bits"},
		"huge":                  {`{"items": [{"quantity": 1e999}]}`, "items[0].quantity", "must be a whole number of at most 32 bits"},
		"camel case":            {`{"paymentMethodId": "pm"}`, "paymentMethodId", "unknown field"},
		"price":                 {`{"items": [{"product_id": "p"}, {"unit_price": {}}]}`, "items[1].unit_price", "unknown field"},
		"the first of several":  {`{"zz": 1, "yy": 1, "xx": 1}`, "xx", "unknown field"},
		"no name":               {`{"": 1}`, `""`, "unknown field"},
		"long name":             {`{"` + strings.Repeat("é", 60) + `": 1}`, strings.Repeat("é", 40), "unknown field"},
		"long name, cut within": {`{"a` + strings.Repeat("é", 60) + `": 1}`, "a" + strings.Repeat("é", 39), "unknown field"},
		"twice":                 {`{"payment_method_id": "a", "payment_method_id": "b"}`, "$", `duplicate field "payment_method_id"`},
		"two":                   {`{} {}`, "$", "something follows the JSON at byte 4"},
		"half":                  {`{"items": [`, "$", "the JSON ends too early"},
		"bad literal":           {`{"items": NaN}`, "$", "malformed JSON at byte 11"},
		"too deep":              {strings.Repeat("[", 20000), "$", "malformed JSON at byte 10001"},
		"list":                  {`[]`, "$", "must be an object"},
		"null":                  {`null`, "$", "must be an object"},
	} {
		t.Run(name, func(t *testing.T) {
			err := strictJSON{}.NewDecoder(strings.NewReader(tt.body)).Decode(&orderv1.CreateOrderRequest{})
			if tt.field == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal("it was taken")
			}
			p := decodeProblem(err.Error())
			if p == nil || len(p.Fields) != 1 || p.Fields[0] != (problem.Field{Field: tt.field, Message: tt.message}) {
				t.Errorf("got %v: %+v", err, p)
			}
		})
	}
}

// A body that is one field of the request is decoded as strictly, with the same paths.
func TestBodyOfOneField(t *testing.T) {
	decode := func(body string) (*userv1.PutPreferencesRequest, error) {
		var in userv1.PutPreferencesRequest
		return &in, strictJSON{}.NewDecoder(strings.NewReader(body)).Decode(&in.Preferences)
	}
	if in, err := decode(`{"email": true}`); err != nil || !in.GetPreferences().GetEmail() {
		t.Errorf("got %v, %v", in, err)
	}
	for body, field := range map[string]string{`{"fax": true}`: "fax", `{"sms": "yes"}`: "sms"} {
		in, err := decode(body)
		if err == nil || in.GetPreferences() != nil {
			t.Fatalf("%s was taken", body)
		}
		if p := decodeProblem(err.Error()); p == nil || p.Fields[0].Field != field {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestMethodsNotAllowedNameTheOthers(t *testing.T) {
	methods, err := newAllowed()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/v1/orders": "GET, HEAD, POST", "/v1/orders/o-1/cancel": "POST", "/v1/me": "GET, HEAD, PATCH"} {
		w := httptest.NewRecorder()
		routingError(methods)(t.Context(), nil, nil, w, httptest.NewRequest(http.MethodTrace, path, nil), http.StatusMethodNotAllowed)
		var p problem.Problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != want {
			t.Errorf("%s: %d, Allow %q, want %q, %v", path, w.Code, w.Header().Get("Allow"), want, err)
		}
	}
}

func TestHeadIsGetWithoutABody(t *testing.T) {
	var method string
	h := headAsGet(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { method = r.Method }))
	for sent, want := range map[string]string{http.MethodHead: http.MethodGet, http.MethodGet: http.MethodGet, http.MethodPost: http.MethodPost} {
		if h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(sent, "/", nil)); method != want {
			t.Errorf("%s became %s", sent, method)
		}
	}
}
