package haproxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// keyword is how a keyword of a section is read.
type keyword struct {
	// in are the sections where it has effect: d(efaults), f(rontend), b(ackend), l(isten).
	in   string
	read func(r *reader, s *section, line *importing.Line, words []string)
}

var keywords = map[string]keyword{
	"acl":             {"flb", (*reader).acl},
	"balance":         {"dlb", (*reader).balance},
	"bind":            {"fl", func(r *reader, s *section, line *importing.Line, words []string) { r.bind(s, line, words[1:]) }},
	"clitimeout":      {"dfl", (*reader).oldTimeout},
	"contimeout":      {"dlb", (*reader).oldTimeout},
	"cookie":          {"dlb", (*reader).cookie},
	"default_backend": {"dfl", (*reader).defaultBackend},
	"default-server":  {"dlb", (*reader).defaultServer},
	"disabled": {"dflb", func(_ *reader, s *section, line *importing.Line, _ []string) {
		if s.kind == "defaults" {
			line.LeftOut("write it in the sections that it is meant for, or take those away")
			return
		}
		s.leave("HAProxy does not start a disabled section; take the word away if it is wanted")
	}},
	"enabled":       {"dflb", func(_ *reader, _ *section, line *importing.Line, _ []string) { line.Ignored("sections are") }},
	"block":         {"flb", (*reader).block},
	"hash-type":     {"dlb", (*reader).hashType},
	"http-check":    {"dlb", (*reader).httpCheck},
	"http-request":  {"flb", (*reader).request},
	"http-response": {"flb", (*reader).response},
	"redirect":      {"flb", (*reader).redirect},
	"maxconn":       {"dfl", (*reader).maxconn},
	"mode":          {"dflb", (*reader).mode},
	"no":            {"dflb", (*reader).no},
	"option":        {"dflb", (*reader).option},
	"retries":       {"dlb", (*reader).retries},
	"retry-on":      {"dlb", (*reader).retryOn},
	"server":        {"flb", (*reader).server},
	"srvtimeout":    {"dlb", (*reader).oldTimeout},
	"log":           {"dflb", func(r *reader, s *section, line *importing.Line, words []string) { r.readLog(s, line, words) }},
	"stats":         {"dflb", (*reader).statistics},
	"timeout":       {"dflb", (*reader).timeout},
	"use_backend":   {"fl", (*reader).use},
}

// harmless are keywords and options that are left out without effect for users, and why.
var harmless = map[string]string{
	"backlog":                            "the kernel's queue is as long as the kernel allows",
	"description":                        "it explains only",
	"fullconn":                           "servers have no dynamic limits",
	"id":                                 "objects are known by their names",
	"log-tag":                            "the log names service and node",
	"unique-id-format":                   "no request numbers",
	"option abortonclose":                "a client that goes away always ends its request",
	"option clitcpka":                    "TCP keep-alive is on",
	"option contstats":                   "counters are live",
	"option dontlognull":                 "connections without a request are never logged",
	"option forceclose":                  "the router decides itself which connections it keeps",
	"option http-keep-alive":             "the router decides itself which connections it keeps",
	"option http-no-delay":               "data is passed on at once",
	"option http-pretend-keepalive":      "the router decides itself which connections it keeps",
	"option http-server-close":           "the router decides itself which connections it keeps",
	"option httpclose":                   "the router decides itself which connections it keeps",
	"option log-health-checks":           "changes of health are logged",
	"option log-separate-errors":         "the log has levels",
	"option prefer-last-server":          "idle connections are used again anyway",
	"option redispatch":                  "a request that a server does not take goes to the next one at once",
	"option socket-stats":                "counters are kept by server",
	"option splice-auto":                 "large bodies are spliced",
	"option splice-request":              "large bodies are spliced",
	"option splice-response":             "large bodies are spliced",
	"option srvtcpka":                    "TCP keep-alive is on",
	"option tcp-check":                   "without httpchk a check is a TCP connection",
	"option tcp-smart-accept":            "a matter of the kernel",
	"option tcp-smart-connect":           "a matter of the kernel",
	"option tcpka":                       "TCP keep-alive is on",
	"option idle-close-on-response":      "idle connections end when they are closed",
	"option accept-invalid-http-request": "a request that can be read in two ways is refused, always",
}

