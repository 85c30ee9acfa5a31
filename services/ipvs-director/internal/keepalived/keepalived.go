// Package keepalived answers: what do the virtual servers of a keepalived.conf say in our words?
//
// The language is that of keepalived.conf(5). What a checker is not told it has from its real server, and that from the
// virtual server; ours has one check for all real servers of a service, that of the first. The package is pure.
package keepalived

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/importing"
	"github.com/twotier/twotier/services/internal/importing/blocks"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// What keepalived does where nothing is said.
const (
	defaultPersistence = 6 * time.Minute
	defaultTimeout     = 5 * time.Second
	defaultLoop        = time.Minute
)

// Import reads a configuration. The services that it returns are valid together; tuning is nil when nothing is said of it.
func Import(text []byte) (services []*directorv1.VirtualService, tuning *directorv1.Tuning, told *commonv1.ImportReport, err error) {
	var report importing.Report
	lines, err := report.Read("", text)
	if err != nil {
		return nil, nil, nil, err
	}
	r := reader{groups: map[string]*blocks.Statement{}}
	top := blocks.Parse(lines)
	for _, s := range top {
		if s.Word(0) == "virtual_server_group" {
			r.groups[s.Word(1)] = s
			s.Ignore("its members stand in the virtual servers that name it")
		}
	}
	for _, s := range top {
		switch word := s.Word(0); {
		case word == "virtual_server":
			r.server(s)
		case word == "virtual_server_group":
		case strings.HasPrefix(word, "vrrp_"), word == "static_ipaddress", word == "garp_group":
			r.agents(s)
		case word == "global_defs":
			r.globals(s)
		case word == "SSL":
			s.Leave("the director shows no certificate of its own; tls.ca_file of a check names whom it believes")
		case word == "include", word == "include_check":
			s.Leave("other files are not read; put their text in this place")
		case strings.HasPrefix(word, "@"), strings.HasPrefix(word, "$"), strings.HasPrefix(word, "~"):
			s.Leave("conditions, variables and sequences are not followed; write what they stand for")
		default:
			s.Leave("%s is not known to the importer; what can be wanted of the director stands in proto/director/v1/desired.proto", importing.Quote(word))
		}
	}
	return r.taken, r.tuning, report.Message(), nil
}

type reader struct {
	groups map[string]*blocks.Statement
	taken  []*directorv1.VirtualService
	tuning *directorv1.Tuning
}

// synchronised is what to do instead of a daemon whose network only the machine knows.
const synchronised = "connections are carried to other directors by an object of kind tuning: sync, with the network of that card, and id, group, port and ttl as here"

// agents passes over a block about addresses, but for what is the director's.
func (r *reader) agents(s *blocks.Statement) {
	s.Ignore("addresses are the vrrp-agent's: import this file there too")
	for _, child := range s.Children {
		if child.Word(0) == "lvs_sync_daemon_interface" {
			child.Leave(synchronised)
		}
	}
}

// globals reads global_defs.
func (r *reader) globals(s *blocks.Statement) {
	s.Ignore("what the process is given stands in its flags")
	for _, child := range s.Children {
		switch child.Word(0) {
		case "lvs_timeouts":
			r.timeouts(child)
		case "lvs_sync_daemon":
			child.Leave(synchronised)
		case "lvs_flush", "lvs_flush_on_stop":
			child.Ignore("the director takes over what is there, and the kernel goes on when it ends")
		}
	}
}

