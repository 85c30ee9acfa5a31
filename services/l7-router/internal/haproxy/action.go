package haproxy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/twotier/twotier/services/internal/importing"
)

const (
	withoutDeny = "; the rule is left out, and what it would refuse is let through"
	withoutEdit = "; the rule is left out, and nothing is changed by it"
	withoutTurn = "; the rule is left out, and what it would redirect is not"
)

// request reads: http-request ACTION ... [if|unless CONDITION].
func (r *reader) request(s *section, line *importing.Line, words []string) {
	if !r.ruled(s, line, words) {
		return
	}
	switch action := words[1]; action {
	case "deny", "tarpit":
		r.deny(s, line, words[1:])
	case "redirect":
		r.redirected(s, line, words[1:], requestStage)
	case "set-header", "add-header", "del-header":
		r.header(s, line, words[1:], requestStage)
	case "set-path", "replace-path":
		r.path(s, line, words[1:])
	default:
		line.LeftOut("http-request %s: taken are deny, tarpit, redirect, set-header, add-header, del-header, set-path and replace-path", importing.Quote(action))
	}
}

// response reads: http-response ACTION ... [if|unless CONDITION].
func (r *reader) response(s *section, line *importing.Line, words []string) {
	if !r.ruled(s, line, words) {
		return
	}
	switch action := words[1]; action {
	case "set-header", "add-header", "del-header":
		r.header(s, line, words[1:], responseStage)
	default:
		line.LeftOut("http-response %s: taken are set-header, add-header and del-header", importing.Quote(action))
	}
}

// ruled reports whether a section has rules, and the line an action.
func (r *reader) ruled(s *section, line *importing.Line, words []string) bool {
	switch {
	case len(words) < 2:
		line.LeftOut("want an action")
	case s.kind == "backend":
		line.LeftOut("rules belong to frontends: write it there, before the rule that chooses this backend, with its condition")
	default:
		return true
	}
	return false
}

// redirect reads: redirect location|prefix|scheme TO [options] [if|unless CONDITION].
func (r *reader) redirect(s *section, line *importing.Line, words []string) {
	if r.ruled(s, line, words) {
		r.redirected(s, line, words, redirectStage)
	}
}

// block reads the old form of http-request deny.
func (r *reader) block(s *section, line *importing.Line, words []string) {
	if r.ruled(s, line, append(slices.Clone(words), "")) {
		r.deny(s, line, slices.Concat([]string{"deny"}, words[1:]))
	}
}

func (r *reader) deny(s *section, line *importing.Line, words []string) {
	m := &routerv1.Deny{}
	u := &rule{line: line, message: &routerv1.Rule{Deny: m}, without: withoutDeny}
	rest := words[1:]
	if len(rest) > 1 && (rest[0] == "deny_status" || rest[0] == "status") {
		n, err := strconv.ParseUint(rest[1], 10, 10)
		if err != nil {
			line.LeftOut("status %s: want a number%s", importing.Quote(rest[1]), u.without)
			return
		}
		m.Status, rest = uint32(n), rest[2:]
	}
	if words[0] == "tarpit" {
		m.Tarpit = durationpb.New(0) // settled when all timeouts are known
	}
	if !r.add(s, u, rest) {
		return
	}
	what := "refused"
	if words[0] == "tarpit" {
		what = "held, then refused"
	}
	if u.when.sees()["path"] {
		what += ", also when another spelling of the path fits (see path_form)"
	}
	line.Taken("requests with %s are %s", u.when, what)
}

// settleTarpits gives the tarpits their time, HAProxy's: timeout tarpit, else timeout connect.
func (s *section) settleTarpits() {
	for _, u := range s.rules {
		d := u.message.GetDeny()
		if d.GetTarpit() == nil || d.GetTarpit().AsDuration() > 0 {
			continue
		}
		wait := time.Duration(0)
		for _, name := range []string{"tarpit", "connect"} {
			if t := s.settings.timeouts[name]; t.line != nil && wait == 0 {
				wait = t.value
			}
		}
		if wait == 0 {
			wait = 5 * time.Second
			u.line.Assumed("held for %v: there is neither timeout tarpit nor timeout connect", wait)
		}
		d.Tarpit = durationpb.New(wait)
	}
}

