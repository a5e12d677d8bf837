package console

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	deadletterv1 "github.com/napkin-kit/napkin/examples/shop/api/deadletter/v1"
	"github.com/napkin-kit/napkin/examples/shop/web/internal/page"
	"github.com/napkin-kit/napkin/kit"
	"github.com/napkin-kit/napkin/kit/problem"
)

// handling are the services that handle events, and so may give one up.
var handling = []string{"cart", "catalog", "inventory", "notification", "order", "payment", "user"}

// lettersOf is what one service gave up.
type lettersOf struct {
	Service string
	Letters []*deadletterv1.DeadLetter
	More    int // open ones that are not shown
	Error   string
}

type lettersView struct {
	Services        []lettersOf
	Open            int
	Notice, Problem string
}

func (c *console) listLetters(w http.ResponseWriter, r *http.Request) error {
	v := lettersView{}
	switch r.URL.Query().Get("done") {
	case "redrive":
		v.Notice = "The event is handled again, and then what waits behind it. Look again in a moment."
	case "drop":
		v.Notice = "The event is dropped. What waits behind it is handled."
	}
	return c.renderLetters(w, r, http.StatusOK, v)
}

func (c *console) renderLetters(w http.ResponseWriter, r *http.Request, status int, v lettersView) error {
	v.Services = make([]lettersOf, len(handling))
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for i, name := range handling {
		wg.Go(func() {
			of := lettersOf{Service: name}
			resp, err := c.letters[name].ListDeadLetters(ctx, &deadletterv1.ListDeadLettersRequest{})
			if err != nil { // the other services' are worth showing without
				of.Error = page.Explain(kit.Problem(err))
			}
			of.Letters = resp.GetDeadLetters()
			of.More = int(resp.GetTotal()) - len(of.Letters)
			v.Services[i] = of
		})
	}
	wg.Wait()
	for _, s := range v.Services {
		v.Open += len(s.Letters) + s.More
	}
	return c.site.Render(w, r, status, "letters", v)
}

var errNoService = problem.New(http.StatusNotFound, "no_such_service", "there is no such service")

// resolveLetter is an operator's act on a dead letter. Sent twice it is refused the second time, or has no
// effect.
func (c *console) resolveLetter(w http.ResponseWriter, r *http.Request) error {
	letters := c.letters[r.PathValue("service")]
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if letters == nil || err != nil {
		return errNoService
	}
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	act, reason := r.PostForm.Get("act"), r.PostForm.Get("reason")
	switch act {
	case "redrive":
		_, err = letters.RedriveDeadLetter(ctx, &deadletterv1.RedriveDeadLetterRequest{Id: id, Reason: reason})
	case "drop":
		_, err = letters.DropDeadLetter(ctx, &deadletterv1.DropDeadLetterRequest{Id: id, Reason: reason})
	default:
		return c.renderLetters(w, r, http.StatusBadRequest, lettersView{Problem: "Say whether the event is to be handled again or dropped."})
	}
	if p, refused := page.Refused(err); refused {
		return c.renderLetters(w, r, p.Status, lettersView{Problem: page.Explain(p)})
	}
	if err != nil {
		return err
	}
	return seeOther(w, r, "/letters?done="+act)
}
