package page

import (
	"fmt"
	"html/template"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	commonv1 "github.com/napkin-kit/napkin/examples/shop/api/common/v1"
)

var functions = template.FuncMap{
	"asset":    assetURL,
	"money":    Money,
	"when":     when,
	"clock":    clock,
	"label":    label,
	"prefix":   strings.HasPrefix,
	"short":    short,
	"quantity": quantity,
}

var symbols = map[string]string{"EUR": "€", "USD": "$", "GBP": "£"}

// undivided are currencies without a smaller unit (ISO 4217).
var undivided = map[string]bool{"JPY": true, "KRW": true}

// Money writes an amount as people do: €19.99.
func Money(m *commonv1.Money) string {
	n, sign := int64(m.GetAmountMinor()), ""
	if n < 0 {
		n, sign = -n, "−"
	}
	digits := fmt.Sprintf("%d.%02d", n/100, n%100)
	if undivided[m.GetCurrency()] {
		digits = fmt.Sprint(n)
	}
	if s, ok := symbols[m.GetCurrency()]; ok {
		return sign + s + digits
	}
	return strings.TrimSpace(sign + digits + " " + m.GetCurrency())
}

// when is a moment, for people and programs.
func when(t *timestamppb.Timestamp) template.HTML { return moment(t, "2 Jan 2006, 15:04 MST") }

// clock is a moment to the millisecond.
func clock(t *timestamppb.Timestamp) template.HTML { return moment(t, "2 Jan 15:04:05.000") }

func moment(t *timestamppb.Timestamp, layout string) template.HTML {
	if !t.IsValid() || t.AsTime().Unix() == 0 {
		return "–"
	}
	at := t.AsTime().UTC()
	// Both are made of digits, letters and punctuation that HTML gives no meaning.
	return template.HTML(`<time datetime="` + at.Format(time.RFC3339Nano) + `">` + at.Format(layout) + `</time>`)
}

// label turns a name for programs into words: "order-confirmed" into "Order confirmed".
func label(s string) string {
	s = strings.NewReplacer("-", " ", "_", " ").Replace(s)
	if s == "" {
		return "–"
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// short is the end of an id, by which people tell orders apart.
func short(id string) string {
	_, rest, found := strings.Cut(id, "_")
	if !found {
		rest = id
	}
	if len(rest) > 8 {
		rest = rest[len(rest)-8:]
	}
	return strings.ToUpper(rest)
}

func quantity(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
