package broker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Answer is what the broker says to "can I deploy?".
type Answer struct {
	// Deployable is false both for a contract that does not hold and for one that nobody verified.
	Deployable bool
	// Unknown counts the contracts that were not verified with these versions. Where nothing else is in the way, the
	// answer may become yes.
	Unknown int
	Failed  int
	Reason  string
	Matrix  []Row
}

// Row is one contract in question.
type Row struct {
	Consumer, ConsumerVersion string
	Provider, ProviderVersion string // the version is empty where none was verified
	Verified, Success         bool
}

// String has the row on one line.
func (r Row) String() string {
	state := "not verified"
	if r.Verified && r.Success {
		state = "holds"
	} else if r.Verified {
		state = "does not hold"
	}
	version := r.ProviderVersion
	if version == "" {
		version = "?"
	}
	return fmt.Sprintf("%s %s with %s %s: %s", r.Consumer, r.ConsumerVersion, r.Provider, version, state)
}

// CanIDeploy asks whether this version holds all contracts with what is deployed in the environment. A version or
// an environment that the broker does not know is an error, [ErrRefused] or [ErrNotFound].
func (c *Client) CanIDeploy(ctx context.Context, pacticipant, version, environment string) (*Answer, error) {
	if pacticipant == "" || version == "" || environment == "" {
		return nil, errors.New("broker: can-i-deploy needs a name, a version and an environment")
	}
	index, err := c.index(ctx)
	if err != nil {
		return nil, err
	}
	target, err := index.follow("pb:can-i-deploy-pacticipant-version-to-environment", map[string]string{
		"pacticipant": pacticipant, "version": version, "environment": environment})
	if err != nil {
		return nil, err
	}
	type side struct {
		Name    string
		Version *struct{ Number string }
	}
	var answer struct {
		Summary *struct {
			Deployable      *bool
			Reason          string
			Failed, Unknown int
		}
		Matrix []struct {
			Consumer, Provider side
			Result             *struct{ Success bool } `json:"verificationResult"`
		}
	}
	if err := c.do(ctx, http.MethodGet, target, nil, &answer); err != nil {
		return nil, err
	}
	if answer.Summary == nil {
		return nil, fmt.Errorf("broker: %w: the answer to can-i-deploy has no summary", ErrMalformed)
	}
	a := &Answer{
		Deployable: answer.Summary.Deployable != nil && *answer.Summary.Deployable,
		Unknown:    answer.Summary.Unknown, Failed: answer.Summary.Failed,
		Reason: strings.Join(strings.FieldsFunc(answer.Summary.Reason, func(r rune) bool { return r == '\n' }), "; "),
	}
	for _, m := range answer.Matrix {
		r := Row{Consumer: m.Consumer.Name, Provider: m.Provider.Name, Verified: m.Result != nil, Success: m.Result != nil && m.Result.Success}
		if m.Consumer.Version != nil {
			r.ConsumerVersion = m.Consumer.Version.Number
		}
		if m.Provider.Version != nil {
			r.ProviderVersion = m.Provider.Version.Number
		}
		a.Matrix = append(a.Matrix, r)
	}
	return a, nil
}

// Environment is a place where versions are deployed.
type Environment struct {
	Name       string `json:"name"`
	Production bool   `json:"production"`
}

// Environments lists what the broker knows.
func (c *Client) Environments(ctx context.Context) ([]Environment, error) {
	index, err := c.index(ctx)
	if err != nil {
		return nil, err
	}
	target, err := index.follow("pb:environments", nil)
	if err != nil {
		return nil, err
	}
	var list struct {
		Embedded struct{ Environments []Environment } `json:"_embedded"`
	}
	err = c.do(ctx, http.MethodGet, target, nil, &list)
	return list.Embedded.Environments, err
}

// CreateEnvironment makes an environment known. The broker refuses one that is there.
func (c *Client) CreateEnvironment(ctx context.Context, e Environment) error {
	index, err := c.index(ctx)
	if err != nil {
		return err
	}
	target, err := index.follow("pb:environments", nil)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, target, map[string]any{"name": e.Name, "displayName": e.Name, "production": e.Production}, nil)
}

// RecordDeployment tells the broker that a version was deployed. It takes the place of the version that was
// recorded before for the same environment.
func (c *Client) RecordDeployment(ctx context.Context, pacticipant, version, environment string) error {
	if pacticipant == "" || version == "" || environment == "" {
		return errors.New("broker: a deployment needs a name, a version and an environment")
	}
	index, err := c.index(ctx)
	if err != nil {
		return err
	}
	target, err := index.follow("pb:pacticipant-version", map[string]string{"pacticipant": pacticipant, "version": version})
	if err != nil {
		return err
	}
	var v hal
	if err := c.do(ctx, http.MethodGet, target, nil, &v); err != nil {
		if errors.Is(err, ErrNotFound) {
			return fmt.Errorf("broker: %w: version %s of %s, of which neither a contract nor a verification was published", ErrNotFound, version, pacticipant)
		}
		return err
	}
	var names []string
	for _, l := range v.Links["pb:record-deployment"] {
		if l.Name == environment {
			return c.do(ctx, http.MethodPost, l.Href, map[string]any{}, nil)
		}
		names = append(names, l.Name)
	}
	return fmt.Errorf("broker: %w: there is no environment %q; there are: %s", ErrNotFound, environment, strings.Join(names, ", "))
}
