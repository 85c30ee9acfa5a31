package spec

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

// CheckKind is how real servers are checked.
type CheckKind uint8

// The kinds of check.
const (
	CheckNone CheckKind = iota
	CheckTCP
	CheckHTTP
	CheckGRPC
	CheckUDP
	CheckDNS
	CheckICMP
	CheckExec
)

// Check is how the real servers of a service are checked. It can be compared.
type Check struct {
	Kind CheckKind
	// Port to check; 0: the real server's.
	Port uint16
	// Method, Path and Host of an HTTP request; an empty Host is the address.
	Method, Path, Host string
	// TLS: the HTTP request goes over TLS. The certificate must bear ServerName (empty: Host, or the address) and come from an authority
	// of CAFile (empty: one of the system), unless AnyCertificate is taken.
	TLS                bool
	ServerName, CAFile string
	AnyCertificate     bool
	// statuses that are good, one after the other in text; empty: 200 to 399.
	statuses string
	// Body is what the answer's must contain; Header the field that it must have, with Value in it.
	Body, Header, Value string
	// command of CheckExec, each argument ended by a zero byte, and who runs it.
	command, User string
	// Service is the name that gRPC health is asked for.
	Service string
	// Payload is what is sent in a datagram; Expect what the answer begins with, empty: anything.
	Payload, Expect string
	// Name and Type are what is asked of DNS.
	Name, Type string
	// Interval is the pause between two checks, FastInterval that while a check has turned and the health has not.
	Interval, FastInterval time.Duration
	// Timeout is how long one check may take.
	Timeout time.Duration
	// Rise and Fall are how many results in a row change the health.
	Rise, Fall int
}

// Statuses are those that are good; none: 200 to 399.
func (c Check) Statuses() (all []int) {
	for word := range strings.FieldsSeq(c.statuses) {
		n, _ := strconv.Atoi(word) // written by the parser
		all = append(all, n)
	}
	return all
}

// Arguments are the program of a check and its arguments, for the real server at an address.
func (c Check) Arguments(real netip.AddrPort) (all []string) {
	stands := strings.NewReplacer("{address}", real.Addr().String(), "{port}", strconv.Itoa(int(real.Port())))
	for argument := range strings.SplitSeq(strings.TrimSuffix(c.command, "\x00"), "\x00") {
		all = append(all, stands.Replace(argument))
	}
	return all
}

// What holds where nothing is said.
const (
	DefaultUser         = "nobody"
	DefaultInterval     = 2 * time.Second
	MaxDefaultTimeout   = 2 * time.Second
	DefaultRise         = 2
	DefaultFall         = 3
	DefaultDrainTimeout = 5 * time.Minute
	DefaultDNSType      = "SOA"
	// FastShare: the fast interval is this part of the interval.
	FastShare = 5
)

// Bounds of what can be said.
const (
	MaxDatagram   = 512
	MaxArguments  = 32
	MaxArgument   = 1024
	MaxStatuses   = 32
	MaxReason     = 200
	MaxQuorum     = MaxRealServers * MaxWeight
	maxWord       = 255  // a host, a name, a method
	maxPath       = 2048 // of an HTTP check
	minDrain      = time.Second
	maxDrain      = 24 * time.Hour
	minInterval   = 100 * time.Millisecond
	maxInterval   = time.Hour
	minFast       = 10 * time.Millisecond
	minTimeout    = 10 * time.Millisecond
	maxTimeout    = time.Minute
	maxRiseOrFall = 100
	minSlowStart  = time.Second
	maxSlowStart  = time.Hour
)

// DNSTypes are the types of record that can be asked for.
var DNSTypes = []string{"A", "AAAA", "NS", "SOA", "MX", "TXT", "SRV"}

