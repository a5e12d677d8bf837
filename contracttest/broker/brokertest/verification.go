package brokertest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

type selector struct {
	MainBranch         bool   `json:"mainBranch"`
	Branch             string `json:"branch"`
	FallbackBranch     string `json:"fallbackBranch"`
	MatchingBranch     bool   `json:"matchingBranch"`
	Deployed           bool   `json:"deployed"`
	Released           bool   `json:"released"`
	DeployedOrReleased bool   `json:"deployedOrReleased"`
	Environment        string `json:"environment"`
	Tag                string `json:"tag"`
	FallbackTag        string `json:"fallbackTag"`
	Latest             bool   `json:"latest"`
	Consumer           string `json:"consumer"`
}

// forVerification lists the contents that a provider is to verify, each once, with the reasons.
func (s *Server) forVerification(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Selectors []selector `json:"consumerVersionSelectors"`
		Branch    string     `json:"providerVersionBranch"`
		Pending   bool       `json:"includePendingStatus"`
		WIPSince  string     `json:"includeWipPactsSince"`
	}
	if r.Method == http.MethodPost && !read(w, r, &in) { // a GET asks without selectors
		return
	}
	provider := r.PathValue("provider")
	var consumers []string
	for _, p := range s.pacts {
		if p.provider == provider && !slices.Contains(consumers, p.consumer.pacticipant) {
			consumers = append(consumers, p.consumer.pacticipant)
		}
	}
	if consumers == nil && !slices.ContainsFunc(s.versions, func(v *version) bool { return v.pacticipant == provider }) {
		reply(w, http.StatusNotFound, object{"error": "No provider with name '" + provider + "' found"})
		return
	}
	type chosen struct {
		*publication
		reasons []string
		wip     bool
	}
	var list []*chosen
	add := func(p *publication, reason string, wip bool) {
		for _, c := range list {
			if c.sha == p.sha && c.consumer.pacticipant == p.consumer.pacticipant {
				if !slices.Contains(c.reasons, reason) {
					c.reasons = append(c.reasons, reason)
				}
				return
			}
		}
		list = append(list, &chosen{p, []string{reason}, wip})
	}
	selectors := in.Selectors
	if len(selectors) == 0 {
		selectors = []selector{{Latest: true}}
	}
	for i, sel := range selectors {
		if sel == (selector{}) || sel == (selector{Consumer: sel.Consumer}) || sel.MatchingBranch && in.Branch == "" {
			invalid(w, fmt.Sprintf("consumerVersionSelectors[%d]", i), "selects nothing")
			return
		}
		for _, consumer := range consumers {
			if sel.Consumer != "" && sel.Consumer != consumer {
				continue
			}
			for _, f := range s.choose(sel, consumer, provider, in.Branch) {
				add(f.publication, f.reason, false)
			}
		}
	}
	if in.WIPSince != "" {
		since, err := time.Parse(time.RFC3339, in.WIPSince)
		if err != nil {
			since, err = time.Parse(time.DateOnly, in.WIPSince)
		}
		if err != nil {
			invalid(w, "includeWipPactsSince", "is not a date")
			return
		}
		for _, p := range slices.Backward(s.pacts) {
			// Only the newest contract of each branch is work in progress.
			newest := slices.ContainsFunc(p.consumer.branches, func(b string) bool {
				return s.latest(p.consumer.pacticipant, provider, onBranch(b)) == p
			})
			if p.provider == provider && newest && p.at.After(since) && s.pending(p, in.Branch) {
				add(p, "work in progress on branch "+strings.Join(p.consumer.branches, ", "), true)
			}
		}
	}
	pacts := []object{}
	for _, c := range list {
		self := s.href("pacts", "provider", provider, "consumer", c.consumer.pacticipant, "pact-version", c.sha)
		notices := []object{{"when": "before_verification", "text": fmt.Sprintf(
			"The pact at %s is being verified because the pact content belongs to the consumer version matching the following criterion:\n    * %s", self, strings.Join(c.reasons, "\n    * "))}}
		properties := object{}
		if in.Pending || c.wip {
			pending := c.wip || s.pending(c.publication, in.Branch)
			properties["pending"] = pending
			text := "This pact has previously been successfully verified. If this verification fails, it will fail the build."
			if pending {
				text = "This pact is in pending state because no successful verification result has been published. If this verification fails, it will not cause the overall build to fail."
			}
			notices = append(notices, object{"when": "before_verification", "text": text + " Read more at https://docs.pact.io/pending"})
		}
		if c.wip {
			properties["wip"] = true
		}
		properties["notices"] = notices
		pacts = append(pacts, object{"shortDescription": strings.Join(c.reasons, ", "), "verificationProperties": properties,
			"_links": object{"self": object{"href": self, "name": c.name()}}})
	}
	reply(w, http.StatusOK, object{"_embedded": object{"pacts": pacts},
		"_links": object{"self": object{"href": s.URL + r.URL.EscapedPath(), "title": "Pacts to be verified"}}})
}

type found struct {
	*publication
	reason string
}

func onBranch(branch string) func(*publication) bool {
	return func(p *publication) bool { return slices.Contains(p.consumer.branches, branch) }
}

