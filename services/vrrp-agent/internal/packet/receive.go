package packet

import (
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"
)

// Drop is the reason why a received packet was not taken in. It is an error.
type Drop uint8

// The reasons, in the order of the checks (RFC 3768 and RFC 5798, section 7.1).
const (
	// DropHeader: not a whole IP packet of the instance's family and of protocol 112.
	DropHeader Drop = iota
	// DropDestination: not sent to the group, nor by unicast to us.
	DropDestination
	// DropTTL: the time to live, or hop limit, is not 255; the packet may come from another network.
	DropTTL
	// DropVersion: of another version of VRRP than the instance's.
	DropVersion
	// DropType: not an advertisement.
	DropType
	// DropLength: not exactly as long as its number of addresses makes it.
	DropLength
	// DropChecksum: damaged on the way.
	DropChecksum
	// DropOtherRouter: of another instance on the same network. Nothing is wrong with it.
	DropOtherRouter
	// DropAuthentication: another type of authentication, or another password.
	DropAuthentication
	// DropInterval: the sender advertises at another interval (V2), or at none (V3).
	DropInterval
	// DropOwn: the sender has our own address.
	DropOwn
	// DropSignature: the trailer is missing, or its code is not of one of our keys.
	DropSignature
	// DropReplay: the trailer is an old one, or of another time.
	DropReplay
	// DropPeer: by unicast from somebody who is no peer, or by multicast where only unicast is wanted.
	DropPeer

	// Drops is the number of reasons.
	Drops = int(DropPeer) + 1
)

var dropNames = [Drops]string{
	"header", "destination", "ttl", "version", "type", "length", "checksum", "other_router", "authentication",
	"interval", "own_address", "signature", "replay", "peer",
}

// Error names the reason in one word, as it appears in the status.
func (d Drop) Error() string {
	if int(d) < len(dropNames) {
		return dropNames[d]
	}
	return "unknown"
}

// Expect is what the instance that listens knows about the adverts meant for it.
type Expect struct {
	// Version of the instance.
	Version Version
	// VirtualRouterID of the instance.
	VirtualRouterID uint8
	// Interval of the instance, with V2. In V3 each master has its own.
	Interval time.Duration
	// Authentication of the instance, with V2.
	Authentication Authentication
	// Ring checks trailers. nil: an advert with one has the wrong length.
	Ring *Ring
	// Signed: adverts without a trailer are dropped.
	Signed bool
	// Peers are the only senders, by unicast, if there are any.
	Peers []netip.Addr
	// Self is our own address, whose family is the instance's; IPv4 with the zero value. Adverts that come from it are not for
	// us; those by unicast to it are. The zero value leaves both out.
	Self netip.Addr
	// Also is another address of ours that is like Self, if there is one: on IPv6 the one that is not link-local.
	Also netip.Addr
}

// Received is an advert that was taken in.
type Received struct {
	Advertisement
	// From is the address of the sender.
	From netip.Addr
	// Checksum is the form that the sender uses, with V3.
	Checksum Checksum
	// Signed: it bears a trailer with a good code, and that Sequence. Whether it is new is for Replay to tell.
	Signed   bool
	Sequence Sequence
}

// Receive makes the receive checks of RFC 3768 or RFC 5798, section 7.1 on an IP packet, header included. Of IPv6 it is the
// fixed header, and right behind it the advert. The error is a Drop.
//
// FRR reckons with the group as destination even by unicast, so that is right too.
//
// The list of addresses is returned and not judged here: dropping an advert over it would make two masters. For the same
// reason either form of V3's checksum is right. The list is appended to into, which may be nil; with room for it nothing
// is allocated.
func (e Expect) Receive(datagram []byte, into []netip.Addr) (Received, error) {
	source, destination, payload, err := e.open(datagram)
	if err != nil {
		return Received{}, err
	}
	r := Received{From: source}
	if len(payload) < headerLength {
		return Received{}, DropLength
	}
	if payload[1] != e.VirtualRouterID { // in both versions at the same place, and of any version, length and signature
		return Received{}, DropOtherRouter
	}
	if payload[0]>>4 != byte(e.Version) {
		return Received{}, DropVersion
	}
	if payload[0]&0x0f != typeAdvertisement {
		return Received{}, DropType
	}
	addressLength := source.BitLen() / 8
	end := headerLength + int(payload[3])*addressLength
	whole := payload
	switch len(payload) {
	case end + e.tail():
	case end + e.tail() + trailerLength:
		if e.Ring == nil {
			return Received{}, DropLength
		}
		r.Signed, payload = true, payload[:end+e.tail()]
	default:
		return Received{}, DropLength
	}
	switch {
	case e.Version == V3 && (checksum(pseudoHeader(source, destination, Protocol, len(payload)), payload) == 0 ||
		checksum(pseudoHeader(source, Group(source.Is6()), Protocol, len(payload)), payload) == 0):
		r.Checksum = ChecksumPseudoHeader
	case source.Is4() && checksum(0, payload) == 0:
		r.Checksum = ChecksumMessage
	default:
		return Received{}, DropChecksum
	}
	r.VirtualRouterID, r.Priority = payload[1], payload[2]
	if r.Interval, err = e.judge(payload, payload[end:]); err != nil {
		return Received{}, err
	}
	if e.ours(r.From) {
		return Received{}, DropOwn
	}
	if len(e.Peers) > 0 && (destination.IsMulticast() || !slices.Contains(e.Peers, r.From)) {
		return Received{}, DropPeer
	}
	if e.Ring != nil && (e.Signed || r.Signed) {
		if !r.Signed {
			return Received{}, DropSignature
		}
		if r.Sequence, r.Signed = e.Ring.verify(r.From, whole); !r.Signed {
			return Received{}, DropSignature
		}
	}
	r.Addresses = into
	for at := headerLength; at < end; at += addressLength {
		address, _ := netip.AddrFromSlice(payload[at : at+addressLength]) // 4 or 16 bytes
		r.Addresses = append(r.Addresses, address)
	}
	return r, nil
}

