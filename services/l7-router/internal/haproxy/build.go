package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/twotier/twotier/services/internal/importing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// finish settles what can be settled only when the whole file is known.
func (r *reader) finish() {
	r.endDefaults()
	for _, s := range r.sections {
		if !s.left {
			r.settle(s)
		}
	}
	for _, s := range r.sections {
		s.servers = slices.DeleteFunc(s.servers, func(one *server) bool { return one.port == 0 && !r.assumePort(s, one) })
		for _, a := range s.acls {
			for _, line := range a.lines {
				if !a.used && a.bad == nil {
					line.LeftOut("no rule that is taken uses it")
				}
			}
		}
	}
	for _, s := range r.sections {
		s.settleRules()
	}
	r.crossed()
	r.values()
	r.pages()
	r.statsBehindRule()
}

// settle looks at a section alone.
func (r *reader) settle(s *section) {
	s.settleProtocol()
	switch mode := s.settings.mode; {
	case mode.value == "http":
	case mode.line == nil:
		s.line.Assumed("mode http; HAProxy would run it in mode tcp, in which rules, cookies and HTTP checks do not work")
	default:
		mode.line.Unsupported("sections in mode %s are left out", importing.Quote(mode.value))
		s.leave("mode %s (line %d): the router speaks HTTP only; a virtual service of the ipvs-director passes TCP on",
			importing.Quote(mode.value), mode.line.Number)
		return
	}
	if s.kind == "listen" && len(s.servers) == 0 {
		s.line.Taken("no backend/%s after all, because it has no servers", s.backend)
		s.backend = ""
	}
	if s.frontend != "" {
		if l := s.settings.log; l.line != nil && s.settings.httpLog == nil {
			l.line.Assumed("frontend/%s logs as option httplog does; HAProxy would log connections only", s.frontend)
		}
		if s.backend != "" && s.settings.defaultBackend.line == nil {
			s.settings.defaultBackend = setting[string]{s.name, s.line}
		}
		if s.settings.timeouts["client"].line == nil {
			s.line.Assumed("timeout client %v; HAProxy would wait for ever", spec.DefaultTimeoutClient)
		}
		if s.settings.timeouts["http-request"].line == nil {
			s.line.Assumed("timeout http-request %v; HAProxy would wait for a head as long as timeout client says", spec.DefaultTimeoutRequest)
		}
	}
	if s.backend != "" {
		if s.settings.timeouts["connect"].line == nil {
			s.line.Assumed("timeout connect %v; HAProxy would wait for ever", spec.DefaultTimeoutConnect)
		}
		if s.settings.timeouts["server"].line == nil {
			s.line.Assumed("timeout server %v; HAProxy would wait for ever", spec.DefaultTimeoutServer)
		}
		s.settleHealth()
	}
}

// settleProtocol makes one protocol of those of the servers: ours belongs to the backend.
func (s *section) settleProtocol() {
	s.servers = slices.DeleteFunc(s.servers, func(one *server) bool {
		if one.h2c != s.servers[0].h2c {
			one.line.LeftOut("the servers of a backend speak one protocol, that of the first (line %d); give this one a backend of its own", s.servers[0].line.Number)
			return true
		}
		return false
	})
	if len(s.servers) > 0 && s.servers[0].h2c && s.settings.httpCheck.line != nil {
		s.servers[0].line.Assumed("checked in HTTP/1.1; for servers that speak HTTP/2 only take the http part out of the check")
	}
}

// assumePort finds the port of a server that has none: it is the one that the client called.
func (r *reader) assumePort(s *section, one *server) bool {
	var ports []uint16
	for _, f := range r.sections {
		leads := f.settings.defaultBackend.value == s.name ||
			slices.ContainsFunc(f.rules, func(u *rule) bool { return u.backend == s.name })
		for _, b := range slices.Concat(f.binds, f.bindsTLS) {
			address, err := netip.ParseAddrPort(b.value)
			if leads && f.frontend != "" && err == nil && !slices.Contains(ports, address.Port()) {
				ports = append(ports, address.Port())
			}
		}
	}
	if len(ports) != 1 {
		one.line.LeftOut("no port: HAProxy would use the one that the client called, and %d lead here; write a port; the server is left out", len(ports))
		return false
	}
	one.port = ports[0]
	if one.checking.port == one.port {
		one.line.Assumed("port %d for requests: port %d behind check is for checks only, HAProxy sends requests to the port that the client called",
			one.port, one.checking.port)
	} else {
		one.line.Assumed("port %d: HAProxy sends requests to the port that the client called", one.port)
	}
	return true
}