// redirected reads what is behind the word redirect.
func (r *reader) redirected(s *section, line *importing.Line, words []string, stage stage) {
	m := &routerv1.Redirect{}
	u := &rule{line: line, stage: stage, message: &routerv1.Rule{Redirect: m}, without: withoutTurn}
	rest := words[1:]
	for len(rest) > 0 && rest[0] != "if" && rest[0] != "unless" {
		word, args := rest[0], 1
		value := strings.Join(rest[1:min(2, len(rest))], "")
		switch word {
		case "location", "prefix", "scheme":
			fixed, wrong := plain(value)
			if wrong != "" {
				line.LeftOut("%s%s", wrong, u.without)
				return
			}
			switch word {
			case "location":
				m.Location = fixed
			case "prefix":
				m.Prefix = fixed
			default:
				m.Scheme = fixed
			}
		case "code":
			n, err := strconv.ParseUint(value, 10, 10)
			if err != nil {
				line.LeftOut("code %s: want a number%s", importing.Quote(value), u.without)
				return
			}
			m.Code = uint32(n)
		case "drop-query":
			m.DropQuery, args = m.GetLocation() == "", 0
		default:
			line.LeftOut("%s of a redirect%s", importing.Quote(word), u.without)
			return
		}
		rest = rest[min(1+args, len(rest)):]
	}
	if m.GetLocation() != "" {
		m.DropQuery = false // a location has no query of the request anyway
	}
	if wrong := s.resent(m); wrong != "" && stage == requestStage {
		line.LeftOut("%s%s", wrong, u.without)
		return
	}
	if r.add(s, u, rest) {
		line.Taken("requests with %s are redirected", u.when)
	}
}

// forwardedFields are the fields that the frontend itself can send, by what HAProxy's lines set them to.
var forwardedFields = map[string]func(f *routerv1.Forwarded, value string) bool{
	"x-forwarded-for": func(f *routerv1.Forwarded, value string) bool {
		f.XForwardedFor = routerv1.ForwardedFor_FORWARDED_FOR_REPLACE
		return value == "%[src]" || value == "%ci"
	},
	"x-forwarded-port": func(f *routerv1.Forwarded, value string) bool {
		f.XForwardedPort = true
		return value == "%[dst_port]" || value == "%fp"
	},
	"x-forwarded-host": func(f *routerv1.Forwarded, value string) bool {
		f.XForwardedHost = true
		return value == "%[req.hdr(host)]" || value == "%[hdr(host)]" || value == "%[req.hdr(Host)]" || value == "%[hdr(Host)]"
	},
}

