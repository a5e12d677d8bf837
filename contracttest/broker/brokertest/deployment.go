package brokertest

import (
	"fmt"
	"net/http"
	"slices"
)

func (s *Server) pacticipant(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("pacticipant")
	if !slices.ContainsFunc(s.versions, func(v *version) bool { return v.pacticipant == name }) &&
		!slices.ContainsFunc(s.pacts, func(p *publication) bool { return p.provider == name }) {
		reply(w, http.StatusNotFound, object{"error": "No pacticipant with name '" + name + "' found"})
		return
	}
	self := s.href("pacticipants", name)
	reply(w, http.StatusOK, object{"name": name, "mainBranch": s.main[name], "_links": object{
		"self":              object{"href": self},
		"pb:version":        object{"href": self + "/versions/{version}", "templated": true},
		"pb:branch-version": object{"href": self + "/branches/{branch}/versions/{version}", "templated": true},
	}})
}

func (s *Server) version(w http.ResponseWriter, r *http.Request) {
	v := s.findVersion(r.PathValue("pacticipant"), r.PathValue("version"), false)
	if v == nil {
		reply(w, http.StatusNotFound, object{"error": "No pacticipant version found"})
		return
	}
	deploy := []object{}
	for _, e := range s.environments {
		deploy = append(deploy, object{"title": "Record deployment to " + e.DisplayName, "name": e.Name,
			"href": s.href("pacticipants", v.pacticipant, "versions", v.number, "deployed-versions", "environment", e.UUID)})
	}
	reply(w, http.StatusOK, object{"number": v.number, "buildUrl": v.buildURL, "_links": object{
		"self":                 object{"title": "Version", "name": v.number, "href": s.href("pacticipants", v.pacticipant, "versions", v.number)},
		"pb:record-deployment": deploy,
	}})
}

func (s *Server) branch(w http.ResponseWriter, r *http.Request) {
	v := s.findVersion(r.PathValue("pacticipant"), r.PathValue("version"), true)
	s.addBranch(v, r.PathValue("branch"))
	reply(w, http.StatusOK, object{"_links": object{"self": object{"href": s.URL + r.URL.EscapedPath()}}})
}

func (s *Server) listEnvironments(w http.ResponseWriter, _ *http.Request) {
	list := []environment{}
	list = append(list, s.environments...)
	reply(w, http.StatusOK, object{"_embedded": object{"environments": list}, "_links": object{"self": object{"href": s.href("environments")}}})
}

func (s *Server) createEnvironment(w http.ResponseWriter, r *http.Request) {
	var e environment
	if !read(w, r, &e) {
		return
	}
	switch {
	case e.Name == "":
		invalid(w, "name", "is missing")
		return
	case s.known(e.Name):
		invalid(w, "name", fmt.Sprintf("Another environment with name '%s' already exists.", e.Name))
		return
	}
	e.UUID = fmt.Sprintf("00000000-0000-4000-8000-%012d", len(s.environments)+1)
	if e.DisplayName == "" {
		e.DisplayName = e.Name
	}
	s.environments = append(s.environments, e)
	w.Header().Set("Location", s.href("environments", e.UUID))
	reply(w, http.StatusCreated, e)
}

func (s *Server) known(name string) bool {
	return slices.ContainsFunc(s.environments, func(e environment) bool { return e.Name == name })
}

// deploy records a deployment, which takes the place of the one before for the same application instance.
func (s *Server) deploy(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Instance string `json:"applicationInstance"`
	}
	if !read(w, r, &in) {
		return
	}
	v := s.findVersion(r.PathValue("pacticipant"), r.PathValue("version"), false)
	i := slices.IndexFunc(s.environments, func(e environment) bool { return e.UUID == r.PathValue("uuid") })
	if v == nil || i < 0 {
		reply(w, http.StatusNotFound, object{"error": "not found"})
		return
	}
	name := s.environments[i].Name
	s.deployed = slices.DeleteFunc(s.deployed, func(d deployment) bool {
		return d.version.pacticipant == v.pacticipant && d.environment == name && d.instance == in.Instance
	})
	s.deployed = append(s.deployed, deployment{v, name, in.Instance})
	w.Header().Set("Location", s.href("deployed-versions", v.pacticipant, v.number, name))
	reply(w, http.StatusCreated, object{"currentlyDeployed": true})
}

