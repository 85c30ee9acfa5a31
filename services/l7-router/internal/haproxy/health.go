package haproxy

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// What is said about the health of servers: checks, errors of requests, and what is sent again.

// checking is how a server is checked and judged.
type checking struct {
	checked           bool
	port              uint16     // where it is checked; 0: at its port
	addr              netip.Addr // not valid: at its address
	inter, fast, down time.Duration
	rise, fall        uint32
	initial           routerv1.InitialState

	observe    routerv1.Observe // OBSERVE_UNSPECIFIED: not
	errorLimit uint32
	onError    routerv1.OnError
	cut        bool // on-marked-down shutdown-sessions
}

// healthParameters are those behind a server's address that are about its health.
var healthParameters = map[string]parameter{
	"check":     {take: func(s *server, _ string) bool { s.checked = true; return true }},
	"no-check":  {take: func(s *server, _ string) bool { s.checked = false; return true }},
	"inter":     {args: 1, take: func(s *server, v string) bool { return interval(v, &s.inter) }},
	"fastinter": {args: 1, take: func(s *server, v string) bool { return interval(v, &s.fast) }},
	"downinter": {args: 1, take: func(s *server, v string) bool { return interval(v, &s.down) }},
	"rise":      {args: 1, take: func(s *server, v string) bool { return number(v, &s.rise) && s.rise > 0 }},
	"fall":      {args: 1, take: func(s *server, v string) bool { return number(v, &s.fall) && s.fall > 0 }},
	"port":      {args: 1, take: func(s *server, v string) bool { return port(v, &s.checking.port) }},
	"addr": {args: 1, take: func(s *server, v string) bool {
		address, err := netip.ParseAddr(v)
		s.addr = address
		return err == nil
	}},
	"init-state": {args: 1, take: func(s *server, v string) (ok bool) {
		s.initial, ok = map[string]routerv1.InitialState{
			"none": routerv1.InitialState_INITIAL_STATE_UNSPECIFIED, "up": routerv1.InitialState_INITIAL_STATE_UP,
			"fully-up": routerv1.InitialState_INITIAL_STATE_FULLY_UP, "down": routerv1.InitialState_INITIAL_STATE_DOWN,
			"fully-down": routerv1.InitialState_INITIAL_STATE_FULLY_DOWN,
		}[v]
		return ok
	}},
	"observe": {args: 1, take: func(s *server, v string) (ok bool) {
		s.observe, ok = map[string]routerv1.Observe{"layer4": routerv1.Observe_OBSERVE_LAYER4, "layer7": routerv1.Observe_OBSERVE_LAYER7}[v]
		return ok
	}},
	"error-limit": {args: 1, take: func(s *server, v string) bool { return number(v, &s.errorLimit) && s.errorLimit > 0 }},
	"on-error": {args: 1, take: func(s *server, v string) (ok bool) {
		s.onError, ok = map[string]routerv1.OnError{
			"fastinter": routerv1.OnError_ON_ERROR_FAST_CHECK, "fail-check": routerv1.OnError_ON_ERROR_FAIL_CHECK,
			"sudden-death": routerv1.OnError_ON_ERROR_SUDDEN_DEATH, "mark-down": routerv1.OnError_ON_ERROR_MARK_DOWN,
		}[v]
		return ok
	}},
	"on-marked-down": {args: 1, take: func(s *server, v string) bool { s.cut = v == "shutdown-sessions"; return s.cut }},
	"disabled":       {take: func(s *server, _ string) bool { s.admin = routerv1.Admin_ADMIN_MAINT; return true }},
	"enabled":        {take: func(s *server, _ string) bool { s.admin = routerv1.Admin_ADMIN_UNSPECIFIED; return true }},
}

func interval(text string, into *time.Duration) (ok bool) {
	*into, ok = duration(text)
	return ok && *into > 0
}

// first is the first server that is checked, whose check is that of the backend; nil: none is.
func (s *section) first() *server {
	i := slices.IndexFunc(s.servers, func(one *server) bool { return one.checked })
	if i < 0 {
		return nil
	}
	return s.servers[i]
}

