package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/napkin-kit/napkin/contracttest/pact"
)

// Selector picks consumers' versions whose contracts are to be verified. Its fields are the broker's own
// (https://docs.pact.io/pact_broker/advanced_topics/consumer_version_selectors); what is left empty does not limit.
type Selector struct {
	MainBranch         bool   `json:"mainBranch,omitempty"`
	Branch             string `json:"branch,omitempty"`
	FallbackBranch     string `json:"fallbackBranch,omitempty"`
	MatchingBranch     bool   `json:"matchingBranch,omitempty"`
	Deployed           bool   `json:"deployed,omitempty"`
	Released           bool   `json:"released,omitempty"`
	DeployedOrReleased bool   `json:"deployedOrReleased,omitempty"`
	Environment        string `json:"environment,omitempty"`
	Tag                string `json:"tag,omitempty"`
	FallbackTag        string `json:"fallbackTag,omitempty"`
	Latest             bool   `json:"latest,omitempty"`
	Consumer           string `json:"consumer,omitempty"`
}

// Usual are the selectors that the broker's documentation recommends: the consumers' main branches, their
// branches of the provider's name, and whatever is deployed or released.
func Usual() []Selector {
	return []Selector{{MainBranch: true}, {MatchingBranch: true}, {DeployedOrReleased: true}}
}

// Selection says which contracts the provider verifies.
type Selection struct {
	// Selectors pick the contracts. None: the broker's default, the latest ones.
	Selectors []Selector
	// ProviderBranch is the branch whose version verifies. The broker needs it to tell pending contracts and
	// matching branches.
	ProviderBranch string
	// ProviderTags do the same for brokers that go by tags.
	ProviderTags []string
	// Pending has the broker say which contracts this branch never fulfilled: a new expectation of a consumer then
	// is reported, and does not fail the provider's build (https://docs.pact.io/pending).
	Pending bool
	// WIPSince adds the latest contracts of all branches that no version of the provider has fulfilled yet, if they
	// are newer (https://docs.pact.io/wip). Needs Pending. Zero: none.
	WIPSince time.Time
}

// Source is the contracts that s selects. Their verification's result goes back to the broker by [pact.Pact.Publish].
func (c *Client) Source(s Selection) pact.Source { return source{c, s} }

type source struct {
	client    *Client
	selection Selection
}

// Pacts implements [pact.Source].
func (s source) Pacts(ctx context.Context, provider string) ([]pact.Pact, error) {
	body := map[string]any{"includePendingStatus": s.selection.Pending}
	if len(s.selection.Selectors) > 0 {
		body["consumerVersionSelectors"] = s.selection.Selectors
	}
	if s.selection.ProviderBranch != "" {
		body["providerVersionBranch"] = s.selection.ProviderBranch
	}
	if len(s.selection.ProviderTags) > 0 {
		body["providerVersionTags"] = s.selection.ProviderTags
	}
	if !s.selection.WIPSince.IsZero() {
		if !s.selection.Pending {
			return nil, errors.New("broker: WIPSince needs Pending: what nobody fulfilled yet must not fail the build")
		}
		body["includeWipPactsSince"] = s.selection.WIPSince.Format(time.RFC3339)
	}
	index, err := s.client.index(ctx)
	if err != nil {
		return nil, err
	}
	target, err := index.follow("pb:provider-pacts-for-verification", map[string]string{"provider": provider})
	if err != nil {
		return nil, err
	}
	var list struct {
		Embedded *struct {
			Pacts []struct {
				hal
				Properties struct {
					Pending bool `json:"pending"`
					Notices []struct{ When, Text string }
				} `json:"verificationProperties"`
			} `json:"pacts"`
		} `json:"_embedded"`
	}
	err = s.client.do(ctx, http.MethodPost, target, body, &list)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, fmt.Errorf("broker: %w: no consumer ever published a contract with %q", ErrNotFound, provider)
	case err != nil:
		return nil, err
	case list.Embedded == nil:
		return nil, fmt.Errorf("broker: %w: the list of contracts has no _embedded", ErrMalformed)
	case len(list.Embedded.Pacts) == 0:
		return nil, fmt.Errorf("broker: no contract with %s matches the selectors", provider)
	}
	var pacts []pact.Pact
	for _, entry := range list.Embedded.Pacts {
		target, err := entry.follow("self", nil)
		if err != nil {
			return nil, err
		}
		p, err := s.client.fetch(ctx, index, target)
		if err != nil {
			return nil, err
		}
		if p.Provider != provider {
			return nil, fmt.Errorf("broker: %w: %s is a contract with %s, not with %s", ErrMalformed, p.Origin, p.Provider, provider)
		}
		p.Pending = entry.Properties.Pending
		for _, n := range entry.Properties.Notices {
			if n.When == "before_verification" {
				p.Notices = append(p.Notices, n.Text)
			}
		}
		pacts = append(pacts, p)
	}
	return pacts, nil
}