// timeouts reads lvs_timeouts, pairs of a kind and seconds.
func (r *reader) timeouts(s *blocks.Statement) {
	t := &directorv1.Timeouts{}
	kinds := map[string]**durationpb.Duration{"tcp": &t.Tcp, "tcpfin": &t.TcpFin, "udp": &t.Udp}
	taken := false
	for i := 1; i < len(s.Words); i += 2 {
		kind := kinds[s.Word(i)]
		seconds, err := strconv.ParseUint(s.Word(i+1), 10, 31)
		if kind == nil || err != nil {
			s.Line.LeftOut("want tcp, tcpfin or udp and seconds, got %s", importing.Quote(s.Word(i)+" "+s.Word(i+1)))
			continue
		}
		said := durationpb.New(time.Duration(seconds) * time.Second)
		before := *kind
		*kind = said
		if _, violations := spec.Parse([]proto.Message{&directorv1.Tuning{Name: tuningName, Timeouts: t}}, ""); len(violations) > 0 {
			*kind = before
			s.Line.LeftOut("%s %d: %s", s.Word(i), seconds, violations[0].GetDescription())
			continue
		}
		taken = true
		s.Line.Taken("tuning/%s timeouts: %s %ds; only the data plane ipvs does this", tuningName, s.Word(i), seconds)
	}
	if taken {
		r.tuning = &directorv1.Tuning{Name: tuningName, Timeouts: t}
	}
}

// tuningName is that of the object that timeouts become.
const tuningName = "ipvs"

// server reads a virtual_server block, which is one service for each member of its group.
func (r *reader) server(s *blocks.Statement) {
	targets, wrong := r.targets(s)
	if wrong != "" {
		s.Leave("%s", wrong)
		return
	}
	service := (&virtual{block: s, message: &directorv1.VirtualService{}}).read()
	for _, target := range targets {
		m := proto.CloneOf(service)
		m.Name, m.Address, m.Port, m.Fwmark = target.name, target.address, target.port, target.mark
		if target.mark != 0 {
			m.Protocol = directorv1.Protocol_PROTOCOL_UNSPECIFIED
		} else if m.GetProtocol() == directorv1.Protocol_PROTOCOL_UDP {
			m.Name += "-udp"
		}
		if len(r.taken) == spec.MaxServices {
			s.Line.LeftOut("one director takes %d virtual services; use another one", spec.MaxServices)
			return
		}
		var all []proto.Message
		for _, other := range append(slices.Clone(r.taken), m) {
			all = append(all, other)
		}
		if _, violations := spec.Parse(all, ""); len(violations) > 0 {
			s.Line.LeftOut("%s is not taken: %s: %s", m.GetName(), violations[0].GetField(), violations[0].GetDescription())
			continue
		}
		s.Line.Taken("virtual-service/%s", m.GetName())
		r.taken = append(r.taken, m)
	}
}

// target is what one service takes connections for.
type target struct {
	name, address string
	port, mark    uint32
}

// targets reads the words behind virtual_server.
func (r *reader) targets(s *blocks.Statement) (all []target, wrong string) {
	if s.Word(1) != "group" {
		t, wrong := aim(s.Words[1:])
		return []target{t}, wrong
	}
	group := r.groups[s.Word(2)]
	if group == nil {
		return nil, fmt.Sprintf("there is no virtual_server_group %s", importing.Quote(s.Word(2)))
	}
	for _, member := range group.Children {
		t, wrong := aim(member.Words)
		if wrong != "" {
			member.Line.LeftOut("%s", wrong)
			continue
		}
		all = append(all, t)
	}
	if len(all) == 0 {
		return nil, "none of its group can be taken"
	}
	return all, ""
}

// aim reads ADDRESS PORT or fwmark NUMBER.
func aim(words []string) (t target, wrong string) {
	if len(words) < 2 {
		return t, "want an address and a port: a service on all ports has to name each in a service of its own"
	}
	n, err := strconv.ParseUint(words[1], 10, 32)
	if err != nil {
		return t, fmt.Sprintf("want a number, got %s", importing.Quote(words[1]))
	}
	if words[0] == "fwmark" {
		return target{name: fmt.Sprintf("fwmark-%d", n), mark: uint32(n)}, ""
	}
	address, err := netip.ParseAddr(words[0])
	if err != nil {
		return t, fmt.Sprintf("want an address, got %s: name each address of a range", importing.Quote(words[0]))
	}
	name := strings.ReplaceAll(address.String(), ":", ".")
	if strings.HasPrefix(name, ".") {
		name = "0" + name // a name begins with a letter or digit
	}
	return target{name: fmt.Sprintf("%s-%d", name, n), address: address.String(), port: uint32(n)}, ""
}

