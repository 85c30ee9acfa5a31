// Package spec answers: what is wanted of this director? It turns the desired messages into values, fills in the
// defaults and names everything that is wrong with them.
package spec

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	commonv1 "github.com/twotier/twotier/proto/common/v1"
	directorv1 "github.com/twotier/twotier/proto/director/v1"
)

// The kinds of desired objects, as they stand in the key space.
const (
	KindVirtualService = "virtual-service"
	KindAddress        = "address"
	KindDrain          = "drain"
	KindTuning         = "tuning"
)

// Bounds that keep one pass and one kernel transaction small.
const (
	// MaxServices is the most virtual services one director takes: 1,000 of 20 real servers each are measured (make
	// bench-director), from nothing to the change of one weight.
	MaxServices = 1024
	// MaxRealServers is the most real servers one virtual service takes.
	MaxRealServers = 256
	// MaxAllRealServers is the most real servers of all virtual services together, 32 for each: a full look reads every
	// one of them from the kernel, which is why package loop spares looks that cost much.
	MaxAllRealServers = 32768
	// MaxDrains is the most drains one director takes.
	MaxDrains = 4096
	// MaxAddresses is the most addresses one director takes.
	MaxAddresses = 256
	// MaxWeight is the largest weight of a real server; IPVS tools and the IPVS library keep 16 bits of it.
	MaxWeight = 65535
)

// Scheduler decides which real server takes a new connection.
type Scheduler string

// The schedulers, by their IPVS names (ipvsadm(8), --scheduler).
const (
	// RR is round robin: turns, the same for all whose weight is not 0.
	RR Scheduler = "rr"
	// WRR is weighted round robin: turns in proportion to the weights.
	WRR Scheduler = "wrr"
	// LC is least connection: the server with the fewest connections, whatever its weight if that is not 0.
	LC Scheduler = "lc"
	// WLC is weighted least connection: the server with the fewest connections for its weight.
	WLC Scheduler = "wlc"
	// SH hashes the address of the client: each client stays on one server.
	SH Scheduler = "sh"
	// MH hashes address and port of the client over a Maglev table (ipvsadm -s mh -b mh-port): consistent, so that few
	// connections change their server when one comes or goes, and alike on every director.
	MH Scheduler = "mh"
	// SED is shortest expected delay: like wlc, and the connection to come counts too.
	SED Scheduler = "sed"
	// NQ is never queue: an idle server first, else sed.
	NQ Scheduler = "nq"
	// DH hashes the address that clients connect to, for caches behind one mark.
	DH Scheduler = "dh"
	// LBLC keeps each destination on one server until that is overloaded, LBLCR on a set of them.
	LBLC  Scheduler = "lblc"
	LBLCR Scheduler = "lblcr"
	// FO is failover: the server of the highest weight takes all.
	FO Scheduler = "fo"
	// OVF is overflow: the server of the highest weight takes connections up to its weight, then the next.
	OVF Scheduler = "ovf"
	// TWOS takes the better of two servers drawn by chance.
	TWOS Scheduler = "twos"
)

// Schedulers are all that can be asked for, in the order in which they are told to people: those that every plane has, and those
// of IPVS alone.
var Schedulers = []Scheduler{RR, WRR, LC, WLC, SH, MH, SED, NQ, DH, LBLC, LBLCR, FO, OVF, TWOS}

// Weighs tells whether the scheduler looks at weights above 0; rr, lc and dh tell 0 from the rest only.
func (s Scheduler) Weighs() bool { return s != RR && s != LC && s != DH }

// ByLoad tells whether the scheduler looks at how many connections the real servers have open.
func (s Scheduler) ByLoad() bool { return s == LC || s == WLC }

// Want is the whole desired state of one director.
type Want struct {
	// Services in the order of VIP.
	Services []Service
	// Addresses that this node shall hold, in the order of the address. Those of other nodes are left out.
	Addresses []Address
	// Drains are the real servers that get no new connections, and why, for people.
	Drains map[Drain]string
	// Tuning is what the plane is to have once on this node.
	Tuning Tuning
	// Needs are the features that the services need of the plane, and where it is said.
	Needs []Need
}

// Drain names a real server of a service.
type Drain struct {
	// Service is the name of the service.
	Service string
	// Real is the address of the real server.
	Real netip.AddrPort
}

