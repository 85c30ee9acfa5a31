package spec

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	routerv1 "github.com/twotier/twotier/proto/router/v1"
)

// Limits of checks.
const (
	// MaxCheckHeaders is the most further fields of a check's request.
	MaxCheckHeaders = 16
	// MaxCheckBody is the most bytes of its body.
	MaxCheckBody = 16 << 10
	// MaxExpects is the most that is expected of a response, MaxStatuses the most statuses and ranges of one expectation.
	MaxExpects  = 16
	MaxStatuses = 64
	// MinInterval and MaxInterval bound the pause between two checks.
	MinInterval = 10 * time.Millisecond
	MaxInterval = time.Hour
)

// CheckKind is how a server is checked.
type CheckKind uint8

// The kinds of check.
const (
	CheckNone CheckKind = iota
	CheckTCP
	CheckHTTP
)

// Initial is how a server is taken before its first check.
type Initial uint8

// The ways to be taken.
const (
	InitialUnset     Initial = iota // not said: as InitialUp
	InitialUp                       // up, and one bad check takes it down
	InitialFullyUp                  // up, and Fall bad checks take it down
	InitialDown                     // down, and one good check brings it up
	InitialFullyDown                // down, and Rise good checks bring it up
)

// Check is how the servers of a backend are checked.
type Check struct {
	Kind CheckKind
	// Interval is the pause between two checks, Fast the one while a server is between up and down, Down the one while it is
	// down, Timeout how long one may take.
	Interval, Fast, Down, Timeout time.Duration
	// Rise and Fall are how many results in a row change a server's health.
	Rise, Fall int
	// Address and Port are where it is checked; the zero values stand for the server's own.
	Address netip.Addr
	Port    uint16
	Initial Initial
	// HTTP is the request and what is expected of the response; set when Kind is CheckHTTP.
	HTTP HTTPCheck
}

// HTTPCheck is one request.
type HTTPCheck struct {
	// An empty Host is the address that is checked. Path has the query too.
	Method, Path, Host string
	// Old speaks HTTP/1.0.
	Old     bool
	Headers []Header
	Body    string
	// Expect holds what all has to hold; nothing: a status of 200 to 399.
	Expect []Expect
	// DisableOn404 takes 404 for: it works, and wants no new clients.
	DisableOn404 bool
}

// Expect is one thing that is expected of a response.
type Expect struct {
	// Statuses, when there are some, are ranges of which one has the status.
	Statuses []StatusRange
	// Body, when it is set, is in the body; Regex, when it is set, fits something in it.
	Body  string
	Regex Regex
	// Header, when it is set, is the name of a field; HeaderValue, when it is set, one of its values.
	Header, HeaderValue string
	// Not turns it round.
	Not bool
}

// StatusRange holds the statuses from From to To, both of them too.
type StatusRange struct{ From, To int }

// ServerCheck is what is checked otherwise for one server; zero values stand for the backend's.
type ServerCheck struct {
	Off                  bool
	Interval, Fast, Down time.Duration
	Rise, Fall           int
	Address              netip.Addr
	Port                 uint16
	Initial              Initial
}

// CheckOf joins the check of the backend with what is said of one server.
func (b *Backend) CheckOf(s *Server) Check {
	own, c := &s.Check, b.Check
	if own.Off || c.Kind == CheckNone {
		return Check{}
	}
	c.Fast, c.Down = cmp.Or(own.Fast, b.Check.Fast, own.Interval, c.Interval), cmp.Or(own.Down, b.Check.Down, own.Interval, c.Interval)
	c.Interval, c.Rise, c.Fall = cmp.Or(own.Interval, c.Interval), cmp.Or(own.Rise, c.Rise), cmp.Or(own.Fall, c.Fall)
	c.Port = cmp.Or(own.Port, c.Port)
	if own.Address.IsValid() {
		c.Address = own.Address
	}
	c.Initial = cmp.Or(own.Initial, c.Initial)
	return c
}

func (p *parser) check(path string, m *routerv1.Check) Check {
	if m == nil {
		return Check{}
	}
	c := Check{
		Kind:     CheckTCP,
		Interval: p.duration(path+".interval", m.GetInterval(), DefaultInterval, MinInterval, MaxInterval),
		Fast:     p.interval(path+".fast_interval", m.GetFastInterval()),
		Down:     p.interval(path+".down_interval", m.GetDownInterval()),
		Rise:     p.number(path+".rise", m.GetRise(), DefaultRise, 100),
		Fall:     p.number(path+".fall", m.GetFall(), DefaultFall, 100),
		Port:     uint16(p.number(path+".port", m.GetPort(), 0, 65535)),
		Initial:  p.initial(path+".initial_state", m.GetInitialState()),
	}
	c.Timeout = p.duration(path+".timeout", m.GetTimeout(), min(c.Interval, DefaultInterval), time.Millisecond, time.Minute)
	if h := m.GetHttp(); h != nil {
		c.Kind, c.HTTP = CheckHTTP, p.httpCheck(path+".http", h)
	}
	return c
}

// interval takes nothing as 0.
func (p *parser) interval(path string, d *durationpb.Duration) time.Duration {
	return p.duration(path, d, 0, MinInterval, MaxInterval)
}

var initials = map[routerv1.InitialState]Initial{
	routerv1.InitialState_INITIAL_STATE_UNSPECIFIED: InitialUnset,
	routerv1.InitialState_INITIAL_STATE_UP:          InitialUp,
	routerv1.InitialState_INITIAL_STATE_FULLY_UP:    InitialFullyUp,
	routerv1.InitialState_INITIAL_STATE_DOWN:        InitialDown,
	routerv1.InitialState_INITIAL_STATE_FULLY_DOWN:  InitialFullyDown,
}

