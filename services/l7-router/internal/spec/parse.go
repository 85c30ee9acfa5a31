package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	routerv1 "github.com/twotier/twotier/proto/router/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Limits of what may be wanted.
const (
	// MaxName is the most bytes of a name or of a cookie value.
	MaxName = 63
	// MaxBinds is the most addresses of a frontend.
	MaxBinds = 64
	// MaxRules is the most rules of a frontend.
	MaxRules = 256
	// MaxServers is the most servers of a backend.
	MaxServers = 256
	// MaxWeight is the largest weight of a server.
	MaxWeight = 256
	// MaxConn is the largest maxconn of a frontend or a server.
	MaxConn = 1 << 20
	// MaxTimeout is the longest timeout.
	MaxTimeout = 24 * time.Hour
)

// Defaults of what is left out.
const (
	DefaultTimeoutClient    = 60 * time.Second
	DefaultTimeoutRequest   = 10 * time.Second
	DefaultTimeoutKeepAlive = 60 * time.Second
	DefaultTimeoutConnect   = 3 * time.Second
	DefaultTimeoutServer    = 60 * time.Second
	DefaultMaxConn          = 10000
	DefaultInterval         = 2 * time.Second
	DefaultRise             = 2
	DefaultFall             = 3
)

// parser collects what is wrong.
type parser struct {
	violations []*commonv1.Violation
}

// refuse notes what is wrong. What is said is bounded, because it goes into the status and over gRPC: a value that was given may
// be as long as an object.
func (p *parser) refuse(field, format string, args ...any) {
	if len(p.violations) >= maxViolations {
		return
	}
	cut := func(s string) string {
		if len(s) > maxDescription {
			s = strings.ToValidUTF8(s[:maxDescription], "") + "..."
		}
		return s
	}
	p.violations = append(p.violations, &commonv1.Violation{Field: cut(field), Description: cut(fmt.Sprintf(format, args...))})
}

const (
	// maxViolations is the most that is said to be wrong, maxDescription the most bytes of where and what.
	maxViolations, maxDescription = 1000, 500
)

// Parse checks everything that is wanted together. With violations the state is not to be used.
func Parse(frontends []*routerv1.Frontend, backends []*routerv1.Backend) (State, []*commonv1.Violation) {
	var (
		p     parser
		state State
		known = map[string]bool{}
		seen  = map[string]bool{}
	)
	for _, message := range backends {
		path := "backend/" + message.GetName()
		if known[message.GetName()] {
			p.refuse(path+".name", "there is another backend of this name")
		}
		known[message.GetName()] = true
		state.Backends = append(state.Backends, p.backend(path, message))
	}
	for _, message := range frontends {
		path := "frontend/" + message.GetName()
		if seen[message.GetName()] {
			p.refuse(path+".name", "there is another frontend of this name")
		}
		seen[message.GetName()] = true
		state.Frontends = append(state.Frontends, p.frontend(path, message, known))
	}
	slices.SortFunc(state.Backends, func(a, b Backend) int { return cmp.Compare(a.Name, b.Name) })
	slices.SortFunc(state.Frontends, func(a, b Frontend) int { return cmp.Compare(a.Name, b.Name) })
	p.binds(state.Frontends)
	p.cookies(state.Backends)
	if len(p.violations) > 0 {
		return State{}, p.violations
	}
	return state, nil
}

