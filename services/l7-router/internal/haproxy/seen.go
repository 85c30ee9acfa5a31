package haproxy

import (
	"net/netip"
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/twotier/twotier/services/internal/importing"
)

// What lines say of the statistics page and of the log.

// statistics reads a line of the statistics page.
func (r *reader) statistics(s *section, line *importing.Line, words []string) {
	page := &routerv1.StatsPage{}
	if before := s.settings.statsPage; before.line != nil {
		page = proto.CloneOf(before.value)
	}
	s.stats = line
	what := strings.Join(words[1:min(2, len(words))], "")
	value := strings.Join(words[min(2, len(words)):], " ")
	switch {
	case what == "enable" && value == "":
		line.Taken("the statistics page")
	case what == "hide-version" && value == "":
		page.HideVersion = true
		line.Taken("the page without the version")
	case what == "uri" && value != "":
		page.Uri = value
		line.Taken("the page at %s", importing.Quote(value))
	case what == "realm" && value != "":
		page.Realm = value
		line.Taken("the realm of the page")
	case what == "scope" && len(words) == 3:
		page.Scope = append(page.Scope, value)
		line.Taken("the page shows %s", map[bool]string{true: "its own section", false: importing.Quote(value)}[value == "."])
	case what == "refresh" && len(words) == 3:
		// Without a unit these are seconds (configuration manual, "stats refresh").
		if strings.Trim(value, "0123456789") == "" {
			value += "s"
		}
		length, ok := duration(value)
		if !ok {
			line.LeftOut("length %s: want a number and s, m or h", importing.Quote(words[2]))
			return
		}
		page.Refresh = durationpb.New(length)
		line.Taken("the page loads itself again every %v", length)
	case what == "auth":
		s.settings.statsAuth = true
		line.Assumed("the user admin, whose password the router makes at its first start (STATE-DIR/stats-password): users and passwords are not taken over; " +
			"write users with password_bcrypt (htpasswd -nbB) or password_file")
		if user, password, _ := strings.Cut(value, ":"); user == password {
			r.report.Warn("Line %d: user and password of the statistics page are the same word, the first guess of everybody. "+
				"They are not taken over.", line.Number)
		}
	case what == "admin":
		s.statsAdmin = line
		switch strings.Join(words[2:], " ") {
		case "if TRUE", "unless FALSE":
			line.Taken("the user admin may set servers; others may when their admin is true")
		default:
			line.Assumed("the user admin may set servers from everywhere: who may is said of users, not by a condition")
		}
	case strings.HasPrefix(what, "show-"):
		line.Ignored("the page has its own look")
		return
	default:
		line.LeftOut("stats %s is not known here; the page takes uri, realm, scope, refresh, hide-version, auth and admin", importing.Quote(what))
		return
	}
	s.settings.statsPage = setting[*routerv1.StatsPage]{page, line}
}

// pages gives each frontend the page that its clients get: its own, else that of the backend that its requests go to.
func (r *reader) pages() {
	shown := map[*section]bool{}
	for _, f := range r.sections {
		if f.frontend == "" {
			continue
		}
		leads := []string{f.settings.defaultBackend.value}
		for _, u := range f.rules {
			leads = append(leads, u.backend)
		}
		f.shows = f
		for _, name := range leads {
			if b := r.backends[name]; f.shows.settings.statsPage.line == nil && b != nil && b.backend != "" {
				f.shows = b
			}
		}
		if from := f.shows; from.settings.statsPage.line != nil {
			shown[from] = true
			if !from.settings.statsAuth {
				from.settings.statsPage.line.Assumed("the user admin, whose password the router makes at its first start (STATE-DIR/stats-password); HAProxy shows the page to everybody")
			}
			if from != f {
				from.settings.statsPage.line.Taken("the page of frontend/%s, answered before its rules", f.frontend)
			}
		} else {
			f.shows = nil
		}
	}
	for _, s := range r.sections {
		if s.stats != nil && !shown[s] && !s.left {
			s.stats.Unsupported("no frontend leads to this section, so nobody would see the page")
		}
	}
}