// life reads what is said about living, draining and dying.
func (p *parser) life(path string, m *directorv1.VirtualService, s *Service, forward Forward) {
	if c := m.GetCheck(); c != nil {
		s.Check = p.check(path+".check", c)
	}
	s.Panic = p.number(path+".panic_threshold", m.GetPanicThreshold(), 0, 0, 100)
	if s.Panic > 0 && s.Check.Kind == CheckNone {
		p.bad(path+".panic_threshold", "there is no check that it could ignore")
	}
	s.Quorum = p.number(path+".quorum.weight", m.GetQuorum().GetWeight(), 1, 1, MaxQuorum)
	s.Hysteresis = p.number(path+".quorum.hysteresis", m.GetQuorum().GetHysteresis(), 0, 0, MaxQuorum)
	if s.Hysteresis >= s.Quorum {
		p.bad(path+".quorum.hysteresis", "want less than the weight %d, got %d", s.Quorum, s.Hysteresis)
	}
	if m.GetQuorum() != nil && m.GetSorryServer() == nil {
		p.bad(path+".quorum", "there is no sorry_server that would take over")
	}
	if sorry := m.GetSorryServer(); sorry != nil {
		at := path + ".sorry_server"
		real := p.real(at, sorry, m, s.VIP, forward)
		s.Sorry, s.SorryForward = real.Address, real.Forward
		if real.Upper != 0 {
			p.bad(at+".upper_threshold", "a sorry server is for those that nobody else takes")
		}
		if sorry.Weight != nil {
			p.bad(at+".weight", "a sorry server takes all connections or none")
		}
		for i, r := range s.Reals {
			if r.Address == s.Sorry {
				p.bad(at+".address", "%s is a real server of the service already (number %d by address)", s.Sorry, i+1)
			}
		}
	}
	s.DrainTimeout = p.duration(path+".drain_timeout", m.GetDrainTimeout(), DefaultDrainTimeout, minDrain, maxDrain)
	s.ResetAfterDrain = m.GetResetAfterDrain()
	s.SlowStart = p.duration(path+".slow_start", m.GetSlowStart(), 0, minSlowStart, maxSlowStart)
	if s.SlowStart > 0 && !s.Scheduler.Weighs() {
		p.bad(path+".slow_start", "the scheduler %s knows no weights that could grow", s.Scheduler)
	}
	if s.Check.Kind != CheckNone && s.Check.Kind != CheckICMP && s.Check.Port == 0 && slices.ContainsFunc(s.Reals, func(r Real) bool { return r.Address.Port() == 0 }) {
		p.bad(path+".check.port", "want the port to check: a service by fwmark has none")
	}
}

func (p *parser) check(path string, m *directorv1.Check) Check {
	c := Check{}
	switch kind := m.GetKind().(type) {
	case *directorv1.Check_Tcp:
		c.Kind = CheckTCP
	case *directorv1.Check_Http:
		c.Kind = CheckHTTP
		c.Method = p.word(path+".http.method", kind.Http.GetMethod(), "GET", maxWord)
		c.Path = p.word(path+".http.path", kind.Http.GetPath(), "/", maxPath)
		c.Host = p.word(path+".http.host", kind.Http.GetHost(), "", maxWord)
		p.encryption(path+".http.tls", kind.Http.GetTls(), &c)
		p.answer(path+".http", kind.Http, &c)
		p.request(path+".http", c)
	case *directorv1.Check_Grpc:
		c.Kind = CheckGRPC
		c.Service = p.word(path+".grpc.service", kind.Grpc.GetService(), "", maxWord)
	case *directorv1.Check_Udp:
		c.Kind = CheckUDP
		c.Payload = p.datagram(path+".udp.payload", kind.Udp.GetPayload())
		if c.Payload == "" {
			c.Payload = "\x00"
		}
		c.Expect = p.datagram(path+".udp.expect", kind.Udp.GetExpect())
	case *directorv1.Check_Dns:
		c.Kind = CheckDNS
		c.Name = p.word(path+".dns.name", kind.Dns.GetName(), ".", maxWord)
		if !isDomain(c.Name) {
			p.bad(path+".dns.name", "want labels of 1 to 63 characters, 253 in all, got %q", c.Name)
		}
		c.Type = strings.ToUpper(p.word(path+".dns.type", kind.Dns.GetType(), DefaultDNSType, maxWord))
		known := false
		for _, t := range DNSTypes {
			known = known || t == c.Type
		}
		if !known {
			p.bad(path+".dns.type", "want one of %v, got %q", DNSTypes, c.Type)
		}
	case *directorv1.Check_Icmp:
		c.Kind = CheckICMP
	case *directorv1.Check_Exec:
		c.Kind = CheckExec
		p.command(path+".exec", kind.Exec, &c)
	default:
		p.bad(path+".kind", "want one of tcp, http, grpc, udp, dns, icmp, exec")
	}
	if m.GetPort() != 0 {
		if c.Kind == CheckICMP {
			p.bad(path+".port", "ICMP has no ports")
		}
		c.Port = p.port(path+".port", m.GetPort())
	}
	c.Interval = p.duration(path+".interval", m.GetInterval(), DefaultInterval, minInterval, maxInterval)
	c.FastInterval = p.duration(path+".fast_interval", m.GetFastInterval(), max(c.Interval/FastShare, minFast), minFast, c.Interval)
	c.Timeout = p.duration(path+".timeout", m.GetTimeout(), min(c.Interval, MaxDefaultTimeout), minTimeout, maxTimeout)
	c.Rise = p.number(path+".rise", m.GetRise(), DefaultRise, 1, maxRiseOrFall)
	c.Fall = p.number(path+".fall", m.GetFall(), DefaultFall, 1, maxRiseOrFall)
	return c
}

