package ipvsmsg

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"
)

const (
	// Name of IPVS among the generic netlink families (IPVS_GENL_NAME).
	Name = "IPVS"
	// Controller is the family that knows the numbers of the others (GENL_ID_CTRL).
	Controller = 0x10
	// Version of the messages of IPVS (IPVS_GENL_VERSION).
	Version = 1
)

// The commands of IPVS (IPVS_CMD_…).
const (
	newService        = 1
	NewDestination    = 5
	SetDestination    = 6
	DeleteDestination = 7
	NewDaemon         = 9
	DeleteDaemon      = 10
	setConfiguration  = 12
	getService        = 4
	getDestination    = 8
	getDaemon         = 11
	getConfiguration  = 13
)

// Family of an address (AF_INET, AF_INET6).
type Family uint16

// The families of addresses.
const (
	IPv4 Family = 2
	IPv6 Family = 10
)

// FamilyOf tells the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is4() {
		return IPv4
	}
	return IPv6
}

// Service is one virtual service as the kernel has it.
type Service struct {
	// Family of the addresses of its clients.
	Family Family
	// Protocol is IPPROTO_TCP, IPPROTO_UDP or IPPROTO_SCTP; 0 with a Mark.
	Protocol uint16
	// VIP that clients send to; the zero value with a Mark. Port 0 is all ports.
	VIP netip.AddrPort
	// Mark is the firewall mark of the packets that it takes instead; 0: none.
	Mark uint32
	// Scheduler by its name; empty: none.
	Scheduler string
	// Flags are IP_VS_SVC_F_….
	Flags uint32
	// Timeout of persistence, in seconds.
	Timeout uint32
	// PrefixLength of the clients' network that persistence takes for one client.
	PrefixLength int
	// Engine of persistence by its name; empty: none.
	Engine string
	// Statistics of the service.
	Statistics Statistics
}

// Destination is one real server of a service as the kernel has it.
type Destination struct {
	// Address of the real server, of a family of its own.
	Address netip.AddrPort
	// Forwarding method.
	Forwarding Forwarding
	// Weight of the real server.
	Weight uint32
	// Upper and Lower are the connections at which it gets no more, and below which it gets some again; 0: no limit.
	Upper, Lower uint32
	// Tunnel is how packets are wrapped when they are tunnelled.
	Tunnel Tunnel
	// Active, Inactive and Persistent are the connections at present, and the templates of persistence.
	Active, Inactive, Persistent uint32
	// Statistics of the real server.
	Statistics Statistics
}

// Forwarding is how packets reach a real server (IP_VS_CONN_F_FWD_MASK).
type Forwarding uint32

// The forwarding methods.
const (
	Masquerade Forwarding = 0
	Local      Forwarding = 1
	Tunnelled  Forwarding = 2
	Direct     Forwarding = 3

	forwardingMask = 7
)

// Tunnel is how packets are wrapped.
type Tunnel struct {
	Kind TunnelKind
	// Port of GUE.
	Port uint16
	// Flags of GUE and GRE.
	Flags TunnelFlags
}

// TunnelKind is a kind of tunnel (IP_VS_CONN_F_TUNNEL_TYPE_…).
type TunnelKind uint8

// The kinds of tunnels.
const (
	IPIP TunnelKind = iota
	GUE
	GRE
)

// TunnelFlags say what is in the outer header (IP_VS_TUNNEL_ENCAP_FLAG_…).
type TunnelFlags uint16

// The flags of tunnels.
const (
	// Checksum: there is a checksum.
	Checksum TunnelFlags = 1
	// RemoteChecksum: the far end makes the inner checksum.
	RemoteChecksum TunnelFlags = 2
)

// Statistics are the counters of a service or a real server since it was made. The kernel adds them up every two seconds.
type Statistics struct {
	Connections, PacketsIn, PacketsOut, BytesIn, BytesOut uint64
}

// Timeouts of connections, in seconds. To set them, 0 is: as it is.
type Timeouts struct {
	// TCP is for established connections, TCPFin for those that a FIN has come from, UDP since the last datagram.
	TCP, TCPFin, UDP uint32
}

// DaemonState tells the two daemons of synchronisation apart (IP_VS_STATE_…).
type DaemonState uint32

// The two daemons.
const (
	// Master sends the connections of this director.
	Master DaemonState = 1
	// Backup takes those of others.
	Backup DaemonState = 2
)