// canIDeploy judges the contracts of one version with everything that is deployed in an environment.
func (s *Server) canIDeploy(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	name, number, env := q.Get("pacticipant"), q.Get("version"), q.Get("environment")
	switch {
	case name == "" || number == "":
		invalid(w, "pacticipant", "is missing")
		return
	case !s.known(env):
		invalid(w, "environment", fmt.Sprintf("with name '%s' does not exist", env))
		return
	}
	v := s.findVersion(name, number, false)
	if v == nil {
		summary(w, nil, []string{fmt.Sprintf("No pacts or verifications have been published for version %s of %s", number, name)})
		return
	}
	var rows []row
	var missing []string
	add := func(p *publication, provider *version) {
		line := row{p, provider, s.outcome(p.consumer.pacticipant, p.provider, p.sha, func(r result) bool { return r.provider == provider })}
		if line.result == nil {
			missing = append(missing, fmt.Sprintf("There is no verified pact between version %s of %s and version %s of %s", p.consumer.number, p.consumer.pacticipant, provider.number, provider.pacticipant))
		}
		rows = append(rows, line)
	}
	seen := map[string]bool{}
	for _, p := range slices.Backward(s.pacts) { // as a consumer: its providers have to be there
		if p.consumer != v || seen[p.provider] {
			continue
		}
		seen[p.provider] = true
		there := false
		for _, d := range s.deployed {
			if d.environment == env && d.version.pacticipant == p.provider {
				there = true
				add(p, d.version)
			}
		}
		if !there {
			missing = append(missing, fmt.Sprintf("There is no verified pact between version %s of %s and a version of %s currently deployed or released and supported in %s", number, name, p.provider, env))
			rows = append(rows, row{p, nil, nil})
		}
	}
	for _, d := range s.deployed { // as a provider: of consumers that are there
		if d.environment != env {
			continue
		}
		if p := s.latest(d.version.pacticipant, name, func(p *publication) bool { return p.consumer == d.version }); p != nil {
			add(p, v)
		}
	}
	summary(w, rows, missing)
}

type row struct {
	pact     *publication
	provider *version
	result   *result
}

func summary(w http.ResponseWriter, rows []row, missing []string) {
	matrix, success, failed := []object{}, 0, 0
	var reasons []string
	for _, line := range rows {
		out := object{
			"consumer": object{"name": line.pact.consumer.pacticipant, "version": object{"number": line.pact.consumer.number}},
			"provider": object{"name": line.pact.provider, "version": nil}, "verificationResult": nil,
		}
		if line.provider != nil {
			out["provider"].(object)["version"] = object{"number": line.provider.number}
		}
		if line.result != nil {
			out["verificationResult"] = object{"success": line.result.success}
			if line.result.success {
				success++
			} else {
				failed++
				reasons = append(reasons, fmt.Sprintf("The verification for the pact between version %s of %s and version %s of %s failed",
					line.pact.consumer.number, line.pact.consumer.pacticipant, line.provider.number, line.provider.pacticipant))
			}
		}
		matrix = append(matrix, out)
	}
	var deployable any = true // null says that it is unknown
	switch {
	case failed > 0:
		deployable = false
	case len(missing) > 0:
		deployable = nil
	case len(rows) == 0:
		reasons = []string{"There are no missing dependencies"}
	default:
		reasons = []string{"All required verification results are published and successful"}
	}
	reason := ""
	for i, text := range append(reasons, missing...) {
		if i > 0 {
			reason += "\n"
		}
		reason += text
	}
	reply(w, http.StatusOK, object{"matrix": matrix,
		"summary": object{"deployable": deployable, "reason": reason, "success": success, "failed": failed, "unknown": len(missing)}})
}