// settleHealth speaks about what belongs to the whole backend here, and to a server there.
func (s *section) settleHealth() {
	first := s.first()
	if first == nil {
		if line := s.settings.httpCheck.line; line != nil {
			line.Assumed("no check for backend/%s, because none of its servers has the word check", s.backend)
		}
		return
	}
	for _, one := range s.servers {
		if one.checked && (one.observe != first.observe || one.errorLimit != first.errorLimit || one.onError != first.onError) {
			one.line.Assumed("observe, error-limit and on-error of line %d, because they belong to the whole backend", first.line.Number)
		}
		if one.cut != first.cut {
			one.line.Assumed("on-marked-down as in line %d, because it belongs to the whole backend", first.line.Number)
		}
	}
}

// check is the check of the backend: that of its first server which is checked.
func (s *section) check(parts *[]part, at string, one *server) *routerv1.Check {
	c := &routerv1.Check{
		Rise: one.rise, Fall: one.fall, Timeout: s.timeout(parts, at+".timeout", "check"), InitialState: one.initial,
		Interval: length(one.inter), FastInterval: length(one.fast), DownInterval: length(one.down),
	}
	if c.Timeout == nil && one.inter > spec.DefaultInterval {
		c.Timeout = durationpb.New(min(one.inter, time.Minute)) // HAProxy: as long as the interval
	}
	if h := s.settings.httpCheck; h.line != nil {
		c.Http = h.value
		*parts = append(*parts, part{field: at + ".http", line: h.line, so: "checks are TCP connections",
			drop: func() { s.settings.httpCheck = setting[*routerv1.HttpCheck]{} }})
	}
	*parts = append(*parts, intervals(at, one)...)
	return c
}

// intervals are the parts of a check whose values have bounds here.
func intervals(at string, one *server) []part {
	const so = "the default is taken"
	return []part{
		{field: at + ".interval", line: one.line, so: so, drop: func() { one.inter = 0 }},
		{field: at + ".fast_interval", line: one.line, so: so, drop: func() { one.fast = 0 }},
		{field: at + ".down_interval", line: one.line, so: so, drop: func() { one.down = 0 }},
		{field: at + ".rise", line: one.line, so: so, drop: func() { one.rise = 0 }},
		{field: at + ".fall", line: one.line, so: so, drop: func() { one.fall = 0 }},
		{field: at + ".address", line: one.line, so: so, drop: func() { one.addr = netip.Addr{} }},
	}
}