// choose applies one selector to one consumer.
func (s *Server) choose(sel selector, consumer, provider, providerBranch string) (out []found) {
	one := func(reason string, keep func(*publication) bool) bool {
		p := s.latest(consumer, provider, keep)
		if p != nil {
			out = append(out, found{p, fmt.Sprintf("%s (%s)", reason, p.consumer.number)})
		}
		return p != nil
	}
	tagged := func(tag string) func(*publication) bool {
		return func(p *publication) bool { return slices.Contains(p.consumer.tags, tag) }
	}
	switch {
	case sel.MainBranch:
		if b := s.main[consumer]; b != "" {
			one("latest version from the main branch '"+b+"'", onBranch(b))
		}
	case sel.MatchingBranch:
		one("latest version from branch '"+providerBranch+"', which the provider has too", onBranch(providerBranch))
	case sel.Branch != "":
		if !one("latest version from branch '"+sel.Branch+"'", onBranch(sel.Branch)) && sel.FallbackBranch != "" {
			one("latest version from branch '"+sel.FallbackBranch+"'", onBranch(sel.FallbackBranch))
		}
	case sel.Deployed || sel.DeployedOrReleased || sel.Environment != "":
		for _, d := range s.deployed {
			if d.version.pacticipant == consumer && (sel.Environment == "" || sel.Environment == d.environment) {
				one("currently deployed to "+d.environment, func(p *publication) bool { return p.consumer == d.version })
			}
		}
	case sel.Released: // no release is ever recorded here
	case sel.Tag != "" && !sel.Latest:
		for _, p := range s.pacts {
			if p.consumer.pacticipant == consumer && p.provider == provider && tagged(sel.Tag)(p) {
				out = append(out, found{p, "tagged '" + sel.Tag + "'"})
			}
		}
	case sel.Tag != "":
		if !one("latest version tagged '"+sel.Tag+"'", tagged(sel.Tag)) && sel.FallbackTag != "" {
			one("latest version tagged '"+sel.FallbackTag+"'", tagged(sel.FallbackTag))
		}
	default:
		one("latest version", func(*publication) bool { return true })
	}
	return out
}

// pending: nobody on the provider's branch, or nobody at all where it names none, fulfilled this content.
func (s *Server) pending(p *publication, branch string) bool {
	return s.outcome(p.consumer.pacticipant, p.provider, p.sha, func(r result) bool {
		return r.success && (branch == "" || slices.Contains(r.provider.branches, branch))
	}) == nil
}

func (s *Server) pactVersion(w http.ResponseWriter, r *http.Request) {
	s.showPact(w, s.latest(r.PathValue("consumer"), r.PathValue("provider"), func(p *publication) bool { return p.sha == r.PathValue("sha") }))
}

func (s *Server) pact(w http.ResponseWriter, r *http.Request) {
	s.showPact(w, s.latest(r.PathValue("consumer"), r.PathValue("provider"), func(p *publication) bool { return p.consumer.number == r.PathValue("version") }))
}

func (s *Server) showPact(w http.ResponseWriter, p *publication) {
	if p == nil {
		reply(w, http.StatusNotFound, object{"error": "No pact found"})
		return
	}
	consumer := p.consumer.pacticipant
	body := maps.Clone(p.content)
	body["createdAt"] = p.at.UTC().Format(time.RFC3339)
	body["_links"] = object{
		"self":        object{"title": "Pact", "name": p.name(), "href": s.href("pacts", "provider", p.provider, "consumer", consumer, "version", p.consumer.number)},
		"pb:consumer": object{"title": "Consumer", "name": consumer, "href": s.href("pacticipants", consumer)},
		"pb:provider": object{"title": "Provider", "name": p.provider, "href": s.href("pacticipants", p.provider)},
		"pb:publish-verification-results": object{"title": "Publish verification results",
			"href": s.href("pacts", "provider", p.provider, "consumer", consumer, "pact-version", p.sha, "verification-results")},
	}
	reply(w, http.StatusOK, body)
}

func (s *Server) verified(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Success  *bool  `json:"success"`
		Version  string `json:"providerApplicationVersion"`
		BuildURL string `json:"buildUrl"`
	}
	if !read(w, r, &in) {
		return
	}
	consumer, provider, content := r.PathValue("consumer"), r.PathValue("provider"), r.PathValue("sha")
	switch {
	case s.latest(consumer, provider, func(p *publication) bool { return p.sha == content }) == nil:
		reply(w, http.StatusNotFound, object{"error": "No pact found"})
		return
	case in.Success == nil:
		invalid(w, "success", "can't be blank")
		return
	case in.Version == "":
		invalid(w, "providerApplicationVersion", "can't be blank")
		return
	}
	v := s.findVersion(provider, in.Version, true)
	if in.BuildURL != "" {
		v.buildURL = in.BuildURL
	}
	s.results = append(s.results, result{v, consumer, content, *in.Success, len(s.results) + 1})
	self := s.href("pacts", "provider", provider, "consumer", consumer, "pact-version", content, "verification-results", strconv.Itoa(len(s.results)))
	w.Header().Set("Location", self)
	reply(w, http.StatusCreated, object{"success": *in.Success, "providerApplicationVersion": in.Version, "_links": object{"self": object{"href": self}}})
}