// tail is how many bytes are behind the addresses.
func (e Expect) tail() int {
	if e.Version == V3 {
		return 0
	}
	return authenticationData
}

// judge makes the checks in which the versions differ, and returns the sender's interval.
func (e Expect) judge(header, tail []byte) (time.Duration, error) {
	if e.Version == V3 {
		interval := time.Duration(binary.BigEndian.Uint16(header[4:])&intervalBits) * Centisecond
		if interval == 0 {
			return 0, DropInterval // who followed it would wait for nothing
		}
		return interval, nil
	}
	if auth := (Authentication{kind: header[4], data: [authenticationData]byte(tail)}); !auth.equal(e.Authentication) {
		return 0, DropAuthentication
	}
	interval := time.Duration(header[5]) * time.Second
	if interval != e.Interval {
		return 0, DropInterval
	}
	return interval, nil
}

// Source is where a packet says that it comes from, whatever else is wrong with it; invalid if it does not.
func (e Expect) Source(datagram []byte) netip.Addr {
	source, _, _, _ := e.open(datagram)
	return source
}

// ours tells whether an address is one of our own.
func (e Expect) ours(a netip.Addr) bool { return a == e.Self || a == e.Also }

// Offsets in the IPv4 header (RFC 791, section 3.1).
const (
	ipHeaderMin     = 20
	ipTotalLengthAt = 2
	ipTTLAt         = 8
	ipProtocolAt    = 9
	ipSourceAt      = 12
	ipDestinationAt = 16
)

// HeaderV6 is the length of the fixed IPv6 header, and what follows are the offsets in it (RFC 8200, section 3).
const (
	HeaderV6          = 40
	ip6LengthAt       = 4
	ip6NextHeaderAt   = 6
	ip6HopLimitAt     = 7
	ip6SourceAt       = 8
	ip6DestinationAt  = 24
	ip6VersionTraffic = 0x60
)

// PutHeaderV6 writes the IPv6 header that a packet of VRRP had, into the first HeaderV6 bytes of b, before its payload:
// raw sockets of IPv6 do not show it.
func PutHeaderV6(b []byte, source, destination [16]byte, hopLimit byte, payload int) {
	clear(b[:HeaderV6])
	b[0] = ip6VersionTraffic
	binary.BigEndian.PutUint16(b[ip6LengthAt:], uint16(payload))
	b[ip6NextHeaderAt], b[ip6HopLimitAt] = Protocol, hopLimit
	copy(b[ip6SourceAt:], source[:])
	copy(b[ip6DestinationAt:], destination[:])
}

// open reads the IP header.
func (e Expect) open(b []byte) (source, destination netip.Addr, payload []byte, err error) {
	var ttl byte
	var whole bool
	if e.Self.Is6() {
		source, destination, ttl, payload, whole = openV6(b)
	} else {
		source, destination, ttl, payload, whole = openV4(b)
	}
	switch {
	case !whole:
		return source, destination, nil, DropHeader
	case destination != Group(source.Is6()) && !e.ours(destination):
		return source, destination, nil, DropDestination
	case ttl != TTL:
		return source, destination, nil, DropTTL
	}
	return source, destination, payload, nil
}

func openV4(b []byte) (source, destination netip.Addr, ttl byte, payload []byte, whole bool) {
	if len(b) < ipHeaderMin || b[0]>>4 != 4 {
		return source, destination, 0, nil, false
	}
	header := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[ipTotalLengthAt:]))
	if header < ipHeaderMin || total != len(b) || header > total || b[ipProtocolAt] != Protocol {
		return source, destination, 0, nil, false
	}
	return netip.AddrFrom4([4]byte(b[ipSourceAt:])), netip.AddrFrom4([4]byte(b[ipDestinationAt:])), b[ipTTLAt], b[header:], true
}

func openV6(b []byte) (source, destination netip.Addr, hopLimit byte, payload []byte, whole bool) {
	if len(b) < HeaderV6 || b[0]>>4 != 6 || int(binary.BigEndian.Uint16(b[ip6LengthAt:])) != len(b)-HeaderV6 || b[ip6NextHeaderAt] != Protocol {
		return source, destination, 0, nil, false
	}
	source, destination = netip.AddrFrom16([16]byte(b[ip6SourceAt:])), netip.AddrFrom16([16]byte(b[ip6DestinationAt:]))
	return source, destination, b[ip6HopLimitAt], b[HeaderV6:], !source.Is4In6()
}

// equal compares the password in constant time. Without a password the authentication data is not looked at: a
// receiver ignores it (RFC 3768, section 5.3.10).
func (a Authentication) equal(b Authentication) bool {
	if a.kind != b.kind {
		return false
	}
	return a.kind == authenticationNone || subtle.ConstantTimeCompare(a.data[:], b.data[:]) == 1
}
