// Package brokertest is a Pact Broker in the process of a test. It keeps everything in memory and speaks that
// part of the HAL API (https://docs.pact.io/pact_broker/api) which clients use in CI: the index, publication of
// contracts, contracts for verification with selectors, pending and work-in-progress contracts, verification
// results, branches, environments, deployments, and can-i-deploy.
//
// It is not a broker to rely on outside tests: there are no webhooks, no releases, no pages to look at.
package brokertest

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// Options has what may be set; nil means defaults.
type Options struct {
	// Username and Password, or Token, are what every request has to bring. Defaults to none.
	Username, Password string
	Token              string
}

// Server is a running broker. URL is where.
type Server struct {
	URL string

	http    *httptest.Server
	options Options

	mu           sync.Mutex
	main         map[string]string // pacticipant → its main branch
	versions     []*version        // in the order of their creation
	pacts        []*publication    // in the order of their publication
	results      []result
	environments []environment
	deployed     []deployment // what is deployed now
	requests     []string
}

type version struct {
	pacticipant, number, buildURL string
	branches, tags                []string
}

// publication is a contract of one version of a consumer. Versions with the same content share their results.
type publication struct {
	consumer *version
	provider string
	content  map[string]any
	sha      string // of the content
	at       time.Time
}

type result struct {
	provider *version
	consumer string
	sha      string
	success  bool
	number   int
}

type environment struct {
	UUID        string `json:"uuid"`
	Name        string `json:"name"`
	DisplayName string `json:"displayName"`
	Production  bool   `json:"production"`
}

type deployment struct {
	version     *version
	environment string
	instance    string
}

// Start starts a broker on loopback. Close it.
func Start(options *Options) *Server {
	s := &Server{main: map[string]string{}}
	if options != nil {
		s.options = *options
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.index)
	mux.HandleFunc("POST /contracts/publish", s.publish)
	mux.HandleFunc("GET /pacts/provider/{provider}/for-verification", s.forVerification)
	mux.HandleFunc("POST /pacts/provider/{provider}/for-verification", s.forVerification)
	mux.HandleFunc("GET /pacts/provider/{provider}/consumer/{consumer}/pact-version/{sha}", s.pactVersion)
	mux.HandleFunc("GET /pacts/provider/{provider}/consumer/{consumer}/version/{version}", s.pact)
	mux.HandleFunc("POST /pacts/provider/{provider}/consumer/{consumer}/pact-version/{sha}/verification-results", s.verified)
	mux.HandleFunc("GET /pacticipants/{pacticipant}", s.pacticipant)
	mux.HandleFunc("GET /pacticipants/{pacticipant}/versions/{version}", s.version)
	mux.HandleFunc("PUT /pacticipants/{pacticipant}/branches/{branch}/versions/{version}", s.branch)
	mux.HandleFunc("GET /environments", s.listEnvironments)
	mux.HandleFunc("POST /environments", s.createEnvironment)
	mux.HandleFunc("POST /pacticipants/{pacticipant}/versions/{version}/deployed-versions/environment/{uuid}", s.deploy)
	mux.HandleFunc("GET /can-i-deploy", s.canIDeploy)
	s.http = httptest.NewServer(s.guard(mux))
	s.URL = s.http.URL
	return s
}

// Close stops the broker.
func (s *Server) Close() { s.http.Close() }

// Requests lists what was asked, as "METHOD /path".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// SetMainBranch says which branch is a pacticipant's main one. Like the real broker, this one finds out by itself
// where a first version comes from a branch called main, master or develop.
func (s *Server) SetMainBranch(pacticipant, branch string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.main[pacticipant] = branch
}

