package idempotency

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Header is the name of the request header, and in lower case of the gRPC
// metadata, that carries the key.
const Header = "Idempotency-Key"

// ReplayedHeader is set to "true" on an answer that was stored earlier.
const ReplayedHeader = "Idempotent-Replayed"

// maxKey bounds a key's length in bytes.
const maxKey = 255

// Key identifies one attempt to do something once.
type Key struct {
	// Value is what the client sent, 1 to 255 visible ASCII characters.
	Value string
	// Scope is whose key it is: the end user where there is one, else the
	// calling service. Required.
	Scope string
	// Operation is what is to be done: a gRPC method, an HTTP route. Required.
	Operation string
	// Fingerprint is the hash of the request, see [Fingerprint]. Required.
	Fingerprint []byte
}

// Validate says which part is missing or too long. The error is ErrKeyInvalid
// for a bad Value; a missing scope, operation or fingerprint is a fault of the
// server's code.
func (k Key) Validate() error {
	if err := checkKey(k.Value); err != nil {
		return err
	}
	switch {
	case k.Scope == "":
		return errors.New("idempotency: Key.Scope is empty: name the user or the calling service, else one caller could read another's answer")
	case k.Operation == "":
		return errors.New("idempotency: Key.Operation is empty: name the operation")
	case len(k.Fingerprint) == 0:
		return errors.New("idempotency: Key.Fingerprint is empty: hash the request with idempotency.Fingerprint")
	case len(k.Scope) > 1024 || len(k.Operation) > 1024:
		return errors.New("idempotency: Key.Scope and Key.Operation are bounded to 1024 bytes each")
	}
	return nil
}

// Fingerprint hashes the parts of a request that make it the same request:
// operation, principal, and what was asked for. Parts are kept apart, so that
// moving a byte from one to the next changes the result.
func Fingerprint(parts ...[]byte) []byte {
	h := sha256.New()
	var size [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(size[:], uint64(len(p)))
		h.Write(size[:])
		h.Write(p)
	}
	return h.Sum(nil)
}

// NewKey returns a fresh random key with 130 bits of entropy.
func NewKey() string { return rand.Text() }

// ParseKey reads the header's value: an RFC 8941 item that is a string, as the
// IETF draft asks, or the bare characters, as most clients send it. Parameters of
// the item are checked and ignored, as the RFC says of unknown ones. The key has 1
// to 255 visible ASCII characters; a bare one has no quote, backslash or comma,
// and its semicolons are part of it. Any other value is ErrKeyInvalid; an empty
// one is ErrKeyMissing.
func ParseKey(header string) (string, error) {
	s := strings.Trim(header, " \t")
	if s == "" {
		return "", ErrKeyMissing
	}
	if s[0] != '"' {
		if i := strings.IndexAny(s, "\"\\,"); i >= 0 {
			return "", fmt.Errorf("%w: put a key with %q in quotes", ErrKeyInvalid, s[i])
		}
		return checked(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			if !parameters(s[i+1:]) {
				return "", fmt.Errorf("%w: what follows the closing quote is not a parameter", ErrKeyInvalid)
			}
			return checked(b.String())
		case '\\':
			i++
			if i == len(s) || (s[i] != '"' && s[i] != '\\') {
				return "", fmt.Errorf("%w: a backslash stands only before a quote or a backslash", ErrKeyInvalid)
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", fmt.Errorf("%w: no closing quote", ErrKeyInvalid)
}

// parameter is one of RFC 8941, section 3.1.2: a key and perhaps a bare item,
// which is a number, a string, a token, a byte sequence or a boolean.
var parameter = regexp.MustCompile(`^; *[a-z*][a-z0-9_.*-]*(?:=(?:` +
	`-?\d{1,12}\.\d{1,3}|-?\d{1,15}|` +
	`"(?:[ !#-\[\]-~]|\\["\\])*"|` +
	`[A-Za-z*][!#$%&'*+.^_\x60|~0-9A-Za-z:/-]*|` +
	`:[A-Za-z0-9+/=]*:|` +
	`\?[01]))?`)

// parameters reports whether s is nothing but parameters.
func parameters(s string) bool {
	for s != "" {
		n := len(parameter.FindString(s))
		if n == 0 {
			return false
		}
		s = s[n:]
	}
	return true
}

// FormatKey renders a key as the header's value, quoted. It is the inverse of
// [ParseKey].
func FormatKey(key string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(key) + `"`
}

func checked(key string) (string, error) {
	if err := checkKey(key); err != nil {
		return "", err
	}
	return key, nil
}

func checkKey(key string) error {
	if key == "" {
		return ErrKeyMissing
	}
	if len(key) > maxKey {
		return fmt.Errorf("%w: %d characters, at most %d are allowed", ErrKeyInvalid, len(key), maxKey)
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' {
			return fmt.Errorf("%w: character %d is not visible ASCII", ErrKeyInvalid, i+1)
		}
	}
	return nil
}

type outgoingKey struct{}

// WithKey sets the key of the calls made under ctx: the transports and client
// interceptors of this package send it.
func WithKey(ctx context.Context, key string) context.Context {
	return context.WithValue(ctx, outgoingKey{}, key)
}

// KeyFrom returns the outgoing key set by [WithKey].
func KeyFrom(ctx context.Context) (string, bool) {
	key, ok := ctx.Value(outgoingKey{}).(string)
	return key, ok && key != ""
}

type incomingKey struct{}

// WithRequest sets the key of the request that ctx serves. The middleware and
// the interceptors do it; a handler of another transport may.
func WithRequest(ctx context.Context, k Key) context.Context {
	return WithLazyRequest(ctx, func() (Key, error) { return k, nil })
}

// WithLazyRequest is [WithRequest] for a key whose fingerprint is known only
// once the request has been read. It is called each time the key is asked for.
func WithLazyRequest(ctx context.Context, key func() (Key, error)) context.Context {
	return context.WithValue(ctx, incomingKey{}, lazyKey(key))
}

// keyed is what a context has under incomingKey.
type keyed interface{ request() (Key, error) }

type lazyKey func() (Key, error)

func (f lazyKey) request() (Key, error) { return f() }

// WithoutRequest says that the request that ctx serves was looked at and has no
// key. A key that was set before stays.
func WithoutRequest(ctx context.Context) context.Context {
	if Parsed(ctx) {
		return ctx
	}
	return WithLazyRequest(ctx, func() (Key, error) { return Key{}, ErrKeyMissing })
}

// Parsed reports whether the request that ctx serves was looked at for a key. Where
// it was not, a middleware or an interceptor is missing, and [Request] would find
// no key even if the client had sent one.
func Parsed(ctx context.Context) bool { return ctx.Value(incomingKey{}) != nil }

// Request returns the key of the request that ctx serves, reading what is left
// of its body to complete the fingerprint; the handler can still read it. It
// returns ErrKeyMissing where there is none, or the failure to read the body.
func Request(ctx context.Context) (Key, error) {
	found, ok := ctx.Value(incomingKey{}).(keyed)
	if !ok {
		return Key{}, ErrKeyMissing
	}
	return found.request()
}

// RequestFrom is [Request] for those to whom a key that cannot be had is as
// good as none.
func RequestFrom(ctx context.Context) (Key, bool) {
	k, err := Request(ctx)
	return k, err == nil
}