func length(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// checkOf is what is checked otherwise for one server than for the first; nil: nothing.
func (s *section) checkOf(one *server) *routerv1.ServerCheckSettings {
	first := s.first()
	if first == nil {
		return nil
	}
	if !one.checked {
		return &routerv1.ServerCheckSettings{Off: true}
	}
	// As they have effect in HAProxy.
	effective := func(c *checking) *routerv1.ServerCheckSettings {
		inter := cmp.Or(c.inter, spec.DefaultInterval)
		return &routerv1.ServerCheckSettings{
			Interval: length(inter), FastInterval: length(cmp.Or(c.fast, inter)), DownInterval: length(cmp.Or(c.down, inter)),
			Rise: cmp.Or(c.rise, spec.DefaultRise), Fall: cmp.Or(c.fall, spec.DefaultFall), InitialState: c.initial,
		}
	}
	m, other := effective(&one.checking), effective(&first.checking)
	if proto.Equal(m, other) {
		m = &routerv1.ServerCheckSettings{}
	} else if m.GetInitialState() == routerv1.InitialState_INITIAL_STATE_UNSPECIFIED && m.GetInitialState() != other.GetInitialState() {
		m.InitialState = routerv1.InitialState_INITIAL_STATE_UP
	}
	if one.checking.port != 0 && one.checking.port != one.port {
		m.Port = uint32(one.checking.port)
	}
	if one.addr.IsValid() && one.addr != one.address {
		m.Address = one.addr.String()
	}
	if proto.Equal(m, &routerv1.ServerCheckSettings{}) {
		return nil
	}
	return m
}

// passive judges the servers as the first one that is checked is judged.
func (s *section) passive() *routerv1.Passive {
	first := s.first()
	if first == nil || first.observe == routerv1.Observe_OBSERVE_UNSPECIFIED {
		return nil
	}
	return &routerv1.Passive{
		Observe: first.observe, ErrorLimit: first.errorLimit, OnError: cmp.Or(first.onError, routerv1.OnError_ON_ERROR_FAIL_CHECK),
	}
}

// retries reads: retries N.
func (r *reader) retries(s *section, line *importing.Line, words []string) {
	var n uint32
	if len(words) != 2 || !number(words[1], &n) || n > spec.MaxAttempts {
		line.LeftOut("want a number of 0 to %d", spec.MaxAttempts)
		return
	}
	line.Taken("a request goes to %d further servers at most, each once and at once", n)
	m := &routerv1.Retries{}
	proto.Merge(m, s.settings.retries.value)
	m.Attempts = &n
	s.settings.retries = setting[*routerv1.Retries]{m, line}
}

// retryOn reads: retry-on WORD...
func (r *reader) retryOn(s *section, line *importing.Line, words []string) {
	m := &routerv1.Retries{}
	proto.Merge(m, s.settings.retries.value)
	m.On, m.Statuses = nil, nil
	failures := map[string]routerv1.RetryOn{
		"empty-response": routerv1.RetryOn_RETRY_ON_EMPTY_RESPONSE, "junk-response": routerv1.RetryOn_RETRY_ON_JUNK_RESPONSE,
		"response-timeout": routerv1.RetryOn_RETRY_ON_RESPONSE_TIMEOUT,
	}
	words = words[1:]
	if i := slices.Index(words, "all-retryable-errors"); i >= 0 {
		words = slices.Concat(words[:i], []string{"empty-response", "junk-response", "response-timeout", "500", "502", "503", "504"}, words[i+1:])
	}
	for _, word := range words {
		var status uint32
		switch failure, known := failures[word]; {
		case known && !slices.Contains(m.On, failure):
			m.On = append(m.On, failure)
		case known, word == "conn-failure", word == "0rtt-rejected":
		case word == "none":
			m.Attempts = new(uint32(0))
		case number(word, &status):
			if !slices.Contains(m.Statuses, status) {
				m.Statuses = append(m.Statuses, status)
			}
		default:
			line.Unsupported("%s: not known to the importer", importing.Quote(word))
		}
	}
	if len(m.On) == 0 {
		m.On = []routerv1.RetryOn{routerv1.RetryOn_RETRY_ON_CONNECT_FAILURE}
	}
	line.Taken("what is sent again; only what has a safe method, and within a budget, once a server may have got it")
	s.settings.retries = setting[*routerv1.Retries]{m, line}
}

// checkRequest is a copy of the request of the checks that is to be changed.
func (s *section) checkRequest() *routerv1.HttpCheck {
	m := &routerv1.HttpCheck{}
	proto.Merge(m, s.settings.httpCheck.value)
	return m
}

// optionHTTPCheck reads: option httpchk [METHOD] [URI] [VERSION, with headers behind it].
func (r *reader) optionHTTPCheck(s *section, line *importing.Line, words []string) {
	if s.kind == "frontend" {
		line.Ignored("it has no effect in a section frontend")
		return
	}
	check := s.checkRequest()
	check.Method, check.Path, check.Host, check.Http_1_0, check.Headers, check.Body = "", "", "", false, nil, ""
	switch len(words) {
	case 0:
	case 1:
		check.Path = words[0]
	default:
		check.Method, check.Path = words[0], words[1]
		for i, text := range strings.Split(strings.Join(words[2:], " "), "\r\n") {
			name, value, _ := strings.Cut(text, ":")
			switch {
			case i == 0:
				check.Http_1_0 = text == "HTTP/1.0"
			case text != "":
				checkHeader(line, check, name, strings.TrimSpace(value))
			}
		}
	}
	s.settings.httpCheck = setting[*routerv1.HttpCheck]{check, line}
	line.Taken("checks are HTTP requests")
}

func checkHeader(line *importing.Line, check *routerv1.HttpCheck, name, value string) {
	switch {
	case strings.EqualFold(name, "host"):
		check.Host = value
	case strings.EqualFold(name, "connection"):
		line.Taken("checks close their connections anyway")
	case importing.Secretive(name):
		line.Unsupported("%s: secrets are not taken over; add the header by Apply", importing.Quote(name))
	default:
		check.Headers = append(check.Headers, &routerv1.Header{Name: name, Value: value})
	}
}

// httpCheck reads: http-check send|expect|disable-on-404.
func (r *reader) httpCheck(s *section, line *importing.Line, words []string) {
	what := strings.Join(words[1:min(2, len(words))], "")
	check := s.checkRequest()
	switch {
	case s.settings.httpCheck.line == nil:
		line.LeftOut("it has effect below option httpchk only")
		return
	case what == "disable-on-404" && len(words) == 2:
		check.DisableOn_404 = true
		line.Taken("404 asks for no new clients")
	case what == "send":
		line.Taken("the request of the checks")
		send(line, check, words[2:])
	case what == "expect":
		e, wrong := expect(words[2:])
		if wrong != "" {
			line.LeftOut("%s", wrong)
			return
		}
		line.Taken("what is expected of the response")
		check.Expect = append(check.Expect, e)
	default:
		line.LeftOut("http-check send, expect and disable-on-404 can be taken")
		return
	}
	s.settings.httpCheck = setting[*routerv1.HttpCheck]{check, line}
}

func send(line *importing.Line, check *routerv1.HttpCheck, words []string) {
	for i := 0; i < len(words); i += 2 {
		value := strings.Join(words[min(i+1, len(words)):min(i+2, len(words))], "")
		switch words[i] {
		case "meth":
			check.Method = value
		case "uri":
			check.Path = value
		case "ver":
			check.Http_1_0 = value == "HTTP/1.0"
		case "body":
			check.Body = value
		case "hdr":
			checkHeader(line, check, value, strings.Join(words[min(i+2, len(words)):min(i+3, len(words))], ""))
			i++
		default:
			line.Unsupported("%s: a check has meth, uri, ver, hdr and body", importing.Quote(words[i]))
		}
	}
}

// expect reads: [min-recv N] [comment TEXT] [!] status|rstatus|string|rstring|hdr ...
func expect(words []string) (e *routerv1.HttpExpect, wrong string) {
	e = &routerv1.HttpExpect{}
	for len(words) > 1 && words[0] == "comment" {
		words = words[min(2, len(words)):]
	}
	if len(words) > 0 && strings.HasPrefix(words[0], "!") {
		e.Not = true
		words = append([]string{strings.TrimPrefix(words[0], "!")}, words[1:]...)
		if words[0] == "" {
			words = words[1:]
		}
	}
	if len(words) < 2 {
		return nil, "want what is expected, and a value"
	}
	value := strings.Join(words[1:], " ")
	switch words[0] {
	case "status":
		e.Statuses = strings.Split(value, ",")
	case "rstatus":
		re, err := regexp.Compile(value)
		if err != nil {
			return nil, "want a regular expression of RE2: " + err.Error()
		}
		if e.Statuses = statuses(re); len(e.Statuses) == 0 || len(e.Statuses) > spec.MaxStatuses {
			return nil, "no status fits, or too many ranges do"
		}
	case "string":
		e.Body = value
	case "rstring":
		e.BodyRegex = value
	case "hdr":
		if len(words) < 3 || words[1] != "name" || len(words) != 3 && (len(words) != 5 || words[3] != "value") {
			return nil, "want hdr name NAME [value VALUE], compared exactly"
		}
		e.Header = words[2]
		if len(words) == 5 {
			e.HeaderValue = words[4]
		}
	default:
		return nil, importing.Quote(words[0]) + ": status, rstatus, string, rstring and hdr can be expected"
	}
	return e, ""
}

// statuses are the statuses that fit a regular expression, as ranges.
func statuses(re *regexp.Regexp) (ranges []string) {
	for status := 100; status < 600; status++ {
		if !re.MatchString(strconv.Itoa(status)) {
			continue
		}
		last := status
		for last < 599 && re.MatchString(strconv.Itoa(last+1)) {
			last++
		}
		text := strconv.Itoa(status)
		if last > status {
			text += "-" + strconv.Itoa(last)
		}
		ranges = append(ranges, text)
		status = last
	}
	return ranges
}
