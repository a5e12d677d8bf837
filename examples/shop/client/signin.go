package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/html"
	"golang.org/x/oauth2"
)

// redirectURI is the loopback address (RFC 8252 section 7.3) at which the command-line client would
// listen. SignIn never connects to it: it reads the code off the redirect.
const redirectURI = "http://127.0.0.1/callback"

// cliClient is the public OIDC client that the auth service keeps for scripts.
const cliClient = "cli"

// CustomerScopes are what a customer's client asks for. Operators add "shop:admin".
var CustomerScopes = []string{"openid", "profile", "email", "offline_access", "shop"}

// SignIn goes through the store's own sign-in, authorization code with PKCE (RFC 7636), as a browser
// would: it opens the authorization endpoint, fills in the form, and exchanges the code.
// The returned client refreshes its token by itself.
func SignIn(ctx context.Context, base, email, password string, scopes ...string) (*Client, error) {
	if len(scopes) == 0 {
		scopes = CustomerScopes
	}
	base = strings.TrimRight(base, "/")
	conf := &oauth2.Config{
		ClientID:    cliClient,
		RedirectURL: redirectURI,
		Scopes:      scopes,
		Endpoint: oauth2.Endpoint{
			AuthURL:   base + "/oauth/authorize",
			TokenURL:  base + "/oauth/token",
			AuthStyle: oauth2.AuthStyleInParams,
		},
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	browser := &http.Client{
		Jar: jar, Transport: patient{},
		Timeout: 20 * time.Second,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if strings.HasPrefix(req.URL.String(), redirectURI) || len(via) > 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	verifier, state := oauth2.GenerateVerifier(), oauth2.GenerateVerifier()
	resp, err := get(ctx, browser, conf.AuthCodeURL(state, oauth2.S256ChallengeOption(verifier)))
	var urlErr *url.Error
	if errors.As(err, &urlErr) { // its text is the whole address, challenge and all
		return nil, fmt.Errorf("no store answers at %s: %w; start it, or name another address", base, urlErr.Err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { resp.Body.Close() }() // of whichever response is the last
	code, err := codeFrom(resp, state)
	if errors.Is(err, errNoRedirect) {
		next, err2 := submitLogin(ctx, browser, resp, email, password)
		if err2 != nil {
			return nil, err2
		}
		resp = next
		code, err = codeFrom(resp, state)
	}
	if errors.Is(err, errNoRedirect) {
		return nil, fmt.Errorf("sign-in as %s was refused (%s): check e-mail and password", email, resp.Status)
	}
	if err != nil {
		return nil, err
	}
	exchange := &http.Client{Timeout: 20 * time.Second, Transport: patient{}}
	token, err := conf.Exchange(context.WithValue(ctx, oauth2.HTTPClient, exchange), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return nil, fmt.Errorf("exchange the code: %w", err)
	}
	if granted, ok := token.Extra("scope").(string); ok {
		for _, s := range scopes {
			if !slices.Contains(strings.Fields(granted), s) {
				return nil, fmt.Errorf("%s was not given the scope %s (only %s)", email, s, granted)
			}
		}
	}
	source := conf.TokenSource(context.WithValue(context.WithoutCancel(ctx), oauth2.HTTPClient, exchange), token)
	return &Client{base: base, http: &http.Client{Timeout: 30 * time.Second, Transport: patient{}}, token: source}, nil
}

var errNoRedirect = errors.New("no redirect to the client")

// codeFrom reads the authorization code off a redirect back to the client.
func codeFrom(resp *http.Response, state string) (string, error) {
	loc, err := resp.Location()
	if err != nil || !strings.HasPrefix(loc.String(), redirectURI) {
		return "", errNoRedirect
	}
	q := loc.Query()
	if e := q.Get("error"); e != "" {
		return "", fmt.Errorf("sign-in: %s: %s", e, q.Get("error_description"))
	}
	if q.Get("state") != state {
		return "", errors.New("sign-in: the answer belongs to another request (state differs)")
	}
	return q.Get("code"), nil
}

func submitLogin(ctx context.Context, browser *http.Client, page *http.Response, email, password string) (*http.Response, error) {
	defer page.Body.Close()
	doc, err := html.Parse(io.LimitReader(page.Body, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("read the sign-in page: %w", err)
	}
	form := findForm(doc)
	if form == nil {
		return nil, fmt.Errorf("%s answered %s without a sign-in form: is this the store's address?", page.Request.URL.Host, page.Status)
	}
	values := url.Values{}
	collectInputs(form, func(name, typ, value string) {
		switch typ {
		case "password":
			value = password
		case "email", "text":
			value = email
		}
		values.Set(name, value)
	})
	action, err := page.Request.URL.Parse(attr(form, "action"))
	if err != nil {
		return nil, fmt.Errorf("the sign-in form's action: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, action.String(), strings.NewReader(values.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", page.Request.URL.Scheme+"://"+page.Request.URL.Host)
	return browser.Do(req)
}

func get(ctx context.Context, c *http.Client, u string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	return c.Do(req)
}

// findForm returns the first form that holds a password field.
func findForm(n *html.Node) *html.Node {
	if n.Type == html.ElementNode && n.Data == "form" {
		found := false
		collectInputs(n, func(_, typ, _ string) { found = found || typ == "password" })
		if found {
			return n
		}
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		if f := findForm(c); f != nil {
			return f
		}
	}
	return nil
}

func collectInputs(n *html.Node, visit func(name, typ, value string)) {
	if n.Type == html.ElementNode && n.Data == "input" {
		if name := attr(n, "name"); name != "" {
			visit(name, attr(n, "type"), attr(n, "value"))
		}
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		collectInputs(c, visit)
	}
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}