// servers calls do for each server that is taken.
func (r *reader) servers(do func(s *section, one *server)) {
	for _, s := range r.sections {
		if s.backend == "" {
			continue
		}
		for _, one := range s.servers {
			do(s, one)
		}
	}
}

// crossed speaks about servers without a check, about checks at other ports, and about names that mean one machine here and
// another one there.
func (r *reader) crossed() {
	type user struct {
		section *section
		server  *server
	}
	byName, byAddress := map[string]user{}, map[string]user{}
	checked := map[*section]bool{}
	r.servers(func(s *section, one *server) { checked[s] = checked[s] || one.checked })
	r.servers(func(s *section, one *server) {
		if !one.checked && checked[s] {
			where := ""
			if one.address.IsLoopback() {
				where = ", the router's own machine"
			}
			r.report.Warn("Line %d: server %s (%s%s) of backend %s has no check. It gets requests even when nothing listens there.",
				one.line.Number, one.name, one.endpoint(), where, s.backend)
		}
		other, named := byName[one.name]
		same, known := byAddress[one.endpoint()]
		if named && known && other.server.endpoint() != one.endpoint() && same.server.name != one.name {
			r.report.Warn("The names are crossed: server %s is %s in backend %s (line %d), but %s in backend %s (line %d), which is %s in backend %s (line %d). "+
				"A cookie named after the server would send a client from one machine to the other; here the value of a cookie stands for an address, in every backend.",
				one.name, other.server.endpoint(), other.section.backend, other.server.line.Number,
				one.endpoint(), s.backend, one.line.Number, same.server.name, same.section.backend, same.server.line.Number)
		}
		if !named {
			byName[one.name] = user{s, one}
		}
		if !known {
			byAddress[one.endpoint()] = user{s, one}
		}
	})
}

// values sees to it that under one cookie name one address has one value in all backends, as spec wants it.
func (r *reader) values() {
	type key struct{ cookie, of string }
	values, addresses := map[key]*server{}, map[key]*server{}
	r.servers(func(s *section, one *server) {
		c := s.settings.cookie
		switch {
		case one.cookie == "":
			return
		case c.line == nil:
			one.line.Taken("cookie %s means nothing: the backend has no cookie", importing.Quote(one.cookie))
			one.cookie = ""
			return
		}
		name := c.value.GetName()
		if other := values[key{name, one.endpoint()}]; other != nil && other.cookie != one.cookie {
			one.line.Assumed("cookie %s, which %s has in line %d, and not %s: one address has one value in every backend",
				importing.Quote(other.cookie), one.endpoint(), other.line.Number, importing.Quote(one.cookie))
			one.cookie = other.cookie
		}
		if other := addresses[key{name, one.cookie}]; other != nil && other.endpoint() != one.endpoint() {
			one.line.Unsupported("cookie %s stands for %s in line %d; the server is taken without, give it a value of its own",
				importing.Quote(one.cookie), other.endpoint(), other.line.Number)
			one.cookie = ""
			return
		}
		values[key{name, one.endpoint()}] = one
		addresses[key{name, one.cookie}] = one
	})
}

func (s *server) endpoint() string { return netip.AddrPortFrom(s.address, s.port).String() }

// statsBehindRule finds a statistics page with actions, which are POSTs, behind a rule that sends POSTs elsewhere.
func (r *reader) statsBehindRule() {
	for _, s := range r.sections {
		for _, f := range r.sections {
			if s.statsAdmin == nil || s.backend == "" || f.frontend == "" || f.settings.defaultBackend.value != s.name {
				continue
			}
			for _, u := range f.rules {
				posts := u.backend != "" && u.when.takesAll("POST")
				if posts && u.backend != s.name {
					r.report.Warn("Line %d: the actions of the statistics page are POSTs, and line %d sends every POST to backend %s: HAProxy never shows them to the page in %s. Here the page comes before the rules.",
						s.statsAdmin.Number, u.line.Number, importing.Quote(u.backend), importing.Quote(s.name))
				}
			}
		}
	}
}

// part is a piece of the objects that spec may refuse, and what happens then.
type part struct {
	// field is where it stands, as violations name it.
	field string
	line  *importing.Line
	// drop takes it out; each drop leaves less behind.
	drop func()
	// so says what that means. whole: nothing of the line is left then.
	so    string
	whole bool
}

