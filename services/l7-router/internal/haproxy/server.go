package haproxy

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// server is a server line, or what default-server says.
type server struct {
	line    *importing.Line
	name    string // ours
	address netip.Addr
	port    uint16 // 0: the port that the client called
	weight  *uint32
	backup  bool
	cookie  string
	// sendProxy is the version of the PROXY header that it wants.
	sendProxy routerv1.SendProxy
	// h2c: it is spoken to in HTTP/2.
	h2c       bool
	maxconn   uint32
	maxqueue  uint32
	slowstart time.Duration
	admin     routerv1.Admin
	checking
	hasNoMeaning string // why the server cannot be taken; empty: it can
}

// parameter is a word behind a server's address.
type parameter struct {
	// args is how many words belong to it.
	args int
	// take reads them and reports whether they are good; nil: it is not taken.
	take func(s *server, value string) bool
	// fatal: without it the server would be spoken to in another way, so the server is left out.
	fatal bool
	// why it is not taken and what to do instead.
	why string
	// harmless: nobody notices that it is not taken.
	harmless bool
}

// parameters are those of the configuration manual ("Server and default-server options") that are told apart.
var parameters = map[string]parameter{
	"backup":    {take: func(s *server, _ string) bool { s.backup = true; return true }},
	"no-backup": {take: func(s *server, _ string) bool { s.backup = false; return true }},
	"weight": {args: 1, take: func(s *server, v string) bool {
		s.weight = new(uint32)
		return number(v, s.weight)
	}},
	"proto": {args: 1, take: func(s *server, v string) bool {
		s.h2c = v == "h2"
		return v == "h2" || v == "h1"
	}},
	"cookie": {args: 1, take: func(s *server, v string) bool { s.cookie = v; return true }},

	"maxconn":   {args: 1, take: func(s *server, v string) bool { return number(v, &s.maxconn) }},
	"maxqueue":  {args: 1, take: func(s *server, v string) bool { return number(v, &s.maxqueue) }},
	"slowstart": {args: 1, take: func(s *server, v string) (ok bool) { s.slowstart, ok = duration(v); return ok }},

	"send-proxy":       {take: func(s *server, _ string) bool { s.sendProxy = routerv1.SendProxy_SEND_PROXY_V1; return true }},
	"send-proxy-v2":    {take: func(s *server, _ string) bool { s.sendProxy = routerv1.SendProxy_SEND_PROXY_V2; return true }},
	"no-send-proxy":    {take: func(s *server, _ string) bool { s.sendProxy = 0; return true }},
	"no-send-proxy-v2": {take: func(s *server, _ string) bool { s.sendProxy = 0; return true }},
	"ssl":              {fatal: true, why: "the router speaks to servers without TLS"},
	"track":            {args: 1, why: "the server is not checked by what another one's checks find"},
	"minconn":          {args: 1, why: "maxconn is the limit at all times"},
	"check-ssl":        {why: "checks are made without TLS"},
	"check-send-proxy": {harmless: true, why: "checks begin as requests do"},
	"agent-check":      {why: "there is no agent check; change weights with Apply"},
	"agent-port":       {args: 1, why: "there is no agent check; change weights with Apply"},
	"agent-inter":      {args: 1, why: "there is no agent check; change weights with Apply"},
	"agent-addr":       {args: 1, why: "there is no agent check; change weights with Apply"},
	"on-marked-up":     {args: 1, why: "requests under way stay where they are when a server comes back"},
	"redir":            {args: 1, why: "requests are never redirected to a server; they are passed on"},
	"source":           {args: 1, why: "connections come from the address that the kernel chooses"},
	"id":               {args: 1, harmless: true, why: "servers are known by their names"},
	"init-addr":        {args: 1, harmless: true, why: "addresses are numbers"},
	"resolvers":        {args: 1, harmless: true, why: "addresses are numbers"},
	"resolve-prefer":   {args: 1, harmless: true, why: "addresses are numbers"},
	"pool-max-conn":    {args: 1, harmless: true, why: "the router keeps its own number of idle connections"},
	"pool-purge-delay": {args: 1, harmless: true, why: "the router keeps idle connections for a time of its own"},
	"verify":           {args: 1, harmless: true, why: "it belongs to ssl"},
	"ca-file":          {args: 1, harmless: true, why: "it belongs to ssl"},
	"crt":              {args: 1, harmless: true, why: "it belongs to ssl"},
	"sni":              {args: 1, harmless: true, why: "it belongs to ssl"},
	"alpn":             {args: 1, harmless: true, why: "it belongs to ssl"},
	"tfo":              {harmless: true, why: "connections are kept for several requests"},
}

