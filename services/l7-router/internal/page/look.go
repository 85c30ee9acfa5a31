package page

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/stats"
)

// look is how the page looks.
type look struct {
	style     template.CSS
	styleHash string // for the Content-Security-Policy
	templates *template.Template
}

func newLook() (*look, error) {
	style, err := files.ReadFile("templates/style.css")
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(style)
	l := &look{style: template.CSS(style), styleHash: "sha256-" + base64.StdEncoding.EncodeToString(sum[:])}
	l.templates, err = template.New("").Funcs(template.FuncMap{
		"n": func(v stats.Values, name string) template.HTML { return count(counted(&v, name)) },
		"bad": func(v stats.Values, name string) template.HTML {
			if n := counted(&v, name); n > 0 {
				return `<span class="warn">` + count(n) + `</span>`
			}
			return count(0)
		},
		"b":      func(v stats.Values, name string) template.HTML { return amount(counted(&v, name)) },
		"count":  count,
		"ms":     func(d stats.Distribution, q float64) template.HTML { return length(d.Quantile(q), d.Count > 0) },
		"most":   func(v stats.Values) template.HTML { return length(v.Max[stats.Total], v.Total.Count > 0) },
		"avg":    func(v stats.Values, a int) template.HTML { return length(v.Average[a], v.Total.Count > 0) },
		"short":  func(d time.Duration) template.HTML { return length(d, true) },
		"lasted": func(d time.Duration) template.HTML { return template.HTML(span(d, d >= time.Second)) },
		"since": func(t time.Time) string {
			if t.IsZero() {
				return ""
			}
			return span(time.Since(t), true)
		},
		"colour": colour,
	}).ParseFS(files, "templates/*.html")
	return l, err
}

// counted finds a counter by its short name on the page.
func counted(v *stats.Values, name string) uint64 {
	switch name {
	case "stot":
		return v.Count(stats.Sessions)
	case "req_tot":
		return v.Count(stats.Requests)
	case "bin":
		return v.Count(stats.BytesIn)
	case "bout":
		return v.Count(stats.BytesOut)
	case "2xx":
		return v.Count(stats.Status2xx)
	case "3xx":
		return v.Count(stats.Status3xx)
	case "4xx":
		return v.Count(stats.Status4xx)
	case "5xx":
		return v.Count(stats.Status5xx)
	case "other":
		return v.Count(stats.StatusOther) + v.Count(stats.Status1xx)
	case "dreq":
		return v.Count(stats.DeniedRequests)
	case "ereq":
		return v.Count(stats.RequestErrors)
	case "econ":
		return v.Count(stats.ConnectErrors)
	case "eresp":
		return v.Count(stats.ResponseErrors)
	case "cli_abrt":
		return v.Count(stats.ClientAborts)
	case "aborts":
		return v.Count(stats.ClientAborts) + v.Count(stats.ServerAborts)
	case "wredis":
		return v.Count(stats.Redispatches)
	case "connect":
		return v.Count(stats.Connects)
	case "reuse":
		return v.Count(stats.Reuses)
	}
	return 0
}

const zero = `<span class="zero">0</span>`

// count writes a number with its thousands apart.
func count(n uint64) template.HTML {
	if n == 0 {
		return zero
	}
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "\u202f" + text[i:]
	}
	return template.HTML(text)
}

// amount writes a number of bytes.
func amount(n uint64) template.HTML {
	if n == 0 {
		return zero
	}
	value, unit := float64(n), "B"
	for _, next := range []string{"kB", "MB", "GB", "TB", "PB"} {
		if value < 1000 {
			break
		}
		value, unit = value/1000, next
	}
	if unit == "B" {
		return template.HTML(fmt.Sprintf("%d\u202fB", n))
	}
	return template.HTML(fmt.Sprintf("%.3g\u202f%s", value, unit))
}

// length writes a time in milliseconds or seconds.
func length(d time.Duration, known bool) template.HTML {
	switch ms := float64(d) / float64(time.Millisecond); {
	case !known:
		return `<span class="zero">–</span>`
	case d < time.Millisecond:
		return template.HTML(fmt.Sprintf("%.2f\u202fms", ms))
	case d < 100*time.Millisecond:
		return template.HTML(fmt.Sprintf("%.1f\u202fms", ms))
	case d < time.Second:
		return template.HTML(fmt.Sprintf("%.0f\u202fms", ms))
	}
	return template.HTML(fmt.Sprintf("%.1f\u202fs", d.Seconds()))
}

// span writes how long something has lasted. Example: 2d3h
func span(d time.Duration, any bool) string {
	s := int64(max(d, 0) / time.Second)
	switch {
	case !any:
		return "–"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%dm", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%dd%dh", s/86400, s%86400/3600)
}

