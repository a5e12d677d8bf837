package authn

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
)

// UserRule says whether a method is called on behalf of a user.
type UserRule int

const (
	// NoUser: workload to workload. A token, if sent, is not looked at.
	NoUser UserRule = iota
	// UserOptional: a token is verified if sent; a bad one is refused.
	UserOptional
	// UserRequired: only with a verified token.
	UserRequired
)

// String returns "none", "optional" or "required".
func (u UserRule) String() string {
	switch u {
	case NoUser:
		return "none"
	case UserOptional:
		return "optional"
	case UserRequired:
		return "required"
	}
	return fmt.Sprintf("UserRule(%d)", int(u))
}

// Rule says who may call one method, or every method of one service.
type Rule struct {
	// Method is a full gRPC method name, "/package.Service/Method", or
	// "/package.Service/*" for all methods of a service. Where both match, the
	// full name decides alone; rules are never merged.
	Method string

	// From lists the workloads that may call. Required unless AnyWorkload.
	From []spiffeid.ID

	// AnyWorkload admits every workload that the server's TLS authorizer let
	// connect: for health checks and the like. It excludes From.
	AnyWorkload bool

	// User says whether the call must carry a user's token. Defaults to NoUser.
	User UserRule

	// Scopes are scopes that the user must all have. They need UserRequired.
	Scopes []string
}

// Policy maps each method of a server to those who may call it. What no rule
// names is denied. A Policy is immutable and safe for concurrent use; a nil
// *Policy denies everything.
type Policy struct {
	exact   map[string]Rule
	service map[string]Rule // keyed "/package.Service/"
}

var methodPattern = regexp.MustCompile(`^/[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*/(\*|[A-Za-z_][A-Za-z0-9_]*)$`)

// NewPolicy builds a policy and refuses, naming every fault, one that is
// ambiguous or says nothing: two rules for one method, a malformed method, a
// rule that admits nobody, scopes without a required user.
func NewPolicy(rules ...Rule) (*Policy, error) {
	p := &Policy{exact: map[string]Rule{}, service: map[string]Rule{}}
	var faults []string
	for _, r := range rules {
		if fault := p.add(r); fault != "" {
			faults = append(faults, fault)
		}
	}
	if len(faults) > 0 {
		return nil, errors.New("authn: policy: " + strings.Join(faults, "; "))
	}
	return p, nil
}

func (p *Policy) add(r Rule) (fault string) {
	r.From = slices.Clone(r.From)
	r.Scopes = slices.Clone(r.Scopes)
	name := fmt.Sprintf("rule for %q", r.Method)
	switch {
	case !methodPattern.MatchString(r.Method):
		return name + `: Method must be "/package.Service/Method" or "/package.Service/*"`
	case len(r.From) == 0 && !r.AnyWorkload:
		return name + " admits nobody: list the callers in From, or set AnyWorkload"
	case len(r.From) > 0 && r.AnyWorkload:
		return name + " has both From and AnyWorkload: keep one"
	case slices.ContainsFunc(r.From, spiffeid.ID.IsZero):
		return name + ": From holds an empty SPIFFE ID"
	case slices.ContainsFunc(r.From, func(id spiffeid.ID) bool { return id.Path() == "" }):
		return name + ": From holds a trust domain without a path: name the workload, or set AnyWorkload"
	case r.User < NoUser || r.User > UserRequired:
		return name + ": User must be NoUser, UserOptional or UserRequired"
	case len(r.Scopes) > 0 && r.User != UserRequired:
		return name + " asks for scopes: set User to UserRequired"
	case slices.ContainsFunc(r.Scopes, func(s string) bool { return s == "" || strings.ContainsAny(s, " \t\r\n") }):
		return name + ": Scopes holds an empty scope or one with a space"
	}
	rules, key := p.exact, r.Method
	if service, all := strings.CutSuffix(r.Method, "*"); all {
		rules, key = p.service, service
	}
	if _, taken := rules[key]; taken {
		return name + " stands twice: keep one"
	}
	rules[key] = r
	return ""
}

// rule returns the one rule that decides on method.
func (p *Policy) rule(method string) (Rule, bool) {
	if p == nil {
		return Rule{}, false
	}
	if r, ok := p.exact[method]; ok {
		return r, true
	}
	if i := strings.LastIndexByte(method, '/'); i >= 0 {
		r, ok := p.service[method[:i+1]]
		return r, ok
	}
	return Rule{}, false
}

// AuthorizePeer decides by the caller's workload identity alone, and returns
// the user rule that is then to be met. It is the first half of Authorize, to
// be asked before a token is parsed for a caller who has no business here.
//
// Errors: [ErrPeerUnknown] for a zero peer, [ErrDenied] if no rule names the
// method or the rule does not name the peer.
func (p *Policy) AuthorizePeer(method string, peer spiffeid.ID) (UserRule, error) {
	if peer.IsZero() {
		return UserRequired, ErrPeerUnknown
	}
	r, ok := p.rule(method)
	if !ok {
		return UserRequired, fmt.Errorf("%w: no rule names %q", ErrDenied, method)
	}
	if !r.AnyWorkload && !slices.Contains(r.From, peer) {
		return UserRequired, fmt.Errorf("%w: %s may not call %s", ErrDenied, peer, method)
	}
	return r.User, nil
}

// Authorize decides whether peer, on behalf of user (nil: of nobody), may call
// method. A nil error is the only yes.
//
// Errors: those of AuthorizePeer; [ErrTokenMissing] if the method needs a user;
// [ErrScopeMissing] if the user lacks a scope.
func (p *Policy) Authorize(method string, peer spiffeid.ID, user *Principal) error {
	rule, err := p.AuthorizePeer(method, peer)
	if err != nil {
		return err
	}
	if rule != UserRequired {
		return nil
	}
	if user == nil || !user.IsUser() {
		return fmt.Errorf("%w: %s is called on behalf of a user", ErrTokenMissing, method)
	}
	r, _ := p.rule(method)
	if !user.HasScopes(r.Scopes...) {
		return fmt.Errorf("%w: %s asks for %s", ErrScopeMissing, method, strings.Join(r.Scopes, " "))
	}
	return nil
}

// NeedsVerifier reports whether any rule looks at a user's token, so that a
// server can refuse to start without a Verifier.
func (p *Policy) NeedsVerifier() bool {
	if p == nil {
		return false
	}
	for _, rules := range []map[string]Rule{p.exact, p.service} {
		for _, r := range rules {
			if r.User != NoUser {
				return true
			}
		}
	}
	return false
}

// Authorizer returns the TLS authorizer that admits exactly the identities
// some rule of p names, so that a stranger does not get as far as a method. If
// a rule says AnyWorkload, all members of domain are admitted too.
func (p *Policy) Authorizer(domain spiffeid.TrustDomain) tlsconfig.Authorizer {
	named := map[spiffeid.ID]bool{}
	anyMember := false
	if p != nil {
		for _, rules := range []map[string]Rule{p.exact, p.service} {
			for _, r := range rules {
				anyMember = anyMember || r.AnyWorkload
				for _, id := range r.From {
					named[id] = true
				}
			}
		}
	}
	return tlsconfig.AdaptMatcher(func(id spiffeid.ID) error {
		if named[id] || anyMember && !domain.IsZero() && id.MemberOf(domain) {
			return nil
		}
		return fmt.Errorf("%w: no rule of the policy names %s", ErrDenied, id)
	})
}