// instead are keywords and options that matter and cannot be said, and what to do about it.
var instead = map[string]string{
	"appsession":                  "persistence is by an inserted cookie: cookie NAME insert",
	"capture":                     "headers are not logged; the web servers can",
	"log-format":                  "the access log has two formats, HAProxy's httplog and JSON",
	"log-format-sd":               "the access log has two formats, HAProxy's httplog and JSON",
	"error-log-format":            "the access log has two formats, HAProxy's httplog and JSON",
	"option dontlog-normal":       "access_log.sample logs one request in so many, and all that ended badly",
	"option logasap":              "a request is logged when it has ended",
	"option tcplog":               "requests are logged as option httplog does",
	"compression":                 "bodies are passed on as they are; the web servers can compress",
	"cookie":                      "only the form cookie NAME insert can be taken",
	"dispatch":                    "name a server",
	"errorfile":                   "error pages cannot be changed",
	"errorfiles":                  "error pages cannot be changed",
	"errorloc":                    "error pages cannot be changed",
	"errorloc302":                 "error pages cannot be changed",
	"errorloc303":                 "error pages cannot be changed",
	"filter":                      "there are no filters",
	"force-persist":               "a cookie that names a server that is down counts for all requests (option persist) or for none",
	"http-after-response":         "responses are not changed by rules; the web servers do it",
	"http-reuse":                  "the router decides itself which connections it keeps",
	"ignore-persist":              "a cookie counts for every request",
	"load-server-state-from-file": "health is found out anew at the start",
	"monitor-fail":                "ask the gRPC health service instead",
	"monitor-net":                 "ask the gRPC health service instead",
	"monitor-uri":                 "ask the gRPC health service instead",
	"option http-proxy":           "there is no forward proxy",
	"option httpslog":             "there is no TLS at the router",
	"option ldap-check":           "checks are HTTP or a TCP connection",
	"option mysql-check":          "checks are HTTP or a TCP connection",
	"option originalto":           "X-Original-To is not sent",
	"option pgsql-check":          "checks are HTTP or a TCP connection",
	"option redis-check":          "checks are HTTP or a TCP connection",
	"option smtpchk":              "checks are HTTP or a TCP connection",
	"option ssl-hello-chk":        "checks are HTTP or a TCP connection",
	"option transparent":          "requests go to servers that are named",
	"persist":                     "persistence is by an inserted cookie: cookie NAME insert",
	"rate-limit":                  "the rate is not limited; maxconn limits connections",
	"reqadd":                      "requests are not changed by rules; the web servers do it",
	"reqirep":                     "requests are not changed by rules; the web servers do it",
	"reqrep":                      "requests are not changed by rules; the web servers do it",
	"rspadd":                      "responses are not changed by rules; the web servers do it",
	"rspdel":                      "responses are not changed by rules; the web servers do it",
	"rspidel":                     "responses are not changed by rules; the web servers do it",
	"server-template":             "name each server",
	"source":                      "connections come from the address that the kernel chooses",
	"stick":                       "persistence is by an inserted cookie: cookie NAME insert",
	"stick-table":                 "persistence is by an inserted cookie: cookie NAME insert",
	"tcp-check":                   "checks are HTTP or a TCP connection",
	"tcp-request":                 "connections are not judged by rules; a packet filter can",
	"tcp-response":                "connections are not judged by rules; a packet filter can",
	"use-server":                  "rules choose backends; make a backend of that server",
}

// keyword reads a line of a frontend, backend, listen or defaults.
func (r *reader) keyword(s *section, line *importing.Line, words []string) {
	if s.left {
		line.LeftOut("the section of line %d is left out", s.line.Number)
		return
	}
	k, known := keywords[words[0]]
	switch {
	case known && strings.Contains(k.in, s.kind[:1]):
		k.read(r, s, line, words)
	case known:
		line.Ignored("it has no effect in a section %s", s.kind)
	default:
		tell(line, words[0])
	}
}

