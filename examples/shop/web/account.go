package web

import (
	"net/http"
	"strings"

	authv1 "github.com/napkin-kit/napkin/examples/shop/api/auth/v1"
	userv1 "github.com/napkin-kit/napkin/examples/shop/api/user/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/kit/problem"
)

type registerView struct {
	Done        bool
	Name, Email string
	Problem     string
	Errors      map[string]string
}

func (s *store) showRegister(w http.ResponseWriter, r *http.Request) error {
	return s.site.Render(w, r, http.StatusOK, "register", registerView{})
}

func (s *store) register(w http.ResponseWriter, r *http.Request) error {
	v := registerView{Name: strings.TrimSpace(r.PostForm.Get("name")), Email: strings.TrimSpace(r.PostForm.Get("email"))}
	_, err := s.auth.Register(r.Context(), &authv1.RegisterRequest{Name: v.Name, Email: v.Email, Password: r.PostForm.Get("password")})
	if p, refused := page.Refused(err); refused {
		v.Errors, v.Problem = formErrors(p)
		return s.site.Render(w, r, p.Status, "register", v)
	}
	if err != nil {
		return err
	}
	v.Done = true
	return s.site.Render(w, r, http.StatusOK, "register", v)
}

// formErrors are a problem's fields for the form, and a word above it.
func formErrors(p *problem.Problem) (fields map[string]string, above string) {
	fields = page.FieldErrors(p)
	if len(fields) > 0 {
		return fields, "Please look at what is marked below."
	}
	return nil, page.Explain(p)
}

type accountView struct {
	Profile         *userv1.Profile // nil until it has arrived from auth
	Preferences     *userv1.Preferences
	Notice, Problem string
	Errors          map[string]string
}

func (s *store) showAccount(w http.ResponseWriter, r *http.Request) error {
	return s.renderAccount(w, r, http.StatusOK, accountView{Notice: notices[r.URL.Query().Get("done")]}, nil)
}

// renderAccount shows the profile as it is kept, with what was typed over it.
func (s *store) renderAccount(w http.ResponseWriter, r *http.Request, status int, v accountView, typed *userv1.UpdateMeRequest) error {
	me, err := s.users.GetMe(r.Context(), &userv1.GetMeRequest{})
	if _, missing := page.Missing(err); missing {
		return s.site.Render(w, r, status, "account", v) // just registered: the profile follows by event
	}
	if err != nil {
		return err
	}
	prefs, err := s.users.GetPreferences(r.Context(), &userv1.GetPreferencesRequest{})
	if err != nil {
		return err
	}
	v.Profile, v.Preferences = me.GetProfile(), prefs.GetPreferences()
	if typed != nil {
		v.Profile.Name, v.Profile.Phone, v.Profile.Address = typed.GetName(), typed.GetPhone(), typed.GetAddress()
	}
	return s.site.Render(w, r, status, "account", v)
}

func (s *store) saveProfile(w http.ResponseWriter, r *http.Request) error {
	name := strings.TrimSpace(r.PostForm.Get("name"))
	phone := strings.NewReplacer(" ", "", "-", "", "(", "", ")", "", "/", "").Replace(r.PostForm.Get("phone"))
	address := strings.TrimSpace(strings.ReplaceAll(r.PostForm.Get("address"), "\r\n", "\n"))
	req := &userv1.UpdateMeRequest{Name: &name, Phone: &phone, Address: &address}
	_, err := s.users.UpdateMe(r.Context(), req)
	if p, refused := page.Refused(err); refused {
		v := accountView{}
		v.Errors, v.Problem = formErrors(p)
		if v.Errors["phone"] != "" {
			v.Errors["phone"] = "Begin with + and the country’s code, such as +4930123456."
		}
		return s.renderAccount(w, r, p.Status, v, req)
	}
	if err != nil {
		return err
	}
	return seeOther(w, r, "/account?done=saved")
}

func (s *store) savePreferences(w http.ResponseWriter, r *http.Request) error {
	on := func(name string) bool { return r.PostForm.Get(name) == "true" }
	_, err := s.users.PutPreferences(r.Context(), &userv1.PutPreferencesRequest{
		Preferences: &userv1.Preferences{Email: on("email"), Sms: on("sms"), Push: on("push")},
	})
	if err != nil {
		return err
	}
	return seeOther(w, r, "/account?done=saved")
}
