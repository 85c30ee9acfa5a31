package spec

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Protocol of a service. The zero value is TCP.
type Protocol uint8

// The protocols.
const (
	TCP Protocol = iota
	UDP
)

func (p Protocol) String() string {
	if p == UDP {
		return "udp"
	}
	return "tcp"
}

// VIP names a virtual service: what connections it takes. It can be compared. The zero value names none; one with nothing but
// an address and a port takes TCP.
type VIP struct {
	// AddrPort is the address and port that clients connect to; the zero value with a mark.
	netip.AddrPort
	// Protocol of the connections; TCP, and of no meaning, with a mark.
	Protocol Protocol
	// Mark of the packets that it takes instead; 0: none.
	Mark uint32
	// Mark6: a service by mark is for IPv6.
	Mark6 bool
}

const (
	markPrefix = "fwmark:"
	markSuffix = "/ipv6"
	udpSuffix  = "/udp"
)

// Is6 tells whether the service is for IPv6.
func (v VIP) Is6() bool { return v.Mark6 || v.Addr().Is6() }

// IsValid tells whether it names a service.
func (v VIP) IsValid() bool { return v.Mark != 0 || v.AddrPort.IsValid() }

// String is how people and files read it: 10.10.60.22:80, 10.10.60.22:53/udp, fwmark:7, fwmark:7/ipv6. It holds no spaces.
func (v VIP) String() string {
	switch {
	case v.Mark != 0 && v.Mark6:
		return markPrefix + strconv.FormatUint(uint64(v.Mark), 10) + markSuffix
	case v.Mark != 0:
		return markPrefix + strconv.FormatUint(uint64(v.Mark), 10)
	case v.Protocol == UDP:
		return v.AddrPort.String() + udpSuffix
	}
	return v.AddrPort.String()
}

// ParseVIP reads what String writes.
func ParseVIP(s string) (v VIP, err error) {
	if mark, ok := strings.CutPrefix(s, markPrefix); ok {
		mark, v.Mark6 = strings.CutSuffix(mark, markSuffix)
		n, err := strconv.ParseUint(mark, 10, 32)
		if err != nil || n == 0 {
			return VIP{}, fmt.Errorf("want fwmark:MARK or fwmark:MARK/ipv6, got %q", s)
		}
		v.Mark = uint32(n)
		return v, nil
	}
	address, udp := strings.CutSuffix(s, udpSuffix)
	if udp {
		v.Protocol = UDP
	}
	if v.AddrPort, err = netip.ParseAddrPort(address); err != nil {
		return VIP{}, fmt.Errorf("want ADDRESS:PORT, ADDRESS:PORT/udp or fwmark:MARK, got %q", s)
	}
	return v, nil
}

// MustParseVIP is ParseVIP for texts that are known to be right.
func MustParseVIP(s string) VIP {
	v, err := ParseVIP(s)
	if err != nil {
		panic(err)
	}
	return v
}

// MarshalText makes keys of what is kept in files.
func (v VIP) MarshalText() ([]byte, error) { return []byte(v.String()), nil }

// UnmarshalText reads what MarshalText has made.
func (v *VIP) UnmarshalText(text []byte) (err error) {
	*v, err = ParseVIP(string(text))
	return err
}

// Compare orders services by address, port, protocol and mark.
func (v VIP) Compare(o VIP) int {
	family := func(v VIP) int {
		if v.Is6() {
			return 1
		}
		return 0
	}
	return cmp.Or(v.AddrPort.Compare(o.AddrPort), cmp.Compare(v.Protocol, o.Protocol), cmp.Compare(v.Mark, o.Mark), cmp.Compare(family(v), family(o)))
}