// virtual is a virtual_server block while it is read.
type virtual struct {
	block   *blocks.Statement
	message *directorv1.VirtualService
	check   *checker // that of the first real server
	checked int      // real servers with one
}

// harmless are statements that are left out without effect for users, and why.
var harmless = map[string]string{
	"inhibit_on_failure":   "a real server whose checks fail stays, with weight 0",
	"sorry_server_inhibit": "the sorry server takes connections while it is needed, and none else",
	"alpha":                "a real server that the kernel does not have takes none before its first check",
	"omega":                "nothing is run when the director ends: the kernel goes on",
	"ha_suspend":           "every director checks, so that each knows at a take-over",
	"snmp_name":            "services have names",
	"warmup":               "the first checks are spread over half an interval",
	"log_all_failures":     "ListServices tells of the last check",
	"fast_recovery":        "one request is one check",
	"http_protocol":        "checks ask in HTTP/1.1",
	"smtp_alert":           "whoever wants to know asks WatchServices",
	"no_smtp_alert":        "no mail is sent",
}

// instead are statements that matter and cannot be said, and what to do about it.
var instead = map[string]string{
	"persistence_engine": "a client is told by its address",
	"quorum_up":          "nothing is run: ask WatchServices, which tells of the quorum",
	"quorum_down":        "nothing is run: ask WatchServices, which tells of the quorum",
	"notify_up":          "nothing is run: ask WatchServices, which tells of health",
	"notify_down":        "nothing is run: ask WatchServices, which tells of health",
	"flag-1":             "schedulers have the flags that they need to do what is said of them",
	"flag-2":             "schedulers have the flags that they need to do what is said of them",
	"flag-3":             "schedulers have the flags that they need to do what is said of them",
	"sh-port":            "mh deals by address and port",
}

// read makes a service of the block, but for what connections it takes.
func (v *virtual) read() *directorv1.VirtualService {
	m := v.message
	said := map[string]bool{}
	var reals []*blocks.Statement
	d := defaults{loop: defaultLoop, timeout: defaultTimeout}
	for _, s := range v.block.Children {
		value, line := s.Word(1), s.Line
		word := canonical(s.Word(0))
		said[word] = true
		switch word {
		case "real_server":
			reals = append(reals, s)
		case "lvs_sched":
			m.Scheduler = value
			line.Taken("scheduler %s", value)
			if !slices.Contains(spec.Schedulers, spec.Scheduler(value)) {
				m.Scheduler = string(spec.WLC)
				line.LeftOut("scheduler %s: wlc is taken; there are %v", importing.Quote(value), spec.Schedulers)
			}
		case "mh-port", "mh-fallback", "sh-fallback", "hashed":
			line.Ignored("sh and mh deal so")
		case "lvs_method":
			m.Forwarding, m.Tunnel = forwarding(s)
		case "protocol":
			switch value {
			case "TCP", "UDP":
				m.Protocol = directorv1.Protocol(directorv1.Protocol_value["PROTOCOL_"+value])
				line.Taken("protocol %s", value)
			default:
				line.LeftOut("protocol %s: TCP is taken; the director serves TCP and UDP", importing.Quote(value))
			}
		case "persistence_timeout":
			m.Persistence = persistence(m)
			m.Persistence.Timeout = durationpb.New(defaultPersistence)
			if value == "" {
				line.Assumed("6 minutes, the default of keepalived")
			}
			timed(s, value != "", func(d time.Duration) { m.Persistence.Timeout = durationpb.New(d) })
		case "persistence_granularity":
			m.Persistence = persistence(m)
			if bits, ok := prefixOf(value); ok {
				m.Persistence.Prefix = bits
				line.Taken("persistence.prefix %d", bits)
			} else {
				line.LeftOut("want a netmask or a number of bits, got %s", importing.Quote(value))
			}
		case "ops":
			m.OnePacket = true
			line.Taken("one_packet; only the data plane ipvs does it")
			defer func() {
				if m.GetProtocol() != directorv1.Protocol_PROTOCOL_UDP || m.GetPersistence() != nil {
					m.OnePacket = false
					line.LeftOut("ops is for UDP without persistence")
				}
			}()
		case "ip_family":
			if value == "inet6" {
				m.Family = directorv1.Family_FAMILY_IPV6
			}
			line.Taken("family %s", value)
		case "quorum", "hysteresis":
			number(s, func(n uint32) {
				if m.Quorum == nil {
					m.Quorum = &directorv1.Quorum{}
				}
				if word == "quorum" {
					m.Quorum.Weight = n
				} else {
					m.Quorum.Hysteresis = n
				}
			})
		case "sorry_server":
			m.SorryServer = v.server(s)
		case "sorry_server_lvs_method":
			how, tunnel := forwarding(s)
			defer func() {
				if m.GetSorryServer() != nil {
					m.SorryServer.Forwarding, m.SorryServer.Tunnel = how, tunnel
				}
			}()
		default:
			if !d.take(s) {
				unsaid(s)
			}
		}
	}
	if !said["lvs_sched"] {
		m.Scheduler = string(spec.WLC)
		v.block.Line.Assumed("scheduler wlc, the default of keepalived")
	}
	if !said["lvs_method"] {
		v.block.Line.Assumed("masquerading (NAT), the default of keepalived")
	}
	if m.GetQuorum() != nil && m.GetSorryServer() == nil {
		m.Quorum = nil
		v.block.Line.Unsupported("quorum: without a sorry server it changes nothing here: the living take what they can")
	}
	for _, s := range reals {
		v.real(s, d)
	}
	if v.check != nil {
		m.Check = v.check.message
		if v.checked < len(m.GetRealServers()) {
			v.block.Line.Assumed("all real servers are checked as the first that has a checker")
		}
	}
	return m
}

