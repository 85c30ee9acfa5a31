package page

import (
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/l7-router/internal/pool"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// Action is what is done to a server, in HAProxy's words.
type Action string

// The actions of HAProxy's form, and the weight. Those of agents have nothing here to act on.
const (
	Ready      Action = "ready"
	Drain      Action = "drain"
	Maint      Action = "maint"
	ChecksOff  Action = "dhlth"
	ChecksOn   Action = "ehlth"
	HealthUp   Action = "hrunn"
	HealthNoLB Action = "hnolb"
	HealthDown Action = "hdown"
	Shutdown   Action = "shutdown"
	SetWeight  Action = "weight"
)

// actions are those that the form offers, in its order, with what they do.
var actions = []struct {
	Action Action
	Text   string
}{
	{Ready, "Set state to READY"}, {Drain, "Set state to DRAIN"}, {Maint, "Set state to MAINT"},
	{ChecksOff, "Health: disable checks"}, {ChecksOn, "Health: enable checks"},
	{HealthUp, "Health: force UP"}, {HealthNoLB, "Health: force NOLB"}, {HealthDown, "Health: force DOWN"},
	{Shutdown, "Kill sessions"}, {SetWeight, "Set weight to"},
}

// aliases are HAProxy's older words.
var aliases = map[string]Action{"disable": Maint, "enable": Ready, "stop": Drain, "start": Ready}

// Servers is where servers are set.
type Servers interface {
	// SetServer does at once what is asked of a server, all of it or nothing. by is who asks, for the log.
	SetServer(backend, server string, c pool.Change, by string) (pool.State, error)
}

// change says an action in the pool's words; weight is for SetWeight, negative: the desired one. nil: there is no such
// action.
func change(a Action, weight int) *pool.Change {
	switch a {
	case Ready:
		return &pool.Change{Admin: new(spec.AdminReady)}
	case Drain:
		return &pool.Change{Admin: new(spec.AdminDrain)}
	case Maint:
		return &pool.Change{Admin: new(spec.AdminMaint)}
	case ChecksOff:
		return &pool.Change{Checks: new(false)}
	case ChecksOn:
		return &pool.Change{Checks: new(true)}
	case HealthUp:
		return &pool.Change{Health: pool.Up}
	case HealthNoLB:
		return &pool.Change{Health: pool.Stopping}
	case HealthDown:
		return &pool.Change{Health: pool.Down}
	case Shutdown:
		return &pool.Change{ShutdownSessions: true}
	case SetWeight:
		if weight < 0 {
			return &pool.Change{ResetWeight: true}
		}
		return &pool.Change{Weight: &weight}
	}
	return nil
}

// Outcomes of a form, as HAProxy writes them behind ";st=".
const (
	outcomeDone    = "DONE" // all was done
	outcomeNone    = "NONE" // no server was named
	outcomePart    = "PART" // some was done
	outcomeError   = "ERRP" // the form says something that cannot be done
	outcomeTooMuch = "EXCD" // the body is too large
	outcomeDenied  = "DENY" // the user may not, or another site has sent it
)

// outcomes says them for a person; good: it is no fault.
var outcomes = map[string]struct {
	Text string
	Good bool
}{
	outcomeDone:    {"Action processed successfully.", true},
	outcomeNone:    {"Nothing has changed: no server was chosen.", false},
	outcomePart:    {"Action partially processed. Some servers could not be set.", false},
	outcomeError:   {"Action not processed: the form names a backend, a server or an action that is not there, or that cannot be done now.", false},
	outcomeTooMuch: {"Action not processed: the form is too large. Choose fewer servers.", false},
	outcomeDenied:  {"Action denied.", false},
}

// form is what a POST asks for.
type form struct {
	Backend string
	Servers []string
	Action  Action
	Weight  string
	token   string
	confirm bool
}

// post does what a form asks for, and sends the browser back to the page.
func (p *Page) post(w http.ResponseWriter, x *request) {
	f, outcome := p.readForm(w, x)
	if outcome == "" {
		if f.token != "" && !f.confirm {
			p.confirm(w, x, f)
			return
		}
		outcome = p.act(x, f)
	}
	what := string(f.Action)
	if f.Action == SetWeight {
		what += " " + f.Weight
	}
	p.audit(x, f.Backend, f.Servers, what, outcome)
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Location", x.page.URI+x.options.String()+";st="+outcome)
	w.WriteHeader(http.StatusSeeOther)
}

// readForm reads and judges a form; with an outcome it is refused.
func (p *Page) readForm(w http.ResponseWriter, x *request) (f form, outcome string) {
	body, err := io.ReadAll(http.MaxBytesReader(w, x.Body, maxForm))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return f, outcomeTooMuch
	}
	// Not http.Request.ParseForm, which stumbles over the semicolons behind the URI.
	values, parseErr := url.ParseQuery(string(body))
	err = errors.Join(err, parseErr)
	f = form{
		Backend: values.Get("b"), Servers: values["s"], Action: Action(values.Get("action")), Weight: strings.TrimSpace(values.Get("weight")),
		token: values.Get("token"), confirm: values.Get("confirm") == "yes",
	}
	if alias, ok := aliases[string(f.Action)]; ok {
		f.Action = alias
	}
	switch {
	case !x.user.Admin, !p.fromHere(x, f.token):
		return f, outcomeDenied
	case err != nil || p.servers == nil:
		return f, outcomeError
	case len(f.Servers) == 0:
		return f, outcomeNone
	}
	return f, ""
}