// guard checks credentials, and holds the lock while a request is served.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ok := true
		if s.options.Token != "" {
			ok = r.Header.Get("Authorization") == "Bearer "+s.options.Token
		} else if s.options.Username != "" {
			user, password, _ := r.BasicAuth()
			ok = user == s.options.Username && password == s.options.Password
		}
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="Restricted Area"`)
			http.Error(w, "unauthorized", http.StatusUnauthorized)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, r.Method+" "+r.URL.Path)
		next.ServeHTTP(w, r)
	})
}

type object = map[string]any

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/hal+json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone otherwise
}

func invalid(w http.ResponseWriter, field, text string) {
	reply(w, http.StatusBadRequest, object{"errors": object{field: []string{text}}})
}

func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 32<<20)).Decode(into); err != nil {
		reply(w, http.StatusBadRequest, object{"error": object{"code": "invalid-json", "message": err.Error()}})
		return false
	}
	return true
}

// href makes a link from path segments, which it escapes.
func (s *Server) href(segments ...string) string {
	var b strings.Builder
	b.WriteString(s.URL)
	for _, p := range segments {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return b.String()
}

func (s *Server) index(w http.ResponseWriter, _ *http.Request) {
	template := func(path, title string) object {
		return object{"href": s.URL + path, "title": title, "templated": strings.Contains(path, "{")}
	}
	reply(w, http.StatusOK, object{"_links": object{
		"self":                               template("", "Index"),
		"pb:publish-contracts":               template("/contracts/publish", "Publish contracts"),
		"pb:provider-pacts-for-verification": template("/pacts/provider/{provider}/for-verification", "Pact versions to be verified for the specified provider"),
		"pb:pacticipant-version":             template("/pacticipants/{pacticipant}/versions/{version}", "Get, create or delete a pacticipant version"),
		"pb:pacticipant-branch-version":      template("/pacticipants/{pacticipant}/branches/{branch}/versions/{version}", "Get or add/create a pacticipant version for a branch"),
		"pb:environments":                    template("/environments", "Environments"),
		"pb:can-i-deploy-pacticipant-version-to-environment": template("/can-i-deploy?pacticipant={pacticipant}&version={version}&environment={environment}",
			"Determine if an application version can be safely deployed to an environment"),
		"curies": []object{{"name": "pb", "href": s.URL + "/doc/{rel}?context=index", "templated": true}},
	}})
}

// findVersion returns a version, made where it is missing and create is set.
func (s *Server) findVersion(pacticipant, number string, create bool) *version {
	for _, v := range s.versions {
		if v.pacticipant == pacticipant && v.number == number {
			return v
		}
	}
	if !create {
		return nil
	}
	v := &version{pacticipant: pacticipant, number: number}
	s.versions = append(s.versions, v)
	return v
}

func (s *Server) addBranch(v *version, branch string) {
	if !slices.Contains(v.branches, branch) {
		v.branches = append(v.branches, branch)
	}
	if s.main[v.pacticipant] == "" && slices.Contains([]string{"develop", "main", "master"}, branch) {
		s.main[v.pacticipant] = branch
	}
}

func (s *Server) publish(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Pacticipant string   `json:"pacticipantName"`
		Version     string   `json:"pacticipantVersionNumber"`
		Branch      string   `json:"branch"`
		Tags        []string `json:"tags"`
		BuildURL    string   `json:"buildUrl"`
		Contracts   []struct {
			Consumer      string `json:"consumerName"`
			Provider      string `json:"providerName"`
			Specification string `json:"specification"`
			ContentType   string `json:"contentType"`
			Content       []byte `json:"content"`
		} `json:"contracts"`
	}
	if !read(w, r, &in) {
		return
	}
	switch {
	case in.Pacticipant == "":
		invalid(w, "pacticipantName", "is missing")
		return
	case in.Version == "":
		invalid(w, "pacticipantVersionNumber", "is missing")
		return
	case len(in.Contracts) == 0:
		invalid(w, "contracts", "is missing")
		return
	}
	var published []*publication
	for i, c := range in.Contracts {
		field := fmt.Sprintf("contracts[%d]", i)
		var content map[string]any
		if c.Specification != "pact" || c.ContentType != "application/json" || json.Unmarshal(c.Content, &content) != nil {
			invalid(w, field, "must be a pact in JSON, base64 encoded")
			return
		}
		if named(content, "consumer") != c.Consumer || c.Consumer != in.Pacticipant || named(content, "provider") != c.Provider {
			invalid(w, field+".consumerName", "does not match the names in the contract")
			return
		}
		p := &publication{provider: c.Provider, content: content, sha: sha(content), at: time.Now()}
		for _, old := range s.pacts {
			if old.consumer.pacticipant == c.Consumer && old.consumer.number == in.Version && old.provider == c.Provider && old.sha != p.sha {
				reply(w, http.StatusConflict, object{"notices": []object{{"type": "error", "text": fmt.Sprintf(
					"Cannot change the content of the pact for %s version %s and provider %s, as race conditions will cause unreliable results for can-i-deploy. Each pact must be published with a unique consumer version number.",
					c.Consumer, in.Version, c.Provider)}}})
				return
			}
		}
		published = append(published, p)
	}
	v := s.findVersion(in.Pacticipant, in.Version, true)
	if in.BuildURL != "" {
		v.buildURL = in.BuildURL
	}
	if in.Branch != "" {
		s.addBranch(v, in.Branch)
	}
	for _, tag := range in.Tags {
		if !slices.Contains(v.tags, tag) {
			v.tags = append(v.tags, tag)
		}
	}
	notices, links := []object{}, []object{}
	for _, p := range published {
		p.consumer = v
		s.pacts = append(s.pacts, p)
		href := s.href("pacts", "provider", p.provider, "consumer", in.Pacticipant, "version", in.Version)
		notices = append(notices,
			object{"type": "success", "text": fmt.Sprintf("Pact successfully published for %s version %s and provider %s.", in.Pacticipant, in.Version, p.provider)},
			object{"type": "debug", "text": "  View the published pact at " + href})
		links = append(links, object{"title": "Pact", "name": p.name(), "href": href})
	}
	reply(w, http.StatusOK, object{"notices": notices, "_links": object{
		"pb:pacticipant-version": object{"title": "Pacticipant version", "name": in.Version, "href": s.href("pacticipants", in.Pacticipant, "versions", in.Version)},
		"pb:contracts":           links,
	}})
}

func (p *publication) name() string {
	return fmt.Sprintf("Pact between %s (%s) and %s", p.consumer.pacticipant, p.consumer.number, p.provider)
}

func named(content map[string]any, role string) string {
	party, _ := content[role].(map[string]any)
	name, _ := party["name"].(string)
	return name
}

// sha tells contracts apart by what they ask for, and not by who wrote them when.
func sha(content map[string]any) string {
	data, err := json.Marshal(object{"interactions": content["interactions"], "messages": content["messages"]})
	if err != nil {
		panic(err) // it was JSON
	}
	sum := sha1.Sum(data)
	return hex.EncodeToString(sum[:])
}

// latest returns the newest contract between two that keep accepts.
func (s *Server) latest(consumer, provider string, keep func(*publication) bool) *publication {
	for _, p := range slices.Backward(s.pacts) {
		if p.consumer.pacticipant == consumer && p.provider == provider && keep(p) {
			return p
		}
	}
	return nil
}

// outcome is the last result of a contract's content that keep accepts: nil for none.
func (s *Server) outcome(consumer, provider, sha string, keep func(result) bool) *result {
	for _, r := range slices.Backward(s.results) {
		if r.consumer == consumer && r.provider.pacticipant == provider && r.sha == sha && keep(r) {
			return &r
		}
	}
	return nil
}