func (p *parser) frontend(path string, m *routerv1.Frontend, backends map[string]bool) Frontend {
	p.name(path+".name", m.GetName())
	f := Frontend{
		Name:             m.GetName(),
		DefaultBackend:   m.GetDefaultBackend(),
		TimeoutClient:    p.duration(path+".timeout_client", m.GetTimeoutClient(), DefaultTimeoutClient, time.Millisecond, MaxTimeout),
		TimeoutClientFin: p.duration(path+".timeout_client_fin", m.GetTimeoutClientFin(), 0, time.Millisecond, MaxTimeout),
		TimeoutRequest:   p.duration(path+".timeout_http_request", m.GetTimeoutHttpRequest(), DefaultTimeoutRequest, time.Millisecond, MaxTimeout),
		TimeoutKeepAlive: p.duration(path+".timeout_http_keep_alive", m.GetTimeoutHttpKeepAlive(), DefaultTimeoutKeepAlive, time.Millisecond, MaxTimeout),
		MaxConn:          p.number(path+".maxconn", m.GetMaxconn(), DefaultMaxConn, MaxConn),
	}
	if n := len(m.GetBind()) + len(m.GetBindTls()); n == 0 || n > MaxBinds {
		p.refuse(path+".bind", "want 1 to %d addresses together with bind_tls, got %d", MaxBinds, n)
	}
	f.AcceptProxy = p.acceptProxy(path+".accept_proxy", m.GetAcceptProxy())
	f.Bind = p.addresses(path+".bind", m.GetBind())
	f.BindTLS = p.addresses(path+".bind_tls", m.GetBindTls())
	switch {
	case m.GetTls() != nil && len(m.GetBindTls()) > 0:
		f.TLS = p.tls(path+".tls", m.GetTls())
	case m.GetTls() != nil:
		p.refuse(path+".tls", "without bind_tls it has no use")
	case len(m.GetBindTls()) > 0:
		p.refuse(path+".tls", "bind_tls needs it: at least one certificate")
	}
	f.Stats = p.statsPage(path+".stats", m.GetStats())
	f.HTTP2 = p.http2(path+".http2", m.GetHttp2(), len(m.GetBindTls()) > 0)
	f.Limits = p.limits(path+".limits", m.GetLimits(), f.TimeoutClient)
	f.AccessLog = p.accessLog(path+".access_log", m.GetAccessLog())
	f.Rules = p.rules(path+".rules", m.GetRules(), backends)
	f.Forwarded = p.forwarded(path+".forwarded", m.GetForwarded())
	p.ownFields(path, &f)
	if name := m.GetDefaultBackend(); name != "" && !backends[name] {
		p.refuse(path+".default_backend", "there is no backend %q", name)
	}
	return f
}

func (p *parser) backend(path string, m *routerv1.Backend) Backend {
	p.name(path+".name", m.GetName())
	b := Backend{
		Name:             m.GetName(),
		Balance:          p.balance(path, m),
		AllBackups:       m.GetAllBackups(),
		Persist:          m.GetPersist(),
		Cookie:           p.cookie(path+".cookie", m.GetCookie()),
		Check:            p.check(path+".check", m.GetCheck()),
		TimeoutConnect:   p.duration(path+".timeout_connect", m.GetTimeoutConnect(), DefaultTimeoutConnect, time.Millisecond, MaxTimeout),
		H2C:              p.h2c(path+".protocol", m.GetProtocol()),
		TimeoutServer:    p.duration(path+".timeout_server", m.GetTimeoutServer(), DefaultTimeoutServer, time.Millisecond, MaxTimeout),
		TimeoutServerFin: p.duration(path+".timeout_server_fin", m.GetTimeoutServerFin(), 0, time.Millisecond, MaxTimeout),
		TimeoutTunnel:    p.duration(path+".timeout_tunnel", m.GetTimeoutTunnel(), 0, time.Millisecond, MaxTimeout),
	}
	b.TimeoutQueue = p.duration(path+".timeout_queue", m.GetTimeoutQueue(), b.TimeoutConnect, time.Millisecond, MaxTimeout)
	b.Retries = p.retries(path+".retries", m.GetRetries())
	b.Passive = p.passive(path+".passive", m.GetPassive(), b.Check.Kind != CheckNone)
	b.Panic = p.number(path+".panic_threshold", m.GetPanicThreshold(), 0, 100)
	b.CutWhenDown = m.GetShutdownSessionsWhenDown()
	if len(m.GetServers()) > MaxServers {
		p.refuse(path+".servers", "want at most %d servers, got %d", MaxServers, len(m.GetServers()))
	}
	names := map[string]bool{}
	for i, message := range m.GetServers() {
		at := fmt.Sprintf("%s.servers[%d]", path, i)
		s := p.server(at, message)
		if names[s.Name] {
			p.refuse(at+".name", "there is another server %q in this backend", s.Name)
		}
		names[s.Name] = true
		if s.SendProxy != SendProxyNone && b.H2C {
			p.refuse(at+".send_proxy", "a connection of HTTP/2 is shared by many clients, so it cannot begin with one's PROXY header")
		}
		switch {
		case s.Cookie != "" && b.Cookie.Name == "":
			p.refuse(at+".cookie", "the backend has no cookie, so the value has no use")
		case b.Cookie.Mode == CookiePrefix && strings.Contains(s.Cookie, "~"):
			p.refuse(at+".cookie", "want no ~ in it, which stands behind it in mode prefix, got %q", s.Cookie)
		}
		p.serverCheck(at+".check", message.GetCheck(), &s, b.Check.Kind != CheckNone)
		b.Servers = append(b.Servers, s)
	}
	return b
}

