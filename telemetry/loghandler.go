package telemetry

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"go.opentelemetry.io/otel/trace"

	"github.com/napkin-kit/napkin/kit/correlation"
)

// Redacted is what stands in a log where a secret would have stood.
const Redacted = "[redacted]"

// Secret is a string that logs and fmt show as "[redacted]". Convert to string to use it.
type Secret string

// LogValue implements [slog.LogValuer].
func (Secret) LogValue() slog.Value { return slog.StringValue(Redacted) }

// String implements [fmt.Stringer].
func (Secret) String() string { return Redacted }

// GoString implements [fmt.GoStringer].
func (Secret) GoString() string { return Redacted }

// MarshalJSON implements json.Marshaler.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// DefaultSecretNames are the attribute names whose values never reach a log, in
// lower case. A name matches as a whole, with '-' and '_' and case disregarded.
func DefaultSecretNames() []string {
	return []string{
		"access_token", "api_key", "apikey", "authorization", "card_number", "client_secret", "cookie",
		"cvc", "cvv", "id_token", "pan", "password", "passwd", "private_key", "refresh_token", "secret",
		"set_cookie", "token",
	}
}

// NewHandler wraps a slog handler so that each record bears the identifiers of its
// context, at the top level, and bears no secret: see the package's notes on logs.
// secretNames add to [DefaultSecretNames].
func NewHandler(inner slog.Handler, secretNames ...string) slog.Handler {
	secret := make(map[string]bool)
	for _, name := range slices.Concat(DefaultSecretNames(), secretNames) {
		secret[plain(name)] = true
	}
	return &handler{inner: inner, secret: secret}
}

// handler holds back open groups, so that what it adds is not caught inside them.
type handler struct {
	inner  slog.Handler
	secret map[string]bool
	groups []group
}

type group struct {
	name  string
	attrs []slog.Attr
}

func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.inner.Enabled(ctx, level)
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	if len(attrs) == 0 {
		return h
	}
	attrs = h.redactAll(attrs)
	next := *h
	if n := len(h.groups); n > 0 {
		next.groups = slices.Clone(h.groups)
		next.groups[n-1].attrs = slices.Concat(next.groups[n-1].attrs, attrs)
	} else {
		next.inner = h.inner.WithAttrs(attrs)
	}
	return &next
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.groups = append(slices.Clone(h.groups), group{name: name})
	return &next
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	out.AddAttrs(identifiers(ctx)...)
	attrs := make([]slog.Attr, 0, r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		attrs = append(attrs, h.redact(a))
		return true
	})
	for i := len(h.groups) - 1; i >= 0; i-- {
		g := h.groups[i]
		attrs = []slog.Attr{{Key: g.name, Value: slog.GroupValue(slices.Concat(g.attrs, attrs)...)}}
	}
	out.AddAttrs(attrs...)
	return h.inner.Handle(ctx, out)
}

// identifiers returns what ctx says about whose work this is.
func identifiers(ctx context.Context) []slog.Attr {
	if ctx == nil {
		return nil
	}
	var attrs []slog.Attr
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		attrs = append(attrs, slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	ids := correlation.From(ctx)
	for _, id := range [...]struct{ name, value string }{
		{"request_id", ids.RequestID}, {"correlation_id", ids.CorrelationID}, {"user_id", ids.UserID},
	} {
		if id.value != "" {
			attrs = append(attrs, slog.String(id.name, id.value))
		}
	}
	return attrs
}

func (h *handler) redactAll(attrs []slog.Attr) []slog.Attr {
	out := make([]slog.Attr, len(attrs))
	for i, a := range attrs {
		out[i] = h.redact(a)
	}
	return out
}

func (h *handler) redact(a slog.Attr) slog.Attr {
	a.Value = a.Value.Resolve()
	if a.Value.Kind() == slog.KindGroup {
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(h.redactAll(a.Value.Group())...)}
	}
	if h.secret[plain(a.Key)] {
		return slog.String(a.Key, Redacted)
	}
	return a
}

// plain folds the spellings of one name: Set-Cookie, set_cookie, SetCookie.
func plain(name string) string {
	clean := true
	for i := range len(name) {
		if c := name[i]; c == '-' || c == '_' || 'A' <= c && c <= 'Z' {
			clean = false
			break
		}
	}
	if clean {
		return name
	}
	return strings.ToLower(strings.NewReplacer("-", "", "_", "").Replace(name))
}