// build makes the objects, and takes out what spec refuses until it refuses nothing.
func (r *reader) build() Result {
	for {
		r.leadNowhere()
		var result Result
		var parts []part
		for _, s := range r.sections {
			if s.backend != "" {
				m, p := s.backendMessage()
				result.Backends, parts = append(result.Backends, m), append(parts, p...)
			}
		}
		for _, s := range r.sections {
			if s.frontend != "" {
				m, p := r.frontendMessage(s)
				result.Frontends, parts = append(result.Frontends, m), append(parts, p...)
			}
		}
		_, violations := spec.Parse(result.Frontends, result.Backends)
		if len(violations) == 0 {
			return result
		}
		byField := map[string]part{}
		for _, p := range parts {
			byField[p.field] = p
		}
		for _, v := range violations {
			p, found := responsible(byField, v.GetField())
			if !found { // so that the loop ends whatever spec may come to say
				p = part{line: &importing.Line{}, drop: func() { r.leaveAll(v.GetDescription()) }}
			}
			if p.whole {
				p.line.LeftOut("%s; %s", v.GetDescription(), p.so)
			} else {
				p.line.Unsupported("%s; %s", v.GetDescription(), p.so)
			}
			p.drop()
		}
	}
}

// responsible is the smallest part that a field belongs to.
func responsible(parts map[string]part, field string) (part, bool) {
	for {
		if p, ok := parts[field]; ok {
			return p, true
		}
		at := strings.LastIndexAny(field, ".[")
		if at < 0 {
			return part{}, false
		}
		field = field[:at]
	}
}

func (r *reader) leaveAll(reason string) {
	for _, s := range r.sections {
		s.leave("%s", reason)
	}
}

func (s *section) object(field string) part {
	return part{field: field, line: s.line, so: "the section is left out", whole: true, drop: func() { s.leave("what is left of it is not valid") }}
}

// timeout makes a duration of a timeout, and its part.
func (s *section) timeout(parts *[]part, field, name string) *durationpb.Duration {
	t := s.settings.timeouts[name]
	if t.line == nil {
		return nil
	}
	*parts = append(*parts, part{field: field, line: t.line, so: "the default is taken", drop: func() { delete(s.settings.timeouts, name) }})
	return durationpb.New(t.value)
}

func (r *reader) frontendMessage(s *section) (*routerv1.Frontend, []part) {
	at := "frontend/" + s.frontend
	parts := []part{s.object(at)}
	m := &routerv1.Frontend{
		Name:               s.frontend,
		TimeoutClient:      s.timeout(&parts, at+".timeout_client", "client"),
		TimeoutClientFin:   s.timeout(&parts, at+".timeout_client_fin", "client-fin"),
		TimeoutHttpRequest: s.timeout(&parts, at+".timeout_http_request", "http-request"),
	}
	// HAProxy: the first of these that is set rules idle connections.
	for _, name := range []string{"http-keep-alive", "http-request", "client"} {
		if s.settings.timeouts[name].line != nil {
			m.TimeoutHttpKeepAlive = s.timeout(&parts, at+".timeout_http_keep_alive", name)
			break
		}
	}
	if n := s.settings.maxconn; n.line != nil {
		m.Maxconn = n.value
		parts = append(parts, part{field: at + ".maxconn", line: n.line, so: "the default is taken", drop: func() { s.settings.maxconn.line = nil }})
	} else if r.global.line != nil && r.global.value <= spec.MaxConn {
		m.Maxconn = r.global.value
	}
	m.Stats = s.pageMessage(&parts, at+".stats")
	m.AccessLog = s.logMessage(&parts, at+".access_log")
	if s.http2 {
		m.Http2 = &routerv1.Http2{Cleartext: true}
	}
	s.bindMessage(m, &parts, at)
	s.settleTarpits()
	for stage := range stages {
		for _, u := range s.rules {
			if u.stage != stage {
				continue
			}
			parts = append(parts, part{field: fmt.Sprintf("%s.rules[%d]", at, len(m.Rules)), line: u.line, whole: true,
				so:   strings.TrimPrefix(u.without, "; "),
				drop: func() { s.rules = slices.DeleteFunc(s.rules, func(o *rule) bool { return o == u }) }})
			one := proto.CloneOf(u.message)
			one.Condition, one.Backend = u.when.when, r.backendName(u.backend)
			m.Rules = append(m.Rules, one)
		}
	}
	m.Forwarded = s.forwardedMessage(&parts, at)
	if d := s.settings.defaultBackend; d.line != nil {
		m.DefaultBackend = r.backendName(d.value)
		parts = append(parts, part{field: at + ".default_backend", line: d.line, so: "frontend/" + s.frontend + " answers 503 to what no rule claims",
			drop: func() { s.settings.defaultBackend = setting[string]{} }})
	}
	return m, parts
}

