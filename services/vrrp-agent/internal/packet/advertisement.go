// Package packet answers: which bytes is a VRRPv2 advertisement, and which advertisement are these bytes?
//
// It also holds the gratuitous ARP frame, the other packet that an agent sends. The package is pure: bytes in, values
// out.
package packet

import (
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	// Protocol is VRRP's IP protocol number (RFC 3768, section 5.2.4).
	Protocol = 112
	// TTL is the only time to live that a receiver accepts: no router has passed the packet on (RFC 3768, section 5.2.3).
	TTL = 255
	// TypeOfService marks adverts as internetwork control (precedence 6, RFC 791, section 3.1), as keepalived does.
	TypeOfService = 0xc0
	// PriorityStop says that the master has given up the addresses (RFC 3768, section 5.3.4).
	PriorityStop = 0

	version           = 2 // RFC 3768, section 5.3.1
	typeAdvertisement = 1 // RFC 3768, section 5.3.2

	headerLength       = 8 // version to checksum; RFC 3768, section 5.1
	addressLength      = 4
	authenticationData = 8 // always there, zero without a password; RFC 2338, section 5.3.10

	checksumAt = 6
)

// group is where adverts are sent (RFC 3768, section 5.2.2).
var group = [4]byte{224, 0, 0, 18}

// Group returns the multicast address that adverts are sent to, 224.0.0.18 (RFC 3768, section 5.2.2).
func Group() netip.Addr { return netip.AddrFrom4(group) }

// Authentication is what proves an advert to be of our instance. The zero value is authentication type 0, none.
type Authentication struct {
	kind byte
	data [authenticationData]byte
}

// Authentication types (RFC 2338, section 5.3.6).
const (
	authenticationNone   = 0
	authenticationSimple = 1
)

// SimplePassword returns authentication type 1 of RFC 2338, section 5.3.6 (keepalived: auth_type PASS). Only the first
// 8 bytes of the password count; a shorter one is padded with zeros.
func SimplePassword(password []byte) Authentication {
	a := Authentication{kind: authenticationSimple}
	copy(a.data[:], password)
	return a
}

// Advertisement is a VRRPv2 advert.
type Advertisement struct {
	// VirtualRouterID tells the instances of one network apart, 1 to 255.
	VirtualRouterID uint8
	// Priority of the sender, 1 to 255, or PriorityStop.
	Priority uint8
	// Interval between two adverts of the sender: whole seconds, 1 s to 255 s.
	Interval time.Duration
	// Addresses that the instance stands for, IPv4, at most 255.
	Addresses []netip.Addr
}

// Append appends the advert to b: the payload of the IP packet. The kernel writes the IP header.
func (a Advertisement) Append(b []byte, auth Authentication) []byte {
	start := len(b)
	b = append(b, version<<4|typeAdvertisement, a.VirtualRouterID, a.Priority, byte(len(a.Addresses)),
		auth.kind, byte(a.Interval/time.Second), 0, 0)
	for _, address := range a.Addresses {
		raw := address.As4()
		b = append(b, raw[:]...)
	}
	b = append(b, auth.data[:]...)
	binary.BigEndian.PutUint16(b[start+checksumAt:], checksum(b[start:]))
	return b
}

// checksum is the Internet checksum over the whole message, authentication data included, without a pseudo-header
// (RFC 3768, section 5.3.8). Over a message that carries its checksum it is 0.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
