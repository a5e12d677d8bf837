package broker

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

var (
	// ErrUnreachable: there was no answer, or none in time.
	ErrUnreachable = errors.New("the Pact Broker cannot be reached")
	// ErrUnauthorized: the credentials are missing, wrong, or do not suffice (HTTP 401 and 403).
	ErrUnauthorized = errors.New("the Pact Broker refuses the credentials")
	// ErrNotFound: the broker does not know what the request is about.
	ErrNotFound = errors.New("the Pact Broker does not know it")
	// ErrMalformed: the answer is not what the API says, as when the URL is not that of a Pact Broker.
	ErrMalformed = errors.New("not an answer of a Pact Broker")
	// ErrRefused: the broker found the request wrong, or could not do it; the error has its reason.
	ErrRefused = errors.New("the Pact Broker refuses")
)

// Config has what may be set; nil means defaults. Credentials are a token, or a user name with a password, or none.
type Config struct {
	Username, Password string
	Token              string
	// Timeout ends every single request. Defaults to 30 seconds.
	Timeout time.Duration
	// MaxBody is the largest answer in bytes; a larger one is [ErrMalformed]. Defaults to 32 MiB.
	MaxBody int64
	// Client sends the requests. Defaults to [http.DefaultClient].
	Client *http.Client
}

// Client talks to one broker.
type Client struct {
	base   *url.URL
	config Config
}

// New returns a client of the broker at baseURL, such as https://broker.example.com. It sends nothing yet.
func New(baseURL string, config *Config) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" {
		return nil, fmt.Errorf("broker: %q is no URL of a Pact Broker, such as https://broker.example.com", baseURL)
	}
	c := &Client{base: base}
	if config != nil {
		c.config = *config
	}
	if base.User != nil {
		if c.config.Username == "" && c.config.Token == "" {
			c.config.Username = base.User.Username()
			c.config.Password, _ = base.User.Password()
		}
		base.User = nil
	}
	if c.config.Token != "" && c.config.Username != "" {
		return nil, errors.New("broker: there is a token and a user name; leave one out")
	}
	c.config.Timeout = cmp.Or(c.config.Timeout, 30*time.Second)
	c.config.MaxBody = cmp.Or(c.config.MaxBody, 32<<20)
	if c.config.Timeout < 0 || c.config.MaxBody < 0 {
		return nil, errors.New("broker: Timeout and MaxBody must not be negative")
	}
	c.config.Client = c.own(cmp.Or(c.config.Client, http.DefaultClient))
	return c, nil
}

// FromEnv returns a client as the variables say that all Pact tools share: PACT_BROKER_BASE_URL, and
// PACT_BROKER_TOKEN or PACT_BROKER_USERNAME and PACT_BROKER_PASSWORD.
func FromEnv(getenv func(string) string) (*Client, error) {
	base := getenv("PACT_BROKER_BASE_URL")
	if base == "" {
		return nil, errors.New("broker: PACT_BROKER_BASE_URL is not set")
	}
	return New(base, &Config{
		Token: getenv("PACT_BROKER_TOKEN"), Username: getenv("PACT_BROKER_USERNAME"), Password: getenv("PACT_BROKER_PASSWORD"),
	})
}

// own returns h with redirects kept to the broker itself. [http.Client] would take the credentials along to another
// port, to plain HTTP and to subdomains, and the contracts anywhere.
func (c *Client) own(h *http.Client) *http.Client {
	out := *h
	out.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if err := c.elsewhere(req.URL); err != nil {
			return err
		}
		if h.CheckRedirect != nil {
			return h.CheckRedirect(req, via)
		}
		if len(via) >= 10 { // as http.Client has it
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}
	return &out
}

// elsewhere is the error for a link or redirect that leaves the broker.
func (c *Client) elsewhere(u *url.URL) error {
	if u.Scheme == c.base.Scheme && u.Host == c.base.Host {
		return nil
	}
	return fmt.Errorf("%w: %s://%s leads to %s://%s; set the base URL that the broker gives itself (PACT_BROKER_BASE_URL of the broker)",
		ErrMalformed, c.base.Scheme, c.base.Host, u.Scheme, u.Host)
}

// link is a HAL link.
type link struct {
	Href string `json:"href"`
	Name string `json:"name"`
}

// links are what one relation has: HAL allows one link or a list.
type links []link

func (l *links) UnmarshalJSON(data []byte) error {
	if len(data) > 0 && data[0] == '[' {
		return json.Unmarshal(data, (*[]link)(l))
	}
	var one link
	if err := json.Unmarshal(data, &one); err != nil {
		return err
	}
	*l = links{one}
	return nil
}