// Persistence keeps clients on their real servers. It can be compared; the zero value keeps nobody.
type Persistence struct {
	// Timeout is how long a client is remembered after its last new connection, in whole seconds; 0: not at all.
	Timeout time.Duration
	// Prefix is how many bits of the client's address count, 1 to 32 or 128.
	Prefix int
}

func (p Persistence) String() string {
	if p == (Persistence{}) {
		return "none"
	}
	return fmt.Sprintf("%s by /%d", p.Timeout, p.Prefix)
}

// Foreign is what becomes of a wanted service that somebody else has made.
type Foreign uint8

// The ways to deal with somebody else's service.
const (
	// Adopt makes it ours.
	Adopt Foreign = iota
	// Ignore leaves it alone.
	Ignore
	// RefuseForeign leaves it alone and lets the pass fail.
	RefuseForeign
)

// Service is one virtual service.
type Service struct {
	// Name of the object that asks for it.
	Name string
	// VIP is what connections it takes.
	VIP VIP
	// Scheduler chooses the real server.
	Scheduler Scheduler
	// Persistence comes before the scheduler.
	Persistence Persistence
	// OnePacket deals out each datagram anew.
	OnePacket bool
	// Reals are the real servers in the order of address and port.
	Reals []Real
	// Lent are the slots that others have than the weights say, in the order of the slots; for lc and wlc on a plane that deals by a
	// table (package slots). Nobody wants them: they follow from the open connections.
	Lent []Loan
	// Check tells the living from the dead; the zero value checks nothing.
	Check Check
	// Panic is the share of living real servers in per cent below which health is ignored; 0: never.
	Panic int
	// Quorum is the weight of living real servers that is needed, at least 1, and Hysteresis how far above it comes back and
	// below it is lost.
	Quorum, Hysteresis int
	// Sorry takes the connections while the quorum is not met; the zero value: nobody does. SorryForward is how they reach it.
	Sorry        netip.AddrPort
	SorryForward Forward
	// DrainTimeout is how long connections to a real server that is not wanted any more are waited for.
	DrainTimeout time.Duration
	// ResetAfterDrain cuts those that are left then.
	ResetAfterDrain bool
	// SlowStart is how long the weight of a real server grows that begins to take connections; 0: not at all.
	SlowStart time.Duration
	// Foreign is what to do when somebody else has made the service.
	Foreign Foreign
}

// Loan is one slot of a table that a real server has although the weights give it to another.
type Loan struct {
	// Slot counts from 0.
	Slot int
	// To is who has it.
	To netip.AddrPort
}

// Real is one real server of a service. It can be compared.
type Real struct {
	// Address is where the real server listens. The port is 0 where a service by mark leaves it as the client asked.
	Address netip.AddrPort
	// Weight is its share of new connections, 0 to MaxWeight; 0 = drain.
	Weight int
	// Upper is the number of connections at which it is full; 0: it never is. Once full, it takes connections again below Lower;
	// 0: below three quarters of Upper.
	Upper, Lower uint32
	// Forward is how packets reach it.
	Forward Forward
}

// String is everything but the address, as people read it.
func (r Real) String() string {
	s := fmt.Sprintf("weight %d", r.Weight)
	if r.Upper != 0 {
		s += fmt.Sprintf(", full at %d connections", r.Upper)
	}
	if r.Lower != 0 {
		s += fmt.Sprintf(" until below %d", r.Lower)
	}
	if r.Forward != (Forward{}) {
		s += ", " + r.Forward.String()
	}
	return s
}

// Refill is the number of connections below which a real server that was full takes new ones again, as IPVS has it
// (ip_vs_unbind_dest of net/netfilter/ipvs/ip_vs_conn.c).
func (r Real) Refill() uint32 {
	if r.Lower != 0 || r.Upper == 0 {
		return r.Lower
	}
	return uint32((uint64(r.Upper)*3 + 3) / 4)
}

// Address is an address that the node shall hold, with the length of its subnet.
type Address struct {
	// Prefix is the address itself with its subnet length, not masked: 192.168.60.99/24.
	Prefix netip.Prefix
}