// Daemon is a daemon of the kernel that tells other directors of connections, or listens to them.
type Daemon struct {
	State DaemonState
	// Interface whose network the others are on.
	Interface string
	// ID of the group, 0 to 255; a backup hears its own only, and with 0 all.
	ID uint32
	// MaxLength of a message in bytes; 0: as the interface lets.
	MaxLength uint16
	// Group is the multicast address that is sent to; the zero value: 224.0.0.81.
	Group netip.Addr
	// Port is sent to; 0: 8848.
	Port uint16
	// TTL of what is sent; 0: 1.
	TTL uint8
}

// AskFamily asks for the number of IPVS (CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME).
func AskFamily() Request {
	return Request{Family: Controller, Command: 3, Version: 1, Attributes: attributes(nil).text(2, Name)}
}

// ParseFamily reads the number of a family (CTRL_ATTR_FAMILY_ID).
func ParseFamily(message []byte) (number uint16, err error) {
	err = each(message, func(kind uint16, v value) error {
		if kind == 1 {
			return into(v, &number)
		}
		return nil
	})
	if err == nil && number < firstFamily {
		err = fmt.Errorf("%w: family number %d", ErrMalformed, number)
	}
	return number, err
}

// The attributes of the first level (IPVS_CMD_ATTR_…).
const (
	attrService     = 1
	attrDestination = 2
	attrDaemon      = 3
	attrTimeoutTCP  = 4
	attrTimeoutFin  = 5
	attrTimeoutUDP  = 6
)

// AskServices asks for all services; family is the number of IPVS, here and below.
func AskServices(family uint16) Request {
	return Request{Family: family, Command: getService, Version: Version, List: true}
}

// AskScheduler asks whether the kernel has a scheduler, by a service that it refuses for its netmask once it has found the
// scheduler (ip_vs_add_service): it answers ENOENT when there is none, and EINVAL when there is. EAFNOSUPPORT: its IPVS knows
// no IPv6, and nothing is said about the scheduler.
func AskScheduler(family uint16, scheduler string) Request {
	a := attributes(nil).
		u16(serviceFamily, uint16(IPv6)).u16(serviceProtocol, 6).address(serviceAddress, netip.IPv6Loopback()).be16(servicePort, 1).
		text(serviceScheduler, scheduler).bytes(serviceFlags, make([]byte, 8)).u32(serviceTimeout, 0).u32(serviceNetmask, 0)
	return Request{Family: family, Command: newService, Version: Version, Attributes: attributes(nil).bytes(attrService, a)}
}

// AskDestinations asks for all real servers of a service. The kernel answers with none when there is no such service.
func AskDestinations(family uint16, of Service) Request {
	return Request{Family: family, Command: getDestination, Version: Version, List: true, Attributes: of.identity()}
}

// ChangeDestination orders NewDestination, SetDestination or DeleteDestination of a service.
func ChangeDestination(family uint16, command uint8, of Service, d Destination) Request {
	return Request{Family: family, Command: command, Version: Version, Attributes: attributes(of.identity()).bytes(attrDestination, d.encode())}
}

// AskTimeouts asks for the timeouts.
func AskTimeouts(family uint16) Request {
	return Request{Family: family, Command: getConfiguration, Version: Version}
}

// SetTimeouts orders the timeouts.
func SetTimeouts(family uint16, t Timeouts) Request {
	return Request{Family: family, Command: setConfiguration, Version: Version,
		Attributes: attributes(nil).u32(attrTimeoutTCP, t.TCP).u32(attrTimeoutFin, t.TCPFin).u32(attrTimeoutUDP, t.UDP)}
}

// AskDaemons asks for the daemons that run.
func AskDaemons(family uint16) Request {
	return Request{Family: family, Command: getDaemon, Version: Version, List: true}
}

// ChangeDaemon orders NewDaemon or DeleteDaemon.
func ChangeDaemon(family uint16, command uint8, d Daemon) Request {
	return Request{Family: family, Command: command, Version: Version, Attributes: attributes(nil).bytes(attrDaemon, d.encode())}
}

// The attributes of a service (IPVS_SVC_ATTR_…).
const (
	serviceFamily    = 1
	serviceProtocol  = 2
	serviceAddress   = 3
	servicePort      = 4
	serviceMark      = 5
	serviceScheduler = 6
	serviceFlags     = 7
	serviceTimeout   = 8
	serviceNetmask   = 9
	serviceEngine    = 11
	serviceStats64   = 12
)