// hal is the part that all resources have.
type hal struct {
	Links map[string]links `json:"_links"`
}

// follow returns where a relation leads, with the parameters of its template filled in.
func (h hal) follow(rel string, params map[string]string) (string, error) {
	l := h.Links[rel]
	if len(l) == 0 || l[0].Href == "" {
		return "", fmt.Errorf("broker: %w: it has no link %s; is the broker older than 2.87?", ErrMalformed, rel)
	}
	return expand(l[0].Href, params), nil
}

// expand fills in a URI template of level 1 (RFC 6570): what is not unreserved is escaped, in paths and queries alike.
func expand(template string, params map[string]string) string {
	for name, value := range params {
		template = strings.ReplaceAll(template, "{"+name+"}", strings.ReplaceAll(url.QueryEscape(value), "+", "%20"))
	}
	return template
}

// index is where all paths begin.
func (c *Client) index(ctx context.Context) (hal, error) {
	var h hal
	if err := c.do(ctx, http.MethodGet, c.base.String(), nil, &h); err != nil {
		return h, err
	}
	if len(h.Links) == 0 {
		return h, fmt.Errorf("broker: %w: %s has no _links", ErrMalformed, c.base)
	}
	return h, nil
}

// do sends a request and reads the answer's JSON into out, where that is not nil.
func (c *Client) do(ctx context.Context, method, target string, in, out any) error {
	u, err := c.base.Parse(target)
	if err != nil {
		return fmt.Errorf("broker: %w: %q is no link", ErrMalformed, target)
	}
	if err := c.elsewhere(u); err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("broker: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("broker: %w", err)
	}
	req.Header.Set("Accept", "application/hal+json, application/json")
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch {
	case c.config.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.config.Token)
	case c.config.Username != "":
		req.SetBasicAuth(c.config.Username, c.config.Password)
	}
	what := method + " " + u.Redacted()
	resp, err := c.config.Client.Do(req)
	if errors.Is(err, ErrMalformed) { // a redirect
		return fmt.Errorf("broker: %s: %w", what, cause(ctx, err, c.config.Timeout))
	}
	if err != nil {
		return fmt.Errorf("broker: %w: %s: %w", ErrUnreachable, what, cause(ctx, err, c.config.Timeout))
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, c.config.MaxBody+1))
	if err != nil {
		return fmt.Errorf("broker: %w: %s: %w", ErrUnreachable, what, cause(ctx, err, c.config.Timeout))
	}
	if int64(len(data)) > c.config.MaxBody {
		return fmt.Errorf("broker: %w: %s: the answer is larger than %d bytes", ErrMalformed, what, c.config.MaxBody)
	}
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("broker: %w: %s: HTTP %d; set PACT_BROKER_TOKEN, or PACT_BROKER_USERNAME and PACT_BROKER_PASSWORD", ErrUnauthorized, what, resp.StatusCode)
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("broker: %w: %s: HTTP 404", ErrNotFound, what)
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return fmt.Errorf("broker: %w: %s: HTTP %d%s", ErrRefused, what, resp.StatusCode, reason(data))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("broker: %w: %s: %w", ErrMalformed, what, err)
	}
	return nil
}

// cause says in whose time the request ended, and does not repeat the URL.
func cause(ctx context.Context, err error, timeout time.Duration) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return fmt.Errorf("no answer within %v: %w", timeout, context.DeadlineExceeded)
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// reason is what the broker says of a refusal: {"errors": {field: [text]}}, {"errors": [text]}, {"error": {"message": text}}
// or a list of notices.
func reason(data []byte) string {
	var body struct {
		Errors  any `json:"errors"`
		Error   struct{ Message string }
		Notices []Notice
	}
	if json.Unmarshal(data, &body) != nil {
		return ""
	}
	var texts []string
	for _, n := range body.Notices {
		texts = append(texts, n.Text)
	}
	if body.Error.Message != "" {
		texts = append(texts, body.Error.Message)
	}
	var walk func(field string, v any)
	walk = func(field string, v any) {
		switch v := v.(type) {
		case string:
			texts = append(texts, strings.TrimSpace(field+" "+v))
		case []any:
			for _, e := range v {
				walk(field, e)
			}
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				walk(strings.TrimSpace(field+" "+k), v[k])
			}
		}
	}
	walk("", body.Errors)
	if len(texts) == 0 {
		return ""
	}
	return ": " + strings.Join(strings.Fields(strings.Join(texts, ", ")), " ")
}