// colour is the class of a server's state, in the colours that HAProxy's users know.
func colour(s stats.Server) string {
	switch {
	case s.Status == "MAINT":
		return "maint"
	case strings.HasPrefix(s.Status, "DRAIN"):
		return "drain"
	case strings.HasPrefix(s.Status, "NOLB"):
		return "nolb"
	case s.Status == "no check":
		return "nocheck"
	case s.Status == "UP" && s.Backup:
		return "backup"
	case s.Status == "UP":
		return "up"
	case strings.HasPrefix(s.Status, "UP "):
		return "going-down"
	case strings.HasPrefix(s.Status, "DOWN ") && s.Check.Points > 0:
		return "going-up"
	}
	return "down"
}

// view is what the template of the page is given.
type view struct {
	Style    template.CSS
	Version  string
	Report   *stats.Report
	Backends []shown
	Refresh  string
	User     string
	Admin    bool
	Token    string
	Down     string // for the title
	Options  links
	Actions  any
	Outcome  any
	uri      string
}

// shown is a backend with the servers that are shown.
type shown struct {
	stats.Backend
	Shown []stats.Server
}

// Strong is the number of usable servers.
func (s shown) Strong() string {
	active, backup, _ := s.Strength()
	text := fmt.Sprintf("%d of %d", active+backup, len(s.Servers))
	return text
}

// links are the options in force and those a click away.
type links struct {
	options
	refreshes bool
}

// Refreshes: the page loads itself again.
func (l links) Refreshes() bool { return l.refreshes }

// OnlyUp: servers that are down are hidden.
func (l links) OnlyUp() bool { return l.up }

// NoMaint: servers in maintenance are hidden.
func (l links) NoMaint() bool { return !l.maint }

// Only is what names have to contain.
func (l links) Only() string { return l.scope }

// NoRefresh is without loading again.
func (l links) NoRefresh() links { l.refresh = false; return l }

// Ups hides servers that are down, or shows them again.
func (l links) Ups() links { l.up = !l.up; return l }

// Maints hides servers in maintenance, or shows them again.
func (l links) Maints() links { l.maint = !l.maint; return l }

// Scoped shows only names that contain one.
func (l links) Scoped(name string) links { l.scope = name[:min(len(name), maxScope)]; return l }

// All shows all names.
func (l links) All() links { l.scope = ""; return l }

// Link is the address of the page under other options.
func (v view) Link(o links) string { return v.uri + o.String() }

// CSV is the address of the same as CSV.
func (v view) CSV() string { return v.uri + ";csv" + v.Options.String() }

// JSON is the address of the same as JSON.
func (v view) JSON() string { return v.uri + ";json" + v.Options.String() }

// page makes the page.
func (l *look) page(p *Page, x *request, report *stats.Report) ([]byte, error) {
	v := view{
		Style: l.style, Report: report, User: x.user.Name, Admin: x.user.Admin && p.servers != nil, uri: x.page.URI,
		Options: links{x.options, x.refresh && x.page.Refresh > 0}, Actions: actions,
	}
	if !x.page.HideVersion {
		v.Version = report.Version
	}
	if v.Options.refreshes {
		v.Refresh = strconv.Itoa(int(x.page.Refresh/time.Second)) + ";url=" + v.Link(v.Options)
	}
	if v.Admin {
		v.Token = p.door.token(x.user.Name, time.Now())
	}
	if o, ok := outcomes[x.outcome]; ok {
		v.Outcome = o
	}
	down := 0
	for _, b := range report.Backends {
		s := shown{Backend: b}
		for _, server := range b.Servers {
			if !server.Usable() && server.Status != "MAINT" && !strings.HasPrefix(server.Status, "DRAIN") {
				down++
			}
			if x.up && !server.Usable() || !x.maint && server.Status == "MAINT" {
				continue
			}
			s.Shown = append(s.Shown, server)
		}
		v.Backends = append(v.Backends, s)
	}
	if down > 0 {
		v.Down = fmt.Sprintf("(%d down) ", down)
	}
	var out bytes.Buffer
	err := l.templates.ExecuteTemplate(&out, "page.html", v)
	return out.Bytes(), err
}

// warnings are what has to be said before an action.
var warnings = map[Action]string{
	Maint:      "It gets no requests any more, also from clients whose cookie names it.",
	Drain:      "It gets no new clients; those whose cookie names it still reach it.",
	HealthDown: "It gets no requests until its checks say otherwise.",
	ChecksOff:  "Its health stays as it is now, whatever happens to it.",
	Shutdown:   "The requests under way with it are cut off.",
}

// confirm asks whether a form is meant.
func (p *Page) confirm(w http.ResponseWriter, x *request, f form) {
	what := ""
	for _, a := range actions {
		if a.Action == f.Action {
			what = a.Text
		}
	}
	if f.Action == SetWeight {
		what += " " + f.Weight
		if f.Weight == "" {
			what = "Set weight to the desired one"
		}
	}
	if what == "" {
		what = "No action was chosen"
	}
	var out bytes.Buffer
	err := p.look.templates.ExecuteTemplate(&out, "confirm.html", struct {
		Style                        template.CSS
		What, Warning, Action, Token string
		Form                         form
	}{p.look.style, what, warnings[f.Action], x.page.URI + x.options.String(), f.token, f})
	if err != nil {
		http.Error(w, "The page cannot be made.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(out.Bytes()) // a client that has gone needs none
}