// encryption reads how an HTTP check speaks TLS, if it does.
func (p *parser) encryption(path string, m *directorv1.CheckTls, c *Check) {
	if m == nil {
		return
	}
	c.TLS, c.AnyCertificate = true, m.GetAnyCertificate()
	if c.ServerName = p.word(path+".server_name", m.GetServerName(), "", maxWord); !isDomain(c.ServerName) {
		p.bad(path+".server_name", "want a name, got %q", c.ServerName)
	}
	c.CAFile = p.word(path+".ca_file", m.GetCaFile(), "", maxPath)
	switch {
	case c.CAFile != "" && !strings.HasPrefix(c.CAFile, "/"):
		p.bad(path+".ca_file", "want an absolute path, got %q", c.CAFile)
	case c.CAFile != "" && c.AnyCertificate:
		p.bad(path+".any_certificate", "the authorities of ca_file do not matter when any certificate is taken: say one of both")
	}
}

// answer reads what an HTTP check wants to hear.
func (p *parser) answer(path string, m *directorv1.HttpCheck, c *Check) {
	if n := len(m.GetStatuses()); n > MaxStatuses {
		p.bad(path+".statuses", "%d, at most %d are taken", n, MaxStatuses)
	}
	for i, s := range m.GetStatuses() {
		if s < 100 || s > 599 {
			p.bad(fmt.Sprintf("%s.statuses[%d]", path, i), "want 100 to 599, got %d", s)
		}
		c.statuses += fmt.Sprintf("%d ", s)
	}
	if c.Body = m.GetBody(); len(c.Body) > MaxDatagram {
		p.bad(path+".body", "%d bytes, at most %d are looked for", len(c.Body), MaxDatagram)
	}
	if c.Body != "" && c.Method == "HEAD" {
		p.bad(path+".body", "an answer to HEAD has no body")
	}
	c.Header, c.Value = m.GetHeader().GetName(), m.GetHeader().GetValue()
	if m.GetHeader() != nil && (c.Header == "" || len(c.Header) > maxWord || strings.ContainsFunc(c.Header, func(r rune) bool { return !isToken(r) })) {
		p.bad(path+".header.name", "want the name of a field such as X-Ready, got %q", c.Header[:min(len(c.Header), maxWord)])
	}
	if len(c.Value) > MaxDatagram {
		p.bad(path+".header.value", "%d bytes, at most %d are looked for", len(c.Value), MaxDatagram)
	}
}

// command reads the program of a check.
func (p *parser) command(path string, m *directorv1.ExecCheck, c *Check) {
	if n := len(m.GetArgv()); n < 1 || n > MaxArguments {
		p.bad(path+".argv", "want a program and its arguments, %d at most, got %d", MaxArguments, n)
	} else if !strings.HasPrefix(m.GetArgv()[0], "/") {
		p.bad(path+".argv[0]", "want the absolute path of a program, got %q", m.GetArgv()[0][:min(len(m.GetArgv()[0]), maxWord)])
	}
	for i, a := range m.GetArgv() {
		if len(a) > MaxArgument || strings.ContainsRune(a, 0) {
			p.bad(fmt.Sprintf("%s.argv[%d]", path, i), "want %d bytes at most, none of them 0", MaxArgument)
		}
		c.command += a + "\x00"
	}
	c.User = p.word(path+".user", m.GetUser(), DefaultUser, maxWord)
}