// read reads the words behind the address and speaks about those that are not taken.
func (s *server) read(line *importing.Line, words []string) {
	for i := 0; i < len(words); i++ {
		word := words[i]
		p, known := parameters[word]
		if own, ok := healthParameters[word]; ok {
			p, known = own, true
		}
		if !known {
			line.Unsupported("%s, and whatever stands behind it: not known to the importer", importing.Quote(word))
			return
		}
		value := strings.Join(words[min(i+1, len(words)):min(i+1+p.args, len(words))], " ")
		i += p.args
		switch {
		case p.take != nil:
			if !p.take(s, value) || p.args > 0 && value == "" {
				s.hasNoMeaning = word + " " + importing.Quote(value) + ": not a good value"
			}
		case p.fatal:
			s.hasNoMeaning = word + ": " + p.why
		case p.harmless:
			line.Taken("%s means nothing here: %s", word, p.why)
		default:
			line.Unsupported("%s: %s", word, p.why)
		}
	}
}

// server reads: server NAME ADDRESS[:PORT] [parameters].
func (r *reader) server(s *section, line *importing.Line, words []string) {
	if len(words) < 3 {
		line.LeftOut("want a name and an address; the server is left out")
		return
	}
	if s.kind == "frontend" {
		line.LeftOut("a frontend has no servers")
		return
	}
	one := s.settings.server
	one.line = line
	if one.weight != nil {
		weight := *one.weight
		one.weight = &weight
	}
	address, wrong := "", ""
	if address, one.port, wrong = endpoint(words[2]); wrong == "" {
		var err error
		if one.address, err = netip.ParseAddr(address); err != nil {
			wrong = "names are not resolved; write the IP address"
		}
	}
	if wrong != "" {
		line.LeftOut("address %s: %s; the server is left out", importing.Quote(words[2]), wrong)
		return
	}
	one.read(line, words[3:])
	if one.hasNoMeaning == "" && len(s.servers) == spec.MaxServers {
		one.hasNoMeaning = "a backend has " + strconv.Itoa(spec.MaxServers) + " servers at most"
	}
	if one.hasNoMeaning != "" {
		line.LeftOut("%s; the server is left out", one.hasNoMeaning)
		return
	}
	one.name = unique(words[1], func(name string) bool {
		return slices.ContainsFunc(s.servers, func(o *server) bool { return o.name == name })
	})
	line.Taken("server %s of backend/%s", one.name, s.backend)
	if one.name != words[1] {
		line.Assumed("another name than %s: names have a-z 0-9 - _ . only and are unique", importing.Quote(words[1]))
	}
	s.servers = append(s.servers, &one)
}

// endpoint takes an address of HAProxy apart: the host may be empty or *, an IPv6 address may stand in brackets or not,
// what is behind the last colon is the port.
func endpoint(text string) (host string, number uint16, wrong string) {
	if strings.Contains(text, "@") || strings.HasPrefix(text, "/") {
		return "", 0, "want IP:PORT; sockets, descriptors and other families are not taken"
	}
	host = text
	if at := strings.LastIndexByte(text, ':'); at >= 0 {
		host = text[:at]
		// 172.16.0.99: is an address without a port.
		if behind := text[at+1:]; behind != "" && !port(behind, &number) {
			return "", 0, "want one port of 1 to 65535; offsets and ranges are not taken"
		}
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"), number, ""
}

func port(text string, into *uint16) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	*into = uint16(n)
	return err == nil && n > 0 && text[0] != '+'
}

func number(text string, into *uint32) bool {
	n, err := strconv.ParseUint(text, 10, 32)
	*into = uint32(n)
	return err == nil
}