func (p *parser) initial(path string, m routerv1.InitialState) Initial {
	initial, known := initials[m]
	if !known {
		p.refuse(path, "not a known initial state: %v", m)
	}
	return initial
}

func (p *parser) httpCheck(path string, m *routerv1.HttpCheck) HTTPCheck {
	h := HTTPCheck{
		Method: cmp.Or(m.GetMethod(), "OPTIONS"), Path: cmp.Or(m.GetPath(), "/"), Host: m.GetHost(), Old: m.GetHttp_1_0(),
		Headers: p.headers(path+".headers", m.GetHeaders()), Body: m.GetBody(), DisableOn404: m.GetDisableOn_404(),
	}
	if !token(h.Method) || h.Method == "CONNECT" {
		p.refuse(path+".method", "want a method such as GET, got %q", h.Method)
	}
	if !strings.HasPrefix(h.Path, "/") || !visible(h.Path) || strings.Contains(h.Path, "#") {
		p.refuse(path+".path", "want a path such as /healthz, got %q", h.Path)
	}
	if !visible(h.Host) || strings.ContainsAny(h.Host, "/@?#") {
		p.refuse(path+".host", "want a host name such as www.example.org, got %q", h.Host)
	}
	if len(h.Headers) > MaxCheckHeaders {
		p.refuse(path+".headers", "want at most %d, got %d", MaxCheckHeaders, len(h.Headers))
	}
	if len(h.Body) > MaxCheckBody {
		p.refuse(path+".body", "want at most %d bytes, got %d", MaxCheckBody, len(h.Body))
	}
	if len(m.GetExpect()) > MaxExpects {
		p.refuse(path+".expect", "want at most %d, got %d", MaxExpects, len(m.GetExpect()))
	}
	for i, e := range m.GetExpect() {
		h.Expect = append(h.Expect, p.expect(indexed(path+".expect", i), e))
	}
	return h
}

func (p *parser) expect(path string, m *routerv1.HttpExpect) Expect {
	e := Expect{Body: m.GetBody(), Header: m.GetHeader(), HeaderValue: m.GetHeaderValue(), Not: m.GetNot()}
	set := 0
	for _, is := range []bool{len(m.GetStatuses()) > 0, e.Body != "", m.GetBodyRegex() != "", e.Header != ""} {
		if is {
			set++
		}
	}
	if set != 1 {
		p.refuse(path, "want one of statuses, body, body_regex and header, got %d of them", set)
	}
	if len(m.GetStatuses()) > MaxStatuses {
		p.refuse(path+".statuses", "want at most %d, got %d", MaxStatuses, len(m.GetStatuses()))
	}
	for i, text := range m.GetStatuses() {
		r, ok := statusRange(text)
		if !ok {
			p.refuse(indexed(path+".statuses", i), "want a status of 100 to 599, such as 200, or a range of them, such as 200-299, got %q", text)
		}
		e.Statuses = append(e.Statuses, r)
	}
	if len(e.Body) > MaxText {
		p.refuse(path+".body", "want at most %d bytes, got %d", MaxText, len(e.Body))
	}
	if m.GetBodyRegex() != "" {
		e.Regex, _ = p.regex(path+".body_regex", m.GetBodyRegex(), &budget{})
	}
	if e.Header != "" && (!token(e.Header) || len(e.Header) > MaxText) {
		p.refuse(path+".header", "want the name of a field, such as Content-Type, got %q", short(e.Header))
	}
	if e.HeaderValue != "" && e.Header == "" {
		p.refuse(path+".header_value", "without header it has no use")
	}
	if len(e.HeaderValue) > MaxText {
		p.refuse(path+".header_value", "want at most %d bytes, got %d", MaxText, len(e.HeaderValue))
	}
	return e
}

// statusRange reads 200 or 200-299.
func statusRange(text string) (r StatusRange, ok bool) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	low, err := strconv.ParseUint(from, 10, 16)
	high, err2 := strconv.ParseUint(to, 10, 16)
	ok = cmp.Or(err, err2) == nil && low >= 100 && low <= high && high <= 599
	return StatusRange{int(low), int(high)}, ok
}

// serverCheck reads how a server is checked otherwise. checked: the backend has a check.
func (p *parser) serverCheck(path string, m *routerv1.ServerCheckSettings, s *Server, checked bool) {
	if m == nil {
		return
	}
	if !checked {
		p.refuse(path, "the backend has no check")
	}
	s.Check = ServerCheck{
		Off:      m.GetOff(),
		Interval: p.interval(path+".interval", m.GetInterval()),
		Fast:     p.interval(path+".fast_interval", m.GetFastInterval()),
		Down:     p.interval(path+".down_interval", m.GetDownInterval()),
		Rise:     p.number(path+".rise", m.GetRise(), 0, 100),
		Fall:     p.number(path+".fall", m.GetFall(), 0, 100),
		Port:     uint16(p.number(path+".port", m.GetPort(), 0, 65535)),
		Initial:  p.initial(path+".initial_state", m.GetInitialState()),
	}
	if text := m.GetAddress(); text != "" {
		address, err := netip.ParseAddr(text)
		if err != nil || address.IsUnspecified() || address.IsMulticast() {
			p.refuse(path+".address", "want the IP address of one machine, got %q", text)
		}
		s.Check.Address = address.Unmap()
	}
	if s.Check.Off && s.Check != (ServerCheck{Off: true}) {
		p.refuse(path+".off", "a server that is not checked has no other settings of a check")
	}
}