// fetch gets one contract.
func (c *Client) fetch(ctx context.Context, index hal, target string) (pact.Pact, error) {
	var raw json.RawMessage
	if err := c.do(ctx, http.MethodGet, target, nil, &raw); err != nil {
		return pact.Pact{}, err
	}
	f, err := pact.Parse(target, raw)
	if err != nil {
		return pact.Pact{}, fmt.Errorf("broker: %w", err)
	}
	var links hal
	if err := json.Unmarshal(raw, &links); err != nil {
		return pact.Pact{}, fmt.Errorf("broker: %w: %s: %w", ErrMalformed, target, err)
	}
	return pact.Pact{File: f, Origin: target, Publish: func(ctx context.Context, v pact.Verification) error {
		results, err := links.follow("pb:publish-verification-results", nil)
		if err != nil {
			return err
		}
		return c.publishResult(ctx, index, results, v)
	}}, nil
}

// publishResult tells the broker how a verification ended. The version's branch comes first, since the broker
// goes by it when it judges the result.
func (c *Client) publishResult(ctx context.Context, index hal, target string, v pact.Verification) error {
	if v.Version == "" {
		return errors.New("broker: a verification result needs the provider's version, such as the commit")
	}
	if v.Branch != "" {
		branch, err := index.follow("pb:pacticipant-branch-version", map[string]string{"pacticipant": v.Provider, "branch": v.Branch, "version": v.Version})
		if err != nil {
			return err
		}
		if err := c.do(ctx, http.MethodPut, branch, map[string]any{}, nil); err != nil {
			return err
		}
	}
	type test struct {
		Description string   `json:"interactionDescription"`
		Success     bool     `json:"success"`
		Mismatches  []string `json:"mismatches,omitempty"`
	}
	tests := []test{}
	for _, r := range v.Results {
		tests = append(tests, test{r.Interaction, len(r.Problems) == 0, r.Problems})
	}
	body := map[string]any{
		"success": v.Success, "providerApplicationVersion": v.Version,
		"testResults": map[string]any{"tests": tests, "summary": map[string]int{"testCount": len(tests), "failureCount": failures(v.Results)}},
		"verifiedBy":  map[string]string{"implementation": "Napkin"},
	}
	if v.BuildURL != "" {
		body["buildUrl"] = v.BuildURL
	}
	return c.do(ctx, http.MethodPost, target, body, nil)
}

func failures(results []pact.Result) (n int) {
	for _, r := range results {
		if len(r.Problems) > 0 {
			n++
		}
	}
	return n
}

// ParseSelector reads a selector as the broker's own tools take it, such as {"deployed": true}; unknown fields
// are an error.
func ParseSelector(text string) (Selector, error) {
	var s Selector
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf(`broker: selector %q: %w; it is JSON such as {"mainBranch": true}`, text, err)
	}
	return s, nil
}