// pageMessage makes the statistics page of a frontend.
func (s *section) pageMessage(parts *[]part, at string) *routerv1.StatsPage {
	if s.shows == nil || s.shows.settings.statsPage.line == nil {
		return nil
	}
	from := s.shows
	page := proto.CloneOf(from.settings.statsPage.value)
	if i := slices.Index(page.Scope, "."); i >= 0 {
		page.Scope = slices.Delete(page.Scope, i, i+1)
		for _, name := range []string{from.frontend, from.backend} {
			if name != "" && !slices.Contains(page.Scope, name) {
				page.Scope = append(page.Scope, name)
			}
		}
	}
	line := from.settings.statsPage.line
	give := func(field, so string, drop func(p *routerv1.StatsPage)) {
		*parts = append(*parts, part{field: at + field, line: line, so: so, drop: func() { drop(from.settings.statsPage.value) }})
	}
	give(".uri", "the page is at /haproxy?stats", func(p *routerv1.StatsPage) { p.Uri = "" })
	give(".realm", "the realm is HAProxy's own", func(p *routerv1.StatsPage) { p.Realm = "" })
	give(".refresh", "the page does not load itself again", func(p *routerv1.StatsPage) { p.Refresh = nil })
	give("", "there is no page", func(*routerv1.StatsPage) { s.shows = nil })
	return page
}

// readLog reads a log line, of a section or of global (s is nil).
func (r *reader) readLog(s *section, line *importing.Line, words []string) {
	set := func(l setting[*routerv1.AccessLog]) {
		if s == nil {
			r.globalLog = l
		} else {
			s.settings.log = l
		}
	}
	before := r.globalLog
	if s != nil {
		before = s.settings.log
	}
	switch {
	case s != nil && s.kind == "backend":
		line.Ignored("frontends log requests; changes of health stand in the log of the service")
		return
	case len(words) < 2:
		line.LeftOut("want a target")
		return
	case words[1] == "global" && s != nil:
		if r.globalLog.line == nil {
			line.Ignored("the section global has no log that is taken")
			return
		}
		set(r.globalLog)
		line.Taken("the log of the section global")
		return
	case before.line != nil && (s == nil || before.line != r.globalLog.line):
		line.LeftOut("one log for a frontend; line %d has it", before.line.Number)
		return
	}
	l := &routerv1.AccessLog{}
	var wrong string
	if l.Target, wrong = logTarget(words[1]); wrong != "" {
		line.LeftOut("%s: %s; requests are not logged there", importing.Quote(words[1]), wrong)
		return
	}
	if s == nil {
		line.Taken("requests of frontends that say log global go to %s", importing.Quote(l.Target))
	} else {
		line.Taken("requests are logged to %s", importing.Quote(l.Target))
	}
	for i := 2; i < len(words); i++ {
		switch words[i] {
		case "len":
			line.Assumed("lines of the length that they have")
			i++
		case "format":
			i++
			if i < len(words) && words[i] != "rfc3164" && words[i] != "raw" && words[i] != "local" {
				line.Assumed("syslog as in RFC 3164")
			}
		case "sample":
			line.Unsupported("sample: all requests are logged; write access_log.sample for one in so many")
			i++
		default:
			if l.Facility == "" {
				l.Facility = words[i]
			} else {
				line.Ignored("all requests have the level info")
				i = len(words)
			}
		}
	}
	set(setting[*routerv1.AccessLog]{l, line})
}

// logTarget says HAProxy's address of a log in our words, or why that cannot be.
func logTarget(text string) (target, wrong string) {
	switch address, err := netip.ParseAddr(text); {
	case text == "stdout":
		return "stdout", ""
	case strings.HasPrefix(text, "/"):
		return "unix:" + text, ""
	case err == nil:
		return "udp:" + netip.AddrPortFrom(address, 514).String(), ""
	}
	if address, err := netip.ParseAddrPort(strings.TrimPrefix(text, "udp@")); err == nil {
		return "udp:" + address.String(), ""
	}
	return "", "want stdout, a path, or an IP address"
}

// httpLog reads option httplog.
func (r *reader) httpLog(s *section, line *importing.Line) {
	s.settings.httpLog = line
	line.Taken("requests are logged in this form, where there is a log")
}

// logMessage makes the log of a frontend.
func (s *section) logMessage(parts *[]part, at string) *routerv1.AccessLog {
	l := s.settings.log
	if l.line == nil {
		return nil
	}
	*parts = append(*parts,
		part{field: at + ".facility", line: l.line, so: "the facility is local0", drop: func() { l.value.Facility = "" }},
		part{field: at, line: l.line, so: "requests are not logged", drop: func() { s.settings.log = setting[*routerv1.AccessLog]{} }})
	return l.value
}