// tell speaks about a keyword, or "option" and its name, that is not taken.
func tell(line *importing.Line, name string) {
	if why, ok := harmless[name]; ok {
		line.Ignored("%s", why)
	} else if what, ok := instead[name]; ok {
		line.LeftOut("%s", what)
	} else {
		line.LeftOut("%s is not known to the importer; what can be wanted of the router stands in proto/router/v1/desired.proto",
			importing.Quote(name))
	}
}

// globalLine speaks about a line of the section global.
func (r *reader) globalLine(line *importing.Line, words []string) {
	switch word := words[0]; {
	case word == "maxconn":
		r.maxconn(nil, line, words)
	case word == "stats":
		line.Ignored("the gRPC API is where the router is asked and changed, with client certificates")
	case word == "user" || word == "group" || word == "uid" || word == "gid" || word == "chroot" || word == "daemon" ||
		word == "pidfile" || word == "master-worker" || word == "ulimit-n":
		line.Ignored("how the process is run is a matter of the container or of the supervisor")
	case word == "log":
		r.readLog(nil, line, words)
	case strings.HasPrefix(word, "log-"):
		line.Ignored("the log names the program l7-router and its process")
	case word == "nbproc" || word == "nbthread" || word == "cpu-map" || strings.HasPrefix(word, "tune.") || strings.HasPrefix(word, "spread-"):
		line.Ignored("HAProxy's own engine is tuned by this")
	case strings.HasPrefix(word, "ssl-") || word == "ca-base" || word == "crt-base":
		line.Ignored("TLS is chosen by the Go library, and files are named by their whole paths")
	default:
		line.LeftOut("global %s has no counterpart; see the flags of the program (--help)", importing.Quote(word))
	}
}

func (r *reader) mode(s *section, line *importing.Line, words []string) {
	s.settings.mode = setting[string]{strings.Join(words[1:], " "), line}
	line.Taken("mode %s", importing.Quote(s.settings.mode.value))
}

func (r *reader) defaultBackend(s *section, line *importing.Line, words []string) {
	if len(words) != 2 || strings.HasPrefix(words[1], "%[") {
		line.LeftOut("want the name of one backend")
		return
	}
	s.settings.defaultBackend = setting[string]{words[1], line}
	line.Taken("requests that no rule claims go to backend %s", importing.Quote(words[1]))
}

func (r *reader) maxconn(s *section, line *importing.Line, words []string) {
	var n uint32
	if len(words) != 2 || !number(words[1], &n) || n == 0 {
		line.LeftOut("want a number of connections")
		return
	}
	if s == nil {
		r.global = setting[uint32]{n, line}
		line.Assumed("the limit of each frontend that has none of its own; there is none for the whole process")
		return
	}
	s.settings.maxconn = setting[uint32]{n, line}
	line.Taken("the most connections of a frontend")
}

// timeoutIn says in which sections a timeout has effect; those that are not named have no counterpart.
var timeoutIn = map[string]string{
	"client": "dfl", "http-request": "dfl", "tarpit": "dfl", "http-keep-alive": "dfl", "connect": "dlb", "queue": "dlb", "server": "dlb", "check": "dlb",
	"client-fin": "dfl", "server-fin": "dlb", "tunnel": "dlb",
}

func (r *reader) timeout(s *section, line *importing.Line, words []string) {
	if len(words) != 3 {
		line.LeftOut("want the name of a timeout and its length")
		return
	}
	in, known := timeoutIn[words[1]]
	value, good := duration(words[2])
	switch {
	case !known:
		line.LeftOut("timeout %s: timeout client and timeout server hold for this phase too", importing.Quote(words[1]))
	case !strings.Contains(in, s.kind[:1]):
		line.Ignored("it has no effect in a section %s", s.kind)
	case !good:
		line.LeftOut("length %s: want a number and us, ms, s, m, h or d", importing.Quote(words[2]))
	default:
		if s.settings.timeouts == nil {
			s.settings.timeouts = map[string]setting[time.Duration]{}
		}
		s.settings.timeouts[words[1]] = setting[time.Duration]{value, line}
		line.Taken("timeout %s %v", words[1], value)
	}
}

func (r *reader) oldTimeout(s *section, line *importing.Line, words []string) {
	name := map[string]string{"clitimeout": "client", "contimeout": "connect", "srvtimeout": "server"}[words[0]]
	r.timeout(s, line, slices.Concat([]string{"timeout", name}, words[1:]))
}

