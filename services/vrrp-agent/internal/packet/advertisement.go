// Package packet answers: which bytes is a VRRP advertisement, and which advertisement are these bytes?
//
// It speaks version 2 on IPv4 and version 3 on both families. It also holds the frames that tell a network where an address
// is, gratuitous ARP and the neighbor advertisement of IPv6. The package is pure: bytes in, values out.
package packet

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"time"
)

const (
	// Protocol is VRRP's IP protocol number (RFC 3768, section 5.2.4).
	Protocol = 112
	// TTL is the only time to live, or hop limit, that a receiver accepts: no router has passed the packet on (RFC 3768,
	// section 5.2.3; RFC 9568, section 5.1.2.3).
	TTL = 255
	// TypeOfService marks adverts as internetwork control (precedence 6, RFC 791, section 3.1), as keepalived does.
	TypeOfService = 0xc0
	// PriorityStop says that the master has given up the addresses (RFC 3768, section 5.3.4).
	PriorityStop = 0

	typeAdvertisement = 1 // RFC 3768, section 5.3.2

	headerLength       = 8 // version to checksum; RFC 3768, section 5.1; RFC 5798, section 5.1
	authenticationData = 8 // in V2 always there, zero without a password; RFC 2338, section 5.3.10

	checksumAt = 6

	// Centisecond is the unit of V3's intervals (RFC 5798, section 5.2.7).
	Centisecond = 10 * time.Millisecond
	// intervalBits are what V3's interval has of its two bytes; the others are reserved (RFC 5798, section 5.2.6).
	intervalBits = 0x0fff
)

// Version of the protocol.
type Version uint8

const (
	// V2 is RFC 3768.
	V2 Version = 2
	// V3 is RFC 5798 and its successor RFC 9568.
	V3 Version = 3
)

// Checksum is what a V3 checksum on IPv4 covers. The standards do not agree, and many receivers take in only one form. On
// IPv6 there is only ChecksumPseudoHeader (RFC 9568, section 5.2.8).
type Checksum uint8

const (
	// ChecksumPseudoHeader covers the message and a pseudo-header with source, destination, protocol and length (RFC
	// 5798, section 5.2.8, in the reading of keepalived and FRR).
	ChecksumPseudoHeader Checksum = iota
	// ChecksumMessage covers the message alone, as in V2 (RFC 9568, section 5.2.8).
	ChecksumMessage
)

// String names the form as it appears in the status.
func (c Checksum) String() string {
	if c == ChecksumMessage {
		return "message"
	}
	return "pseudo-header"
}

var (
	group4 = netip.AddrFrom4([4]byte{224, 0, 0, 18})
	group6 = netip.AddrFrom16([16]byte{0xff, 0x02, 15: 0x12})
)

// Group returns the multicast address that adverts are sent to: 224.0.0.18 (RFC 3768, section 5.2.2), or ff02::12 on IPv6
// (RFC 9568, section 5.1.2.2).
func Group(v6 bool) netip.Addr {
	if v6 {
		return group6
	}
	return group4
}

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

// Secret is the password without the zeros behind it; empty without one.
func (a Authentication) Secret() []byte { return bytes.TrimRight(a.data[:], "\x00") }

// Advertisement is an advert, of either version.
type Advertisement struct {
	// VirtualRouterID tells the instances of one network apart, 1 to 255.
	VirtualRouterID uint8
	// Priority of the sender, 1 to 255, or PriorityStop.
	Priority uint8
	// Interval between two adverts of the sender. V2: whole seconds, 1 s to 255 s; V3: centiseconds, 10 ms to 40.95 s.
	Interval time.Duration
	// Addresses that the instance stands for, of one family, at most 255. On IPv6 the first is link-local (RFC 9568,
	// section 5.2.9).
	Addresses []netip.Addr
}

// Format is how adverts are written.
type Format struct {
	// Version of the protocol.
	Version Version
	// Authentication, with V2. V3 has none.
	Authentication Authentication
	// Checksum is the form of the checksum, with V3.
	Checksum Checksum
	// Source is the address that the adverts are sent from; V3 needs it for ChecksumPseudoHeader. With one of IPv6 that is the
	// form, whatever Checksum says.
	Source netip.Addr
	// Ring makes room for a trailer, which Ring.Sign fills in before each sending. nil: there is none.
	Ring *Ring
	// Destination is where they are sent by unicast. The zero value is the group.
	Destination netip.Addr
}

// destination is where the adverts go.
func (f Format) destination() netip.Addr {
	if f.Destination.IsValid() {
		return f.Destination
	}
	return Group(f.Source.Is6())
}

// Append appends the advert to b: the payload of the IP packet. The kernel writes the IP header.
func (a Advertisement) Append(b []byte, f Format) []byte {
	start := len(b)
	b = append(b, byte(f.Version)<<4|typeAdvertisement, a.VirtualRouterID, a.Priority, byte(len(a.Addresses)))
	if f.Version == V3 {
		b = binary.BigEndian.AppendUint16(b, uint16(a.Interval/Centisecond)&intervalBits)
	} else {
		b = append(b, f.Authentication.kind, byte(a.Interval/time.Second))
	}
	b = append(b, 0, 0) // the checksum
	for _, address := range a.Addresses {
		b = append(b, address.AsSlice()...)
	}
	var covered uint32
	if f.Version != V3 {
		b = append(b, f.Authentication.data[:]...)
	} else if f.Source.Is6() || f.Checksum == ChecksumPseudoHeader && f.Source.Is4() {
		covered = pseudoHeader(f.Source, f.destination(), Protocol, len(b)-start)
	}
	binary.BigEndian.PutUint16(b[start+checksumAt:], checksum(covered, b[start:]))
	if f.Ring != nil {
		b = append(b, make([]byte, trailerLength)...)
	}
	return b
}

// pseudoHeader is the sum of the pseudo-header that goes before a message: source, destination, protocol, length (RFC
// 793, section 3.1; RFC 8200, section 8.1, whose wider fields add the same).
func pseudoHeader(source, destination netip.Addr, protocol, length int) uint32 {
	sum := uint32(protocol) + uint32(length)
	for _, a := range [2]netip.Addr{source, destination} {
		raw, from := a.As16(), 0
		if a.Is4() {
			from = 12
		}
		for at := from; at < len(raw); at += 2 {
			sum += uint32(binary.BigEndian.Uint16(raw[at:]))
		}
	}
	return sum
}

// checksum is the Internet checksum over the whole message (RFC 3768, section 5.3.8; with V2 authentication data
// included), begun with the sum of what else it covers. Over a message that carries its checksum it is 0.
func checksum(sum uint32, b []byte) uint16 {
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