func canonical(word string) string {
	switch word {
	case "lb_algo":
		return "lvs_sched"
	case "lb_kind":
		return "lvs_method"
	case "nb_get_retry":
		return "retry"
	}
	return word
}

func persistence(m *directorv1.VirtualService) *directorv1.Persistence {
	if m.GetPersistence() == nil {
		return &directorv1.Persistence{}
	}
	return m.GetPersistence()
}

func prefixOf(text string) (uint32, bool) {
	if n, err := strconv.ParseUint(text, 10, 8); err == nil {
		return uint32(n), n >= 1 && n <= 128
	}
	mask, err := netip.ParseAddr(text)
	if err != nil || !mask.Is4() {
		return 0, false
	}
	bits := fmt.Sprintf("%08b%08b%08b%08b", mask.As4()[0], mask.As4()[1], mask.As4()[2], mask.As4()[3])
	ones := strings.TrimRight(bits, "0")
	return uint32(len(ones)), ones != "" && !strings.Contains(ones, "0")
}

// unsaid speaks about what cannot be taken.
func unsaid(s *blocks.Statement) {
	word := canonical(s.Word(0))
	if why, ok := harmless[word]; ok {
		s.Ignore("%s", why)
		return
	}
	if why, ok := instead[word]; ok {
		s.Leave("%s", why)
		return
	}
	s.Leave("%s is not known to the importer", importing.Quote(word))
}

// number takes a number that is at least 0.
func number(s *blocks.Statement, take func(uint32)) {
	n, err := strconv.ParseUint(s.Word(1), 10, 32)
	if err != nil {
		s.Line.LeftOut("want a number, got %s", importing.Quote(s.Word(1)))
		return
	}
	s.Line.Taken("%s %d", s.Word(0), n)
	take(uint32(n))
}

// timed takes seconds, as keepalived's TIMER.
func timed(s *blocks.Statement, given bool, take func(time.Duration)) {
	if !given {
		return
	}
	n, err := strconv.ParseFloat(s.Word(1), 64)
	if err != nil || n < 0 || n > 1e6 {
		s.Line.LeftOut("want seconds, got %s", importing.Quote(s.Word(1)))
		return
	}
	d := time.Duration(n * float64(time.Second)).Round(time.Microsecond)
	s.Line.Taken("%s %v", s.Word(0), d)
	take(d)
}