// identity is what the kernel finds a service by.
func (s Service) identity() []byte {
	a := attributes(nil).u16(serviceFamily, uint16(s.Family))
	if s.Mark != 0 {
		a = a.u32(serviceMark, s.Mark)
	} else {
		a = a.u16(serviceProtocol, s.Protocol).address(serviceAddress, s.VIP.Addr()).be16(servicePort, s.VIP.Port())
	}
	return attributes(nil).bytes(attrService, a)
}

// ParseService reads one message of the answer to AskServices.
func ParseService(message []byte) (s Service, err error) {
	var address, netmask value
	var port uint16
	err = nested(message, attrService, func(kind uint16, v value) error {
		switch kind {
		case serviceFamily:
			return into(v, (*uint16)(&s.Family))
		case serviceProtocol:
			return into(v, &s.Protocol)
		case serviceAddress:
			address = v
		case servicePort:
			return v.port(&port)
		case serviceMark:
			return into(v, &s.Mark)
		case serviceScheduler:
			return v.text(&s.Scheduler)
		case serviceFlags: // struct ip_vs_flags: the flags, then which of them count
			if len(v) != 8 {
				return fmt.Errorf("%w: flags of %d bytes", ErrMalformed, len(v))
			}
			s.Flags = binary.NativeEndian.Uint32(v)
		case serviceTimeout:
			return into(v, &s.Timeout)
		case serviceNetmask:
			netmask = v
		case serviceEngine:
			return v.text(&s.Engine)
		case serviceStats64:
			return s.Statistics.parse(v)
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	if s.Family != IPv4 && s.Family != IPv6 {
		return s, fmt.Errorf("%w: a service of the family %d", ErrMalformed, s.Family)
	}
	if s.PrefixLength, err = netmask.prefixLength(s.Family); err != nil {
		return s, err
	}
	if s.Mark == 0 {
		ip, err := address.address(s.Family)
		if err != nil {
			return s, err
		}
		s.VIP = netip.AddrPortFrom(ip, port)
	}
	return s, nil
}

// prefixLength reads a netmask: a mask for IPv4, of which the ones count, and a length for IPv6.
func (v value) prefixLength(family Family) (int, error) {
	if len(v) != 4 {
		return 0, fmt.Errorf("%w: a netmask of %d bytes", ErrMalformed, len(v))
	}
	if family == IPv4 {
		return bits.OnesCount32(binary.BigEndian.Uint32(v)), nil
	}
	length := binary.NativeEndian.Uint32(v)
	if length > 128 {
		return 0, fmt.Errorf("%w: a prefix of %d bits", ErrMalformed, length)
	}
	return int(length), nil
}

// The attributes of a real server (IPVS_DEST_ATTR_…).
const (
	destinationAddress     = 1
	destinationPort        = 2
	destinationForwarding  = 3
	destinationWeight      = 4
	destinationUpper       = 5
	destinationLower       = 6
	destinationActive      = 7
	destinationInactive    = 8
	destinationPersistent  = 9
	destinationFamily      = 11
	destinationStats64     = 12
	destinationTunnelKind  = 13
	destinationTunnelPort  = 14
	destinationTunnelFlags = 15
)

func (d Destination) encode() []byte {
	return attributes(nil).
		address(destinationAddress, d.Address.Addr()).
		be16(destinationPort, d.Address.Port()).
		u16(destinationFamily, uint16(FamilyOf(d.Address.Addr()))).
		u32(destinationForwarding, uint32(d.Forwarding)).
		u32(destinationWeight, d.Weight).
		u32(destinationUpper, d.Upper).
		u32(destinationLower, d.Lower).
		u8(destinationTunnelKind, uint8(d.Tunnel.Kind)).
		be16(destinationTunnelPort, d.Tunnel.Port).
		u16(destinationTunnelFlags, uint16(d.Tunnel.Flags))
}

// ParseDestination reads one message of the answer to AskDestinations.
func ParseDestination(message []byte) (d Destination, err error) {
	var address value
	var family Family
	var port uint16
	err = nested(message, attrDestination, func(kind uint16, v value) error {
		switch kind {
		case destinationAddress:
			address = v
		case destinationPort:
			return v.port(&port)
		case destinationFamily:
			return into(v, (*uint16)(&family))
		case destinationForwarding:
			err := into(v, (*uint32)(&d.Forwarding))
			d.Forwarding &= forwardingMask // the rest is about each connection
			return err
		case destinationWeight:
			return into(v, &d.Weight)
		case destinationUpper:
			return into(v, &d.Upper)
		case destinationLower:
			return into(v, &d.Lower)
		case destinationActive:
			return into(v, &d.Active)
		case destinationInactive:
			return into(v, &d.Inactive)
		case destinationPersistent:
			return into(v, &d.Persistent)
		case destinationStats64:
			return d.Statistics.parse(v)
		case destinationTunnelKind:
			return into(v, (*uint8)(&d.Tunnel.Kind))
		case destinationTunnelPort:
			return v.port(&d.Tunnel.Port)
		case destinationTunnelFlags:
			return into(v, (*uint16)(&d.Tunnel.Flags))
		}
		return nil
	})
	if err != nil {
		return d, err
	}
	ip, err := address.address(family)
	d.Address = netip.AddrPortFrom(ip, port)
	return d, err
}

// parse reads what is nested in an attribute STATS64 (IPVS_STATS_ATTR_…, all of them 64 bits wide there).
func (s *Statistics) parse(v value) error {
	fields := [...]*uint64{1: &s.Connections, &s.PacketsIn, &s.PacketsOut, &s.BytesIn, &s.BytesOut}
	return each(v, func(kind uint16, v value) error {
		if kind == 0 || int(kind) >= len(fields) { // behind are rates, as the kernel reckons them
			return nil
		}
		return into(v, fields[kind])
	})
}

// ParseTimeouts reads the answer to AskTimeouts.
func ParseTimeouts(message []byte) (t Timeouts, err error) {
	seen := 0
	err = each(message, func(kind uint16, v value) error {
		seen++
		switch kind {
		case attrTimeoutTCP:
			return into(v, &t.TCP)
		case attrTimeoutFin:
			return into(v, &t.TCPFin)
		case attrTimeoutUDP:
			return into(v, &t.UDP)
		}
		seen--
		return nil
	})
	if err == nil && seen == 0 { // a kernel may leave out UDP, if it is built without
		err = fmt.Errorf("%w: no timeouts", ErrMalformed)
	}
	return t, err
}

// The attributes of a daemon (IPVS_DAEMON_ATTR_…).
const (
	daemonState     = 1
	daemonInterface = 2
	daemonID        = 3
	daemonMaxLength = 4
	daemonGroup     = 5
	daemonGroup6    = 6
	daemonPort      = 7
	daemonTTL       = 8
)

func (d Daemon) encode() []byte {
	a := attributes(nil).u32(daemonState, uint32(d.State)).text(daemonInterface, d.Interface).u32(daemonID, d.ID)
	if d.MaxLength != 0 {
		a = a.u16(daemonMaxLength, d.MaxLength)
	}
	switch {
	case d.Group.Is4():
		a = a.bytes(daemonGroup, d.Group.AsSlice())
	case d.Group.Is6():
		a = a.bytes(daemonGroup6, d.Group.AsSlice())
	}
	if d.Port != 0 {
		a = a.u16(daemonPort, d.Port)
	}
	if d.TTL != 0 {
		a = a.u8(daemonTTL, d.TTL)
	}
	return a
}

// ParseDaemon reads one message of the answer to AskDaemons.
func ParseDaemon(message []byte) (d Daemon, err error) {
	err = nested(message, attrDaemon, func(kind uint16, v value) error {
		switch kind {
		case daemonState:
			return into(v, (*uint32)(&d.State))
		case daemonInterface:
			return v.text(&d.Interface)
		case daemonID:
			return into(v, &d.ID)
		case daemonMaxLength:
			return into(v, &d.MaxLength)
		case daemonGroup, daemonGroup6:
			group, ok := netip.AddrFromSlice(v)
			if !ok {
				return fmt.Errorf("%w: a group of %d bytes", ErrMalformed, len(v))
			}
			d.Group = group
		case daemonPort:
			return into(v, &d.Port)
		case daemonTTL:
			return into(v, &d.TTL)
		}
		return nil
	})
	if err == nil && d.State != Master && d.State != Backup {
		err = fmt.Errorf("%w: a daemon in the state %d", ErrMalformed, d.State)
	}
	return d, err
}

// nested reads the attributes within the one of that kind, which there must be.
func nested(message []byte, outer uint16, take func(kind uint16, v value) error) error {
	found := false
	err := each(message, func(kind uint16, v value) error {
		if kind != outer {
			return nil
		}
		found = true
		return each(v, take)
	})
	if err == nil && !found {
		err = fmt.Errorf("%w: attribute %d is missing", ErrMalformed, outer)
	}
	return err
}