// fromHere reports whether a form was sent by the page itself, or by a program that is no browser. Every browser says from
// which site a form comes: Origin since long, Sec-Fetch-Site since 2020 to 2023 (Fetch standard; W3C Fetch Metadata). A
// form of a browser also needs the token that only the page of this user has.
func (p *Page) fromHere(x *request, token string) bool {
	browser := false
	if site := x.Header.Get("Sec-Fetch-Site"); site != "" {
		browser = true
		if site != "same-origin" {
			return false
		}
	}
	for _, name := range []string{"Origin", "Referer"} {
		for _, value := range x.Header.Values(name) {
			browser = true
			from, err := url.Parse(value)
			if err != nil || from.Host == "" || !strings.EqualFold(from.Host, x.Host) {
				return false
			}
		}
	}
	if !browser && token == "" {
		return true
	}
	return p.door.goodToken(x.user.Name, token, time.Now())
}

// act does what is asked, server by server.
func (p *Page) act(x *request, f form) (outcome string) {
	report := p.report()
	backend := find(&report, f.Backend)
	switch {
	case backend != nil && inScope(x.page, backend.Name):
	case len(x.page.Scope) > 0:
		return outcomeDenied // whether it is there is not told
	default:
		return outcomeError
	}
	weight := 0
	if f.Action == SetWeight {
		weight = -1
		if n, err := strconv.Atoi(f.Weight); err == nil && n >= 0 && n <= spec.MaxWeight {
			weight = n
		} else if f.Weight != "" {
			return outcomeError
		}
	}
	asked := change(f.Action, weight)
	if asked == nil {
		return outcomeError
	}
	by := x.user.Name + " from " + x.from
	done := 0
	for _, server := range f.Servers {
		if _, err := p.servers.SetServer(backend.Name, server, *asked, by); err == nil {
			done++
		} else {
			p.log.Warn("statistics page: server not set", zap.Error(err))
		}
	}
	switch done {
	case len(f.Servers):
		return outcomeDone
	case 0:
		return outcomeError
	}
	return outcomePart
}

// find returns the backend of a name, or of a number with # before it.
func find(report *stats.Report, name string) *stats.Backend {
	for i := range report.Backends {
		b := &report.Backends[i]
		if b.Name == name || name == "#"+strconv.Itoa(b.ID) {
			return b
		}
	}
	return nil
}