// forwarding reads NAT, DR or TUN with what follows.
func forwarding(s *blocks.Statement) (directorv1.Forwarding, *directorv1.Tunnel) {
	s.Line.Taken("forwarding %s", s.Word(1))
	switch s.Word(1) {
	case "NAT":
		return directorv1.Forwarding_FORWARDING_MASQUERADE, nil
	case "DR":
		return directorv1.Forwarding_FORWARDING_DIRECT, nil
	case "TUN":
		t := &directorv1.Tunnel{}
		for i := 2; i < len(s.Words); i++ {
			switch word := s.Word(i); word {
			case "ipip", "gue", "gre":
				t.Type = directorv1.TunnelType(directorv1.TunnelType_value["TUNNEL_TYPE_"+strings.ToUpper(word)])
			case "csum":
				t.Checksum = directorv1.TunnelChecksum_TUNNEL_CHECKSUM_WHOLE
			case "remcsum":
				t.Checksum = directorv1.TunnelChecksum_TUNNEL_CHECKSUM_REMOTE
			case "port":
				i++
				port, _ := strconv.ParseUint(s.Word(i), 10, 16) // spec asks for one where it has to be
				t.Port = uint32(port)
			}
		}
		return directorv1.Forwarding_FORWARDING_TUNNEL, t
	}
	s.Line.LeftOut("%s: want NAT, DR or TUN; NAT is taken", importing.Quote(s.Word(1)))
	return directorv1.Forwarding_FORWARDING_UNSPECIFIED, nil
}

// server reads the address and port behind real_server and sorry_server; nil: they say none.
func (v *virtual) server(s *blocks.Statement) *directorv1.RealServer {
	address, err := netip.ParseAddr(s.Word(1))
	if err != nil {
		s.Leave("want an address, got %s", importing.Quote(s.Word(1)))
		return nil
	}
	m := &directorv1.RealServer{Address: address.String()}
	if len(s.Words) > 2 {
		port, err := strconv.ParseUint(s.Word(2), 10, 16)
		if err != nil {
			s.Leave("want a port, got %s", importing.Quote(s.Word(2)))
			return nil
		}
		m.Port = uint32(port)
	}
	s.Line.Taken("%s %s", s.Word(0), strings.Join(s.Words[1:], ":"))
	return m
}

// real reads a real_server block.
func (v *virtual) real(s *blocks.Statement, d defaults) {
	m := v.server(s)
	if m == nil {
		return
	}
	m.Weight = proto.Uint32(1)
	var checks []*blocks.Statement
	for _, child := range s.Children {
		switch word := canonical(child.Word(0)); word {
		case "weight":
			number(child, func(n uint32) { m.Weight = proto.Uint32(n) })
		case "uthreshold":
			number(child, func(n uint32) { m.UpperThreshold = n })
		case "lthreshold":
			number(child, func(n uint32) { m.LowerThreshold = n })
		case "lvs_method":
			m.Forwarding, m.Tunnel = forwarding(child)
		case "HTTP_GET", "SSL_GET", "TCP_CHECK", "UDP_CHECK", "DNS_CHECK", "MISC_CHECK", "PING_CHECK", "SMTP_CHECK", "BFD_CHECK", "FILE_CHECK":
			checks = append(checks, child)
		default:
			if !d.take(child) {
				unsaid(child)
			}
		}
	}
	v.message.RealServers = append(v.message.RealServers, m)
	mine := (*checker)(nil)
	for _, each := range checks {
		c := read(each, d)
		switch {
		case c == nil:
		case mine == nil:
			mine = c
		default:
			each.Leave("a real server has one check: the first is taken")
		}
	}
	if mine == nil {
		return
	}
	v.checked++
	switch {
	case v.check == nil:
		v.check = mine
	case !proto.Equal(v.check.message, mine.message):
		mine.block.Leave("all real servers of a service are checked alike, as on line %d", v.check.block.Line.Number)
	}
}