// name is the shape of every object's name.
var name = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Parse checks the desired messages together and turns them into what the node is to do. With violations, the
// returned Want must not be used.
func Parse(messages []proto.Message, node string) (Want, []*commonv1.Violation) {
	p := parser{vips: map[VIP]string{}, held: map[netip.Addr]string{}, names: map[string]bool{}, tuned: map[string]string{}}
	var drains []*directorv1.Drain
	for _, m := range messages {
		switch m := m.(type) {
		case *directorv1.VirtualService:
			p.service(m)
		case *directorv1.Address:
			p.address(m, node)
		case *directorv1.Drain:
			drains = append(drains, m)
		case *directorv1.Tuning:
			p.tuning(m, node)
		default:
			p.bad(string(m.ProtoReflect().Descriptor().Name()), "not an object of the director")
		}
	}
	p.mixed()
	for _, m := range drains { // their ports follow from the services
		p.drain(m)
	}
	if len(drains) > MaxDrains {
		p.bad(KindDrain, "%d objects, at most %d are taken", len(drains), MaxDrains)
	}
	if len(p.vips) > MaxServices {
		p.bad(KindVirtualService, "%d objects, at most %d are taken", len(p.vips), MaxServices)
	}
	if p.reals > MaxAllRealServers {
		p.bad(KindVirtualService, "%d real servers in all, at most %d are taken", p.reals, MaxAllRealServers)
	}
	if len(p.held) > MaxAddresses {
		p.bad(KindAddress, "%d objects, at most %d are taken", len(p.held), MaxAddresses)
	}
	slices.SortFunc(p.want.Services, func(a, b Service) int { return a.VIP.Compare(b.VIP) })
	slices.SortFunc(p.want.Addresses, func(a, b Address) int { return a.Prefix.Addr().Compare(b.Prefix.Addr()) })
	return p.want, p.violations
}

type parser struct {
	want       Want
	violations []*commonv1.Violation
	vips       map[VIP]string        // VIP -> path of the service that has it
	held       map[netip.Addr]string // address -> path of the object that has it
	names      map[string]bool       // paths seen
	tuned      map[string]string     // node -> path of the tuning that is for it; "": for all
	sync       string                // path of the synchronisation of this node
	reals      int                   // of all services
}