func (p *parser) server(path string, m *routerv1.Server) Server {
	p.name(path+".name", m.GetName())
	s := Server{
		Name: m.GetName(), Weight: 1, Backup: m.GetBackup(), Cookie: m.GetCookie(),
		MaxConn: p.number(path+".maxconn", m.GetMaxconn(), 0, MaxConn), MaxQueue: p.number(path+".maxqueue", m.GetMaxqueue(), 0, MaxConn),
	}
	if m.GetSlowStart() != nil {
		s.SlowStart = p.duration(path+".slow_start", m.GetSlowStart(), 0, time.Second, MaxTimeout)
	}
	if s.MaxQueue > 0 && s.MaxConn == 0 {
		p.refuse(path+".maxqueue", "nothing waits for a server without maxconn")
	}
	s.SendProxy = p.sendProxy(path+".send_proxy", m.GetSendProxy())
	address, err := netip.ParseAddrPort(m.GetAddress())
	if err != nil || address.Port() == 0 || address.Addr().IsUnspecified() || address.Addr().IsMulticast() {
		p.refuse(path+".address", "want HOST:PORT with the IP address of one machine, got %q", m.GetAddress())
	}
	s.Address = netip.AddrPortFrom(address.Addr().Unmap(), address.Port())
	if m.Weight != nil {
		if m.GetWeight() > MaxWeight {
			p.refuse(path+".weight", "want 0 to %d, got %d", MaxWeight, m.GetWeight())
		}
		s.Weight = int(min(m.GetWeight(), MaxWeight))
	}
	// RFC 6265 4.1.1 cookie-octet. "|" is kept free for the dates that HAProxy appends to a value.
	if !visible(s.Cookie) || strings.ContainsAny(s.Cookie, "\",;\\|") || len(s.Cookie) > MaxName {
		p.refuse(path+".cookie", "want at most %d visible characters without \" , ; \\ |, got %q", MaxName, s.Cookie)
	}
	switch m.GetAdmin() {
	case routerv1.Admin_ADMIN_UNSPECIFIED, routerv1.Admin_ADMIN_READY:
	case routerv1.Admin_ADMIN_DRAIN:
		s.Admin = AdminDrain
	case routerv1.Admin_ADMIN_MAINT:
		s.Admin = AdminMaint
	default:
		p.refuse(path+".admin", "want ready, drain or maint, got %v", m.GetAdmin())
	}
	return s
}

func (p *parser) name(path, name string) {
	ok := name != "" && len(name) <= MaxName
	for _, c := range name {
		ok = ok && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.')
	}
	if !ok {
		p.refuse(path, "want 1 to %d of a-z 0-9 - _ . , got %q", MaxName, name)
	}
}

func (p *parser) duration(path string, d *durationpb.Duration, otherwise, least, most time.Duration) time.Duration {
	if d == nil {
		return otherwise
	}
	value := d.AsDuration()
	if !d.IsValid() || value < least || value > most {
		p.refuse(path, "want %v to %v, got %v", least, most, value)
		return otherwise
	}
	return value
}

// number takes 0 as left out.
func (p *parser) number(path string, n uint32, otherwise, most int) int {
	if n == 0 {
		return otherwise
	}
	if uint64(n) > uint64(most) {
		p.refuse(path, "want 1 to %d, got %d", most, n)
		return otherwise
	}
	return int(n)
}

