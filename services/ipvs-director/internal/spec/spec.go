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
)

// Bounds that keep one pass and one kernel transaction small.
const (
	// MaxServices is the most virtual services one director takes.
	MaxServices = 256
	// MaxRealServers is the most real servers one virtual service takes.
	MaxRealServers = 256
	// MaxAllRealServers is the most real servers of all virtual services together: each pass reads every one of them
	// from the kernel.
	MaxAllRealServers = 4096
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
)

// Schedulers are all that can be asked for, in the order in which they are told to people.
var Schedulers = []Scheduler{RR, WRR, LC, WLC, SH, MH}

// Weighs tells whether the scheduler looks at weights above 0; rr and lc tell 0 from the rest only.
func (s Scheduler) Weighs() bool { return s != RR && s != LC }

// Want is the whole desired state of one director.
type Want struct {
	// Services in the order of VIP.
	Services []Service
	// Addresses that this node shall hold, in the order of the address. Those of other nodes are left out.
	Addresses []Address
	// Drains are the real servers that get no new connections, and why, for people.
	Drains map[Drain]string
}

// Drain names a real server of a service.
type Drain struct {
	// Service is the name of the service.
	Service string
	// Real is the address of the real server.
	Real netip.AddrPort
}

// Service is one virtual TCP service with LVS-NAT forwarding.
type Service struct {
	// Name of the object that asks for it.
	Name string
	// VIP is the address and port that clients connect to, IPv4.
	VIP netip.AddrPort
	// Scheduler chooses the real server.
	Scheduler Scheduler
	// Reals are the real servers in the order of address and port.
	Reals []Real
	// Check tells the living from the dead; the zero value checks nothing.
	Check Check
	// Panic is the share of living real servers in per cent below which health is ignored; 0: never.
	Panic int
	// Quorum is the weight of living real servers that is needed, at least 1, and Hysteresis how far above it comes back and
	// below it is lost.
	Quorum, Hysteresis int
	// Sorry takes the connections while the quorum is not met; the zero value: nobody does.
	Sorry netip.AddrPort
	// DrainTimeout is how long connections to a real server that is not wanted any more are waited for.
	DrainTimeout time.Duration
	// ResetAfterDrain cuts those that are left then.
	ResetAfterDrain bool
}

// Real is one real server of a service.
type Real struct {
	// Address is where the real server listens, IPv4.
	Address netip.AddrPort
	// Weight is its share of new connections, 0 to MaxWeight; 0 = drain.
	Weight int
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
	p := parser{vips: map[netip.AddrPort]string{}, held: map[netip.Addr]string{}, names: map[string]bool{}}
	var drains []*directorv1.Drain
	for _, m := range messages {
		switch m := m.(type) {
		case *directorv1.VirtualService:
			p.service(m)
		case *directorv1.Address:
			p.address(m, node)
		case *directorv1.Drain:
			drains = append(drains, m)
		default:
			p.bad(string(m.ProtoReflect().Descriptor().Name()), "not an object of the director")
		}
	}
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
	vips       map[netip.AddrPort]string // VIP -> path of the service that has it
	held       map[netip.Addr]string     // address -> path of the object that has it
	names      map[string]bool           // paths seen
	reals      int                       // of all services
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
	vip := netip.AddrPortFrom(p.ipv4(path+".address", m.GetAddress()), p.port(path+".port", m.GetPort()))
	if other, taken := p.vips[vip]; taken {
		p.bad(path+".address", "%s is the VIP of %s already", vip, other)
	}
	p.vips[vip] = path
	switch m.GetProtocol() {
	case directorv1.Protocol_PROTOCOL_UNSPECIFIED, directorv1.Protocol_PROTOCOL_TCP:
	default:
		p.bad(path+".protocol", "want PROTOCOL_TCP, got %s", m.GetProtocol())
	}
	switch m.GetForwarding() {
	case directorv1.Forwarding_FORWARDING_UNSPECIFIED, directorv1.Forwarding_FORWARDING_MASQUERADE:
	default:
		p.bad(path+".forwarding", "want FORWARDING_MASQUERADE, got %s", m.GetForwarding())
	}
	service := Service{Name: m.GetName(), VIP: vip, Scheduler: WLC}
	if s := m.GetScheduler(); s != "" {
		service.Scheduler = Scheduler(s)
		if !slices.Contains(Schedulers, service.Scheduler) {
			p.bad(path+".scheduler", "want one of %v, got %q", Schedulers, s)
		}
	}
	if len(m.GetRealServers()) > MaxRealServers {
		p.bad(path+".real_servers", "%d real servers, at most %d are taken", len(m.GetRealServers()), MaxRealServers)
	}
	p.reals += len(m.GetRealServers())
	seen := map[netip.AddrPort]int{}
	for i, r := range m.GetRealServers() {
		at := fmt.Sprintf("%s.real_servers[%d]", path, i)
		port := vip.Port()
		if r.GetPort() != 0 {
			port = p.port(at+".port", r.GetPort())
		}
		real := Real{Address: netip.AddrPortFrom(p.ipv4(at+".address", r.GetAddress()), port), Weight: 1}
		if r.Weight != nil {
			if r.GetWeight() > MaxWeight {
				p.bad(at+".weight", "want 0 to %d, got %d", MaxWeight, r.GetWeight())
			}
			real.Weight = int(min(r.GetWeight(), MaxWeight))
		}
		if first, twice := seen[real.Address]; twice {
			p.bad(at+".address", "%s is real_servers[%d] already", real.Address, first)
		}
		if real.Address == vip {
			p.bad(at+".address", "%s is the VIP itself", vip)
		}
		seen[real.Address] = i
		service.Reals = append(service.Reals, real)
	}
	slices.SortFunc(service.Reals, func(a, b Real) int { return a.Address.Compare(b.Address) })
	p.life(path, m, &service)
	p.want.Services = append(p.want.Services, service)
}

func (p *parser) address(m *directorv1.Address, node string) {
	path := p.named(KindAddress, m.GetName())
	prefix, err := netip.ParsePrefix(m.GetPrefix())
	if err != nil || !Usable(prefix.Addr()) || prefix.Bits() < 8 {
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
	for i, n := range m.GetNodes() {
		if strings.TrimSpace(n) == "" {
			p.bad(fmt.Sprintf("%s.nodes[%d]", path, i), "want the name of a node, got an empty one")
		}
	}
	if len(m.GetNodes()) == 0 || slices.Contains(m.GetNodes(), node) {
		p.want.Addresses = append(p.want.Addresses, Address{Prefix: prefix})
	}
}

func (p *parser) ipv4(field, s string) netip.Addr {
	addr, err := netip.ParseAddr(s)
	if err != nil || !Usable(addr) {
		p.bad(field, "want an IPv4 address of a host, such as 10.10.60.22, got %q", s)
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

// Usable tells whether an address can belong to a host on a network card.
func Usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