func (p *parser) bad(field, format string, args ...any) {
	p.violations = append(p.violations, &commonv1.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

// named checks the name and returns the object's path.
func (p *parser) named(kind, n string) string {
	path := kind + "/" + n
	if !name.MatchString(n) {
		p.bad(path+".name", "want lower-case letters, digits, -, _ and . (63 at most, a letter or digit first), got %q", n)
	}
	if p.names[path] {
		p.bad(path+".name", "used twice")
	}
	p.names[path] = true
	return path
}

func (p *parser) service(m *directorv1.VirtualService) {
	path := p.named(KindVirtualService, m.GetName())
	vip := p.vip(path, m)
	if other, taken := p.vips[vip]; taken {
		p.bad(path+vipField(vip), "%s is the VIP of %s already", vip, other)
	}
	p.vips[vip] = path
	service := Service{Name: m.GetName(), VIP: vip, Scheduler: WLC}
	if s := m.GetScheduler(); s != "" {
		service.Scheduler = Scheduler(s)
		if !slices.Contains(Schedulers, service.Scheduler) {
			p.bad(path+".scheduler", "want one of %v, got %q", Schedulers, s)
		}
	}
	p.need(path+".scheduler", service.Scheduler.Feature())
	service.Persistence = p.persistence(path+".persistence", m.GetPersistence(), vip)
	if service.OnePacket = m.GetOnePacket(); service.OnePacket {
		p.need(path+".one_packet", FeatureOnePacket)
		switch {
		case vip.Protocol != UDP:
			p.bad(path+".one_packet", "it is for UDP only")
		case service.Persistence != (Persistence{}):
			p.bad(path+".one_packet", "with persistence, datagrams stay where they were")
		}
	}
	service.Foreign = p.foreign(path+".foreign", m.GetForeign())
	if len(m.GetRealServers()) > MaxRealServers {
		p.bad(path+".real_servers", "%d real servers, at most %d are taken", len(m.GetRealServers()), MaxRealServers)
	}
	p.reals += len(m.GetRealServers())
	forward := p.forward(path, m.GetForwarding(), m.GetTunnel())
	if f := forward.feature(); f != "" {
		p.need(path+".forwarding", f)
	}
	seen := map[netip.AddrPort]int{}
	for i, r := range m.GetRealServers() {
		at := fmt.Sprintf("%s.real_servers[%d]", path, i)
		real := p.real(at, r, m, vip, forward)
		real.Weight = 1
		if r.Weight != nil {
			if r.GetWeight() > MaxWeight {
				p.bad(at+".weight", "want 0 to %d, got %d", MaxWeight, r.GetWeight())
			}
			real.Weight = int(min(r.GetWeight(), MaxWeight))
		}
		if first, twice := seen[real.Address]; twice {
			p.bad(at+".address", "%s is real_servers[%d] already", real.Address, first)
		}
		seen[real.Address] = i
		service.Reals = append(service.Reals, real)
	}
	slices.SortFunc(service.Reals, func(a, b Real) int { return a.Address.Compare(b.Address) })
	p.life(path, m, &service, forward)
	p.want.Services = append(p.want.Services, service)
}

// vip reads what connections a service takes.
func (p *parser) vip(path string, m *directorv1.VirtualService) (vip VIP) {
	if m.GetFwmark() != 0 {
		vip.Mark = m.GetFwmark()
		p.need(path+".fwmark", FeatureMark)
		switch m.GetFamily() {
		case directorv1.Family_FAMILY_UNSPECIFIED, directorv1.Family_FAMILY_IPV4:
		case directorv1.Family_FAMILY_IPV6:
			vip.Mark6 = true
			p.need(path+".family", FeatureIPv6)
		default:
			p.bad(path+".family", "want IPv4 or IPv6, got %s", m.GetFamily())
		}
		const whole = "a service by fwmark takes what has the mark"
		if m.GetAddress() != "" {
			p.bad(path+".address", whole)
		}
		if m.GetPort() != 0 {
			p.bad(path+".port", whole)
		}
		if m.GetProtocol() != directorv1.Protocol_PROTOCOL_UNSPECIFIED {
			p.bad(path+".protocol", whole)
		}
		return vip
	}
	if m.GetFamily() != directorv1.Family_FAMILY_UNSPECIFIED {
		p.bad(path+".family", "the address tells it; say it with fwmark only")
	}
	vip.AddrPort = netip.AddrPortFrom(p.host(path+".address", m.GetAddress()), p.port(path+".port", m.GetPort()))
	if vip.Is6() {
		p.need(path+".address", FeatureIPv6)
	}
	switch m.GetProtocol() {
	case directorv1.Protocol_PROTOCOL_UNSPECIFIED, directorv1.Protocol_PROTOCOL_TCP:
	case directorv1.Protocol_PROTOCOL_UDP:
		vip.Protocol = UDP
		p.need(path+".protocol", FeatureUDP)
	default:
		p.bad(path+".protocol", "want PROTOCOL_TCP or PROTOCOL_UDP, got %s", m.GetProtocol())
	}
	return vip
}

// vipField is the field that names a service.
func vipField(vip VIP) string {
	if vip.Mark != 0 {
		return ".fwmark"
	}
	return ".address"
}

// real reads a real server, or a sorry server, but for its weight.
func (p *parser) real(at string, r *directorv1.RealServer, m *directorv1.VirtualService, vip VIP, forward Forward) Real {
	if r.GetForwarding() != directorv1.Forwarding_FORWARDING_UNSPECIFIED || r.GetTunnel() != nil {
		method, tunnel := r.GetForwarding(), r.GetTunnel()
		if method == directorv1.Forwarding_FORWARDING_UNSPECIFIED {
			method = m.GetForwarding()
		}
		if tunnel == nil && method == directorv1.Forwarding_FORWARDING_TUNNEL {
			tunnel = m.GetTunnel()
		}
		forward = p.forward(at, method, tunnel)
		if f := forward.feature(); f != "" {
			p.need(at+".forwarding", f)
		}
	}
	port := vip.Port()
	if r.GetPort() != 0 {
		port = p.port(at+".port", r.GetPort())
		if forward.Method != Masquerade && port != vip.Port() {
			p.bad(at+".port", "without masquerading the port stays the one that the client asked for")
		}
	}
	real := Real{Address: netip.AddrPortFrom(p.host(at+".address", r.GetAddress()), port), Forward: forward, Upper: r.GetUpperThreshold(), Lower: r.GetLowerThreshold()}
	if a := real.Address.Addr(); a.IsValid() && (vip.Mark != 0 || vip.Addr().IsValid()) && a.Is6() != vip.Is6() {
		if forward.Method != ByTunnel {
			p.bad(at+".address", "%s is of another family than the VIP: that is possible by a tunnel only", a)
		}
		p.need(at+".address", FeatureMixedFamilies)
	}
	if vip.IsValid() && vip.Mark == 0 && real.Address == vip.AddrPort {
		p.bad(at+".address", "%s is the VIP itself", vip)
	}
	if real.Upper != 0 {
		p.need(at+".upper_threshold", FeatureThresholds)
	}
	if real.Lower > real.Upper {
		p.bad(at+".lower_threshold", "want at most the upper_threshold %d, got %d", real.Upper, real.Lower)
	}
	return real
}

// MaxPersistence is the longest time that a client is remembered, MinPersistence the shortest.
const (
	MinPersistence     = time.Second
	DefaultPersistence = 5 * time.Minute
	MaxPersistence     = 24 * time.Hour
)

func (p *parser) persistence(path string, m *directorv1.Persistence, vip VIP) Persistence {
	if m == nil {
		return Persistence{}
	}
	p.need(path, FeaturePersistence)
	timeout := p.duration(path+".timeout", m.GetTimeout(), DefaultPersistence, MinPersistence, MaxPersistence)
	if timeout%time.Second != 0 {
		p.bad(path+".timeout", "want whole seconds, got %s", timeout)
	}
	bits := 32
	if vip.Is6() {
		bits = 128
	}
	return Persistence{Timeout: timeout, Prefix: p.number(path+".prefix", m.GetPrefix(), bits, 1, bits)}
}

func (p *parser) foreign(path string, f directorv1.Foreign) Foreign {
	switch f {
	case directorv1.Foreign_FOREIGN_UNSPECIFIED, directorv1.Foreign_FOREIGN_ADOPT:
		return Adopt
	case directorv1.Foreign_FOREIGN_IGNORE:
		return Ignore
	case directorv1.Foreign_FOREIGN_REFUSE:
		return RefuseForeign
	}
	p.bad(path, "want adopt, ignore or refuse, got %s", f)
	return Adopt
}

// need notes a field that needs a feature.
func (p *parser) need(field string, f Feature) {
	p.want.Needs = append(p.want.Needs, Need{field, f})
}

func (p *parser) address(m *directorv1.Address, node string) {
	path := p.named(KindAddress, m.GetName())
	prefix, err := netip.ParsePrefix(m.GetPrefix())
	if err != nil || !prefix.Addr().Is4() || !Usable(prefix.Addr()) || prefix.Bits() < 8 {
		p.bad(path+".prefix", "want an IPv4 address with the length of its subnet, 8 to 32, such as 192.168.60.99/24, got %q", m.GetPrefix())
		return
	}
	if prefix.Bits() < 31 && prefix.Addr() == prefix.Masked().Addr() {
		p.bad(path+".prefix", "%s is the subnet itself, not an address in it", m.GetPrefix())
	}
	if other, taken := p.held[prefix.Addr()]; taken {
		p.bad(path+".prefix", "%s is the address of %s already", prefix.Addr(), other)
	}
	p.held[prefix.Addr()] = path
	if p.nodes(path, m.GetNodes(), node) {
		p.want.Addresses = append(p.want.Addresses, Address{Prefix: prefix})
	}
}

// nodes tells whether an object for those nodes is for this one.
func (p *parser) nodes(path string, nodes []string, node string) bool {
	for i, n := range nodes {
		if strings.TrimSpace(n) == "" {
			p.bad(fmt.Sprintf("%s.nodes[%d]", path, i), "want the name of a node, got an empty one")
		}
	}
	return len(nodes) == 0 || slices.Contains(nodes, node)
}

func (p *parser) host(field, s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil || !Usable(addr) {
		p.bad(field, "want an address of a host, such as 10.10.60.22 or 2001:db8::22, got %q", s)
		return netip.Addr{}
	}
	return addr
}

func (p *parser) port(field string, n uint32) uint16 {
	if n < 1 || n > 65535 {
		p.bad(field, "want 1 to 65535, got %d", n)
		return 0
	}
	return uint16(n)
}

// Usable tells whether an address can belong to a host on a network and be reached from another network: neither an IPv4 address in
// the clothes of IPv6 nor one that is valid on one link only.
func Usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255}) &&
		!a.Is4In6() && a.Zone() == "" && (a.Is4() || !a.IsLinkLocalUnicast())
}
