package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/napkin-kit/napkin/contracttest/pact"
)

// Notice is what the broker wants a person to read. Type is success, info, prompt, warning, danger, error or debug.
type Notice struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// Publication is the contracts of one version of a consumer, or of several consumers that are versioned together.
type Publication struct {
	// Version is the consumer's, which should be or contain the commit. Required.
	Version string
	// Branch is the repository's branch. The usual selectors go by branches. Optional.
	Branch string
	// Tags are how versions were told apart before there were branches. Optional.
	Tags []string
	// BuildURL leads to the build. Optional.
	BuildURL string
	// Pacts are the contracts. At least one.
	Pacts []*pact.File
}

// Publish publishes contracts, with one request per consumer. To publish the same version again is allowed as
// long as its contracts stay the same; a broker refuses other ones.
func (c *Client) Publish(ctx context.Context, p Publication) ([]Notice, error) {
	if p.Version == "" {
		return nil, errors.New("broker: a publication needs the consumer's version, such as the commit")
	}
	if len(p.Pacts) == 0 {
		return nil, errors.New("broker: there is no contract to publish")
	}
	type contract struct {
		Consumer      string `json:"consumerName"`
		Provider      string `json:"providerName"`
		Specification string `json:"specification"`
		ContentType   string `json:"contentType"`
		Content       []byte `json:"content"` // base64, as encoding/json has it
		OnConflict    string `json:"onConflict"`
	}
	byConsumer := map[string][]contract{}
	var consumers []string
	for _, f := range p.Pacts {
		data, err := f.Encode()
		if err != nil {
			return nil, err
		}
		if !slices.Contains(consumers, f.Consumer) {
			consumers = append(consumers, f.Consumer)
		}
		byConsumer[f.Consumer] = append(byConsumer[f.Consumer], contract{f.Consumer, f.Provider, "pact", "application/json", data, "overwrite"})
	}
	index, err := c.index(ctx)
	if err != nil {
		return nil, err
	}
	target, err := index.follow("pb:publish-contracts", nil)
	if err != nil {
		return nil, err
	}
	var notices []Notice
	for _, consumer := range consumers {
		body := map[string]any{
			"pacticipantName": consumer, "pacticipantVersionNumber": p.Version, "contracts": byConsumer[consumer],
		}
		if p.Branch != "" {
			body["branch"] = p.Branch
		}
		if len(p.Tags) > 0 {
			body["tags"] = p.Tags
		}
		if p.BuildURL != "" {
			body["buildUrl"] = p.BuildURL
		}
		var answer struct{ Notices []Notice }
		if err := c.do(ctx, http.MethodPost, target, body, &answer); err != nil {
			return notices, fmt.Errorf("contracts of %s: %w", consumer, err)
		}
		notices = append(notices, answer.Notices...)
	}
	return notices, nil
}