// header reads: set-header|add-header NAME VALUE, del-header NAME.
func (r *reader) header(s *section, line *importing.Line, words []string, stage stage) {
	u := &rule{line: line, stage: stage, message: &routerv1.Rule{}, without: withoutEdit}
	if len(words) < 2 {
		line.LeftOut("want the name of a header" + u.without)
		return
	}
	name, rest := words[1], words[2:]
	e := &routerv1.Edit{}
	u.message.Edit = e
	if words[0] == "del-header" {
		if len(rest) > 1 && rest[0] == "-m" {
			if rest[1] != "str" {
				line.LeftOut("-m %s: headers are removed by their whole name%s", importing.Quote(rest[1]), u.without)
				return
			}
			rest = rest[2:]
		}
		e.RemoveRequestHeaders = []string{name}
	} else {
		if len(rest) == 0 {
			line.LeftOut("want a value" + u.without)
			return
		}
		value := rest[0]
		rest = rest[1:]
		if fill := forwardedFields[strings.ToLower(name)]; fill != nil && stage == requestStage && words[0] == "set-header" && len(rest) == 0 && strings.HasPrefix(value, "%") {
			if f := (&routerv1.Forwarded{}); fill(f, value) && fill(s.forwarded, value) {
				line.Taken("sent by the frontend itself; a trusted hop's counts")
				s.edited[strings.ToLower(name)] = line
				return
			}
		}
		fixed, wrong := plain(value)
		if wrong != "" {
			line.LeftOut("%s%s", wrong, u.without)
			return
		}
		h := []*routerv1.Header{{Name: name, Value: fixed}}
		switch {
		case strings.EqualFold(name, "host") && stage == requestStage && words[0] == "set-header":
			e.SetHost = fixed
		case words[0] == "set-header":
			e.SetRequestHeaders = h
		default:
			e.AddRequestHeaders = h
		}
	}
	if stage == responseStage {
		e.RemoveResponseHeaders, e.SetResponseHeaders, e.AddResponseHeaders = e.GetRemoveRequestHeaders(), e.GetSetRequestHeaders(), e.GetAddRequestHeaders()
		e.RemoveRequestHeaders, e.SetRequestHeaders, e.AddRequestHeaders = nil, nil, nil
	}
	if !r.add(s, u, rest) {
		return
	}
	if stage == requestStage {
		s.edited[strings.ToLower(name)] = line
		line.Taken("requests with %s are changed", u.when)
	} else {
		line.Taken("responses to requests with %s are changed, not the router's own answers", u.when)
	}
}

// path reads: set-path PATH, replace-path REGEX PATH.
func (r *reader) path(s *section, line *importing.Line, words []string) {
	u := &rule{line: line, message: &routerv1.Rule{}, without: withoutEdit}
	args := 1
	if words[0] == "replace-path" {
		args = 2
	}
	if len(words) < 1+args {
		line.LeftOut("want %d words behind %s%s", args, words[0], u.without)
		return
	}
	fixed, wrong := plain(words[args])
	if wrong != "" {
		line.LeftOut("%s%s", wrong, u.without)
		return
	}
	m := &routerv1.PathEdit{Set: fixed}
	if args == 2 {
		if _, wrong := patterns("reg", false, words[1:2]); wrong != "" {
			line.LeftOut("%s%s", wrong, u.without)
			return
		}
		m = &routerv1.PathEdit{Regex: words[1], Replacement: fixed}
	}
	u.message.Edit = &routerv1.Edit{Path: m}
	if r.add(s, u, words[1+args:]) {
		s.edited["path"] = line
		line.Taken("the path of requests with %s is changed", u.when)
	}
}

// plain reads a text in which HAProxy would put what "%" stands for.
func plain(text string) (fixed, wrong string) {
	fixed = strings.ReplaceAll(text, "%%", "\x00")
	if strings.Contains(fixed, "%") {
		return "", importing.Quote(text) + ": values are fixed texts"
	}
	return strings.ReplaceAll(fixed, "\x00", "%"), ""
}

// forwardFor reads: option forwardfor [except NETWORK] [header NAME] [if-none].
func (r *reader) forwardFor(s *section, line *importing.Line, words []string) {
	line.Assumed("X-Forwarded-For has the sender of the connection; what the sender itself has put there is dropped unless it is a trusted hop")
	var trusted []string
	for i := 0; i < len(words); i++ {
		value := strings.Join(words[min(i+1, len(words)):min(i+2, len(words))], "")
		switch words[i] {
		case "except":
			i++
			network, ok := network(value)
			if !ok {
				line.Unsupported("except %s: want a network", importing.Quote(value))
				continue
			}
			trusted = append(trusted, network)
			line.Assumed("%s is a trusted hop: what it sends goes on, with its own address behind, which HAProxy leaves out; src means the client that it names", network)
		case "header":
			i++
			if !strings.EqualFold(value, "x-forwarded-for") {
				line.Unsupported("header %s: the name is X-Forwarded-For", importing.Quote(value))
			}
		case "if-none":
			line.Assumed("the list of a trusted hop is continued; HAProxy would leave it as it is")
		default:
			line.Unsupported("%s", importing.Quote(words[i]))
		}
	}
	s.settings.forwardFor = setting[[]string]{trusted, line}
}