func (r *reader) defaultServer(s *section, line *importing.Line, words []string) {
	line.Taken("for the servers below")
	s.settings.server.read(line, words[1:])
	if wrong := s.settings.server.hasNoMeaning; wrong != "" {
		line.Unsupported("%s; the servers below are left out", wrong)
	}
}

func (r *reader) option(s *section, line *importing.Line, words []string) {
	if len(words) < 2 {
		line.LeftOut("want the name of an option")
		return
	}
	if words[1] == "forwardfor" {
		r.forwardFor(s, line, words[2:])
		return
	}
	if words[1] == "httplog" {
		r.httpLog(s, line)
		return
	}
	if r.switches(s, line, words[1], true) {
		return
	}
	if words[1] != "httpchk" {
		tell(line, "option "+words[1])
		return
	}
	r.optionHTTPCheck(s, line, words[2:])
}

// no reads a keyword that is switched off.
func (r *reader) no(s *section, line *importing.Line, words []string) {
	if len(words) > 2 && words[1] == "option" && words[2] == "httpchk" {
		s.settings.httpCheck = setting[*routerv1.HttpCheck]{}
		line.Taken("checks are TCP connections")
		return
	}
	if len(words) > 2 && words[1] == "option" && r.switches(s, line, words[2], false) {
		return
	}
	switch strings.Join(words[1:], " ") {
	case "option httplog":
		s.settings.httpLog = nil
		line.Taken("requests are not logged in this form")
		return
	case "log":
		s.settings.log = setting[*routerv1.AccessLog]{}
		line.Taken("requests are not logged")
		return
	}
	name := strings.Join(words[1:min(2, len(words))], "")
	if name == "option" {
		name = strings.Join(words[1:min(3, len(words))], " ")
	}
	if _, known := instead[name]; known {
		line.Ignored("the router does not do that anyway")
		return
	}
	tell(line, name)
}

// bind reads addresses to listen on: ADDRESS[,ADDRESS...] [parameters].
func (r *reader) bind(s *section, line *importing.Line, words []string) {
	if len(words) == 0 {
		line.LeftOut("want an address")
		return
	}
	o, wrong := r.options(line, words[1:])
	if wrong == "" {
		wrong = s.fits(line, o)
	}
	if wrong != "" {
		line.Unsupported("%s; the address is left out", wrong)
		return
	}
	if len(words) > 1 && !o.ssl && !o.proxied && !(o.http2 && len(words) == 3) {
		line.Taken("what stands behind the address is left out without effect")
	}
	with, into := "", &s.binds
	if o.ssl {
		with, into = " with TLS", &s.bindsTLS
	}
	for text := range strings.SplitSeq(words[0], ",") {
		host, number, wrong := endpoint(text)
		address := netip.IPv4Unspecified() // HAProxy: an address without family is IPv4
		if wrong == "" && host != "" && host != "*" {
			var err error
			if address, err = netip.ParseAddr(host); err != nil {
				wrong = "want an IP address"
			}
		}
		if wrong == "" && number == 0 {
			wrong = "want a port"
		}
		if wrong == "" && (r.binds == MaxBinds || len(s.binds)+len(s.bindsTLS) == spec.MaxBinds) {
			wrong = fmt.Sprintf("a frontend has %d addresses at most, a file %d", spec.MaxBinds, MaxBinds)
		}
		if wrong != "" {
			line.Unsupported("address %s: %s; it is left out", importing.Quote(text), wrong)
			continue
		}
		r.binds++
		if o.http2 {
			s.http2 = true
			line.Assumed("HTTP/1.1 is served too, and HTTP/2 on the other addresses of the frontend; the first bytes of a connection tell")
		}
		ours := netip.AddrPortFrom(address, number)
		*into = append(*into, &setting[string]{ours.String(), line})
		if address == netip.IPv4Unspecified() {
			line.Taken("bind %s%s: * is IPv4 only in HAProxy; for IPv6 too write *:%d", ours, with, number)
		} else {
			line.Taken("bind %s%s", ours, with)
		}
		if address == netip.IPv6Unspecified() {
			line.Assumed("IPv6 only; for IPv4 too write *:%d", number)
		}
	}
}