// forwardedMessage is what lines say of the fields that tell the client; nil: what is the default anyway.
func (s *section) forwardedMessage(parts *[]part, at string) *routerv1.Forwarded {
	f := proto.CloneOf(s.forwarded)
	if o := s.settings.forwardFor; len(o.value) > 0 {
		f.Trusted = o.value
		*parts = append(*parts, part{field: at + ".forwarded", line: o.line, so: "nobody is trusted", drop: func() { s.settings.forwardFor.value = nil }})
	}
	if proto.Equal(f, &routerv1.Forwarded{}) {
		return nil
	}
	return f
}

// backendName is our name of a backend; empty: there is none.
func (r *reader) backendName(name string) string {
	if s := r.backends[name]; s != nil {
		return s.backend
	}
	return ""
}

// leadNowhere takes out what leads to a backend that is not there, or not any more.
func (r *reader) leadNowhere() {
	for _, s := range r.sections {
		s.rules = slices.DeleteFunc(s.rules, func(u *rule) bool {
			gone := u.backend != "" && r.backendName(u.backend) == ""
			if gone {
				u.line.LeftOut("backend %s is not there, or not taken%s", importing.Quote(u.backend), consequence)
			}
			return gone
		})
		if d := s.settings.defaultBackend; s.frontend != "" && d.line != nil && r.backendName(d.value) == "" {
			d.line.Unsupported("backend %s is not there, or not taken; frontend/%s answers 503 to what no rule claims", importing.Quote(d.value), s.frontend)
			s.settings.defaultBackend = setting[string]{}
		}
	}
}

func (s *section) backendMessage() (*routerv1.Backend, []part) {
	at := "backend/" + s.backend
	parts := []part{s.object(at)}
	m := &routerv1.Backend{
		Name:             s.backend,
		TimeoutConnect:   s.timeout(&parts, at+".timeout_connect", "connect"),
		TimeoutServer:    s.timeout(&parts, at+".timeout_server", "server"),
		TimeoutQueue:     s.timeout(&parts, at+".timeout_queue", "queue"),
		TimeoutServerFin: s.timeout(&parts, at+".timeout_server_fin", "server-fin"),
		TimeoutTunnel:    s.timeout(&parts, at+".timeout_tunnel", "tunnel"),
	}
	if len(s.servers) > 0 && s.servers[0].h2c {
		m.Protocol = routerv1.Protocol_PROTOCOL_H2C
	}
	s.chooses(m, &parts, at)
	if c := s.settings.cookie; c.line != nil {
		m.Cookie = c.value
		parts = append(parts, part{field: at + ".cookie", line: c.line, so: "clients are not kept on a server", drop: func() {
			s.settings.cookie = setting[*routerv1.Cookie]{}
			for _, one := range s.servers {
				one.cookie = ""
			}
		}})
	}
	for i, one := range s.servers {
		field := fmt.Sprintf("%s.servers[%d]", at, i)
		m.Servers = append(m.Servers, &routerv1.Server{
			Name: one.name, Address: one.endpoint(), Weight: one.weight, Backup: one.backup, Cookie: one.cookie,
			Admin: one.admin, SendProxy: one.sendProxy, Check: s.checkOf(one),
		})
		parts = append(parts,
			part{field: field, line: one.line, so: "the server is left out", whole: true,
				drop: func() { s.servers = slices.DeleteFunc(s.servers, func(o *server) bool { return o == one }) }},
			part{field: field + ".cookie", line: one.line, so: "the value is left out", drop: func() { one.cookie = "" }})
		s.limits(m.Servers[i], one, &parts, field)
		parts = append(parts, intervals(field+".check", one)...)
		if m.Check == nil && one.checked {
			m.Check = s.check(&parts, at+".check", one)
			m.ShutdownSessionsWhenDown = one.cut
			parts = append(parts,
				part{field: at + ".passive", line: one.line, so: "traffic is not judged", drop: func() { one.observe = routerv1.Observe_OBSERVE_UNSPECIFIED }})
		}
	}
	m.Passive = s.passive()
	if retries := s.settings.retries; retries.line != nil {
		m.Retries = retries.value
		parts = append(parts, part{field: at + ".retries", line: retries.line, so: "the default is taken",
			drop: func() { s.settings.retries = setting[*routerv1.Retries]{} }})
	}
	return m, parts
}