// parseBind reads HOST:PORT; host "" or "*" becomes the zero Addr.
func parseBind(text string) (netip.AddrPort, error) {
	text = strings.TrimPrefix(text, "*")
	if port, ok := strings.CutPrefix(text, ":"); ok {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return netip.AddrPort{}, fmt.Errorf("port %q: want 1 to 65535", port)
		}
		return netip.AddrPortFrom(netip.Addr{}, uint16(n)), nil
	}
	address, err := netip.ParseAddrPort(text)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if address.Port() == 0 || address.Addr().IsMulticast() {
		return netip.AddrPort{}, fmt.Errorf("%v cannot be listened on", address)
	}
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port()), nil
}

func (p *parser) addresses(path string, texts []string) (all []netip.AddrPort) {
	for i, text := range texts {
		address, err := parseBind(text)
		if err != nil {
			p.refuse(fmt.Sprintf("%s[%d]", path, i), "want HOST:PORT with an IP address or * as host and a port of 1 to 65535, got %q", text)
			continue
		}
		all = append(all, address)
	}
	return all
}

// binds refuses addresses that could not be bound beside each other. Of each that overlaps others one of these is named.
func (p *parser) binds(frontends []Frontend) {
	type owner struct {
		address netip.AddrPort
		field   string
	}
	type place struct {
		port uint16
		at   netip.Addr
	}
	four, six := netip.IPv4Unspecified(), netip.IPv6Unspecified()
	// The first that has an address, that means all addresses of a family, and that means any of them.
	exact, broad, some := map[place]owner{}, map[place]owner{}, map[place]owner{}
	for _, f := range frontends {
		for i, address := range f.Addresses() {
			field := fmt.Sprintf("frontend/%s.bind[%d]", f.Name, i)
			if i >= len(f.Bind) {
				field = fmt.Sprintf("frontend/%s.bind_tls[%d]", f.Name, i-len(f.Bind))
			}
			port, at := address.Port(), address.Addr()
			family := six
			if at.Is4() {
				family = four
			}
			families := []netip.Addr{family}
			if !at.IsValid() {
				families = []netip.Addr{four, six}
			}
			other, taken := exact[place{port, at}]
			for _, family := range families {
				if !taken { // by one that means all of the family
					other, taken = broad[place{port, family}]
				}
				if !taken && (!at.IsValid() || at.IsUnspecified()) { // by any of those that this one means
					other, taken = some[place{port, family}]
				}
			}
			if taken {
				p.refuse(field, "%s overlaps %s of %s", BindString(address), BindString(other.address), other.field)
			}
			me := owner{address, field}
			first := func(m map[place]owner, at netip.Addr) {
				if _, ok := m[place{port, at}]; !ok {
					m[place{port, at}] = me
				}
			}
			first(exact, at)
			for _, family := range families {
				first(some, family)
				if !at.IsValid() || at.IsUnspecified() {
					first(broad, family)
				}
			}
		}
	}
}

// cookies holds addresses and values to one of each under one cookie name, in all backends: a client that one backend
// has sent to a machine must reach the same machine through another.
func (p *parser) cookies(backends []Backend) {
	type key struct{ cookie, of string }
	values, addresses := map[key]string{}, map[key]string{}
	for _, b := range backends {
		for i, s := range b.Servers {
			if b.Cookie.Name == "" || s.Cookie == "" {
				continue
			}
			field := fmt.Sprintf("backend/%s.servers[%d].cookie", b.Name, i)
			address := s.Address.String()
			if other, ok := values[key{b.Cookie.Name, address}]; ok && other != s.Cookie {
				p.refuse(field, "%s has the value %q elsewhere under cookie %s; one address has one value", address, other, b.Cookie.Name)
			}
			if other, ok := addresses[key{b.Cookie.Name, s.Cookie}]; ok && other != address {
				p.refuse(field, "the value %q means %s elsewhere under cookie %s; one value means one address", s.Cookie, other, b.Cookie.Name)
			}
			values[key{b.Cookie.Name, address}] = s.Cookie
			addresses[key{b.Cookie.Name, s.Cookie}] = address
		}
	}
}

func token(s string) bool {
	if s == "" {
		return false
	}
	for _, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !letter && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return true
}

// visible reports whether s holds only visible ASCII characters; the empty string does.
func visible(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