// request refuses an HTTP check that could never be sent: all real servers would count as dead.
func (p *parser) request(path string, c Check) {
	if u, err := url.Parse("http://host" + c.Path); !strings.HasPrefix(c.Path, "/") || err != nil || u.Fragment != "" || strings.HasSuffix(c.Path, "#") {
		p.bad(path+".path", "want one that starts with /, with whole %%XX escapes and no #, got %q", c.Path)
	}
	if strings.ContainsFunc(c.Method, func(r rune) bool { return !isToken(r) }) || c.Method == "CONNECT" {
		p.bad(path+".method", "want a method such as GET or HEAD, got %q", c.Method)
	}
	if strings.ContainsFunc(c.Host, func(r rune) bool { return !isAlphanumeric(r) && !strings.ContainsRune("-._:[]", r) }) {
		p.bad(path+".host", "want a name or an address, with :PORT or without, got %q", c.Host)
	}
}

func isAlphanumeric(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// isToken: RFC 9110 section 5.6.2.
func isToken(r rune) bool { return isAlphanumeric(r) || strings.ContainsRune("!#$%&'*+-.^_`|~", r) }

// isDomain: RFC 1035 section 2.3.4. The root is a dot.
func isDomain(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if name != "" && (len(label) < 1 || len(label) > 63) {
			return false
		}
	}
	return true
}

// drain reads a drain. One whose service or real server is not there waits for it: whoever takes a real server out of a
// service need not care about its drains, and finds it drained when it is back.
func (p *parser) drain(m *directorv1.Drain) {
	path := p.named(KindDrain, m.GetName())
	if !name.MatchString(m.GetService()) {
		p.bad(path+".service", "want the name of a virtual service, got %q", m.GetService())
	}
	d := Drain{Service: m.GetService()}
	port := uint16(0)
	for _, s := range p.want.Services {
		if s.Name == d.Service {
			port = s.VIP.Port()
		}
	}
	if m.GetPort() != 0 {
		port = p.port(path+".port", m.GetPort())
	}
	d.Real = netip.AddrPortFrom(p.host(path+".address", m.GetAddress()), port)
	reason := m.GetReason()
	if utf8.RuneCountInString(reason) > MaxReason || strings.ContainsFunc(reason, func(r rune) bool { return r < ' ' }) {
		p.bad(path+".reason", "want one line of %d characters at most", MaxReason)
	}
	if p.want.Drains == nil {
		p.want.Drains = map[Drain]string{}
	}
	p.want.Drains[d] = reason
}

// word checks a short text that goes into a request.
func (p *parser) word(field, s, otherwise string, longest int) string {
	if s == "" {
		return otherwise
	}
	if len(s) > longest || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		p.bad(field, "want %d characters at most and no spaces, got %q", longest, s[:min(len(s), longest)])
		return otherwise
	}
	return s
}

func (p *parser) datagram(field string, b []byte) string {
	if len(b) > MaxDatagram {
		p.bad(field, "%d bytes, at most %d are sent", len(b), MaxDatagram)
	}
	return string(b)
}

func (p *parser) number(field string, n uint32, otherwise, least, most int) int {
	if n == 0 {
		return otherwise
	}
	if int64(n) < int64(least) || int64(n) > int64(most) {
		p.bad(field, "want %d to %d, got %d", least, most, n)
		return otherwise
	}
	return int(n)
}

func (p *parser) duration(field string, m *durationpb.Duration, otherwise, least, most time.Duration) time.Duration {
	if m == nil {
		return otherwise
	}
	d := m.AsDuration()
	if m.CheckValid() != nil || d < least || d > most {
		p.bad(field, "want %s to %s, got %s", least, most, fmt.Sprint(d))
		return otherwise
	}
	return d
}
