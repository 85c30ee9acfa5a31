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
	// DropHeader: not a whole IPv4 packet of protocol 112.
	DropHeader Drop = iota
	// DropDestination: not sent to 224.0.0.18, nor by unicast to us.
	DropDestination
	// DropTTL: the time to live is not 255; the packet may come from another network.
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
	// Self is our own address. Adverts that come from it are not for us; those by unicast to it are. The zero value leaves
	// both out.
	Self netip.Addr
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

// Receive makes the receive checks of RFC 3768 or RFC 5798, section 7.1 on an IPv4 packet, header included, as a raw
// socket gives it. The error is a Drop.
//
// FRR reckons with the group as destination even by unicast, so that is right too.
//
// The list of addresses is returned and not judged here: dropping an advert over it would make two masters. For the same
// reason either form of V3's checksum is right. The list is appended to into, which may be nil; with room for it nothing
// is allocated.
func (e Expect) Receive(datagram []byte, into []netip.Addr) (Received, error) {
	source, destination, payload, err := e.ipv4Payload(datagram)
	if err != nil {
		return Received{}, err
	}
	r := Received{From: netip.AddrFrom4(source)}
	if len(payload) < headerLength {
		return Received{}, DropLength
	}
	if payload[0]>>4 != byte(e.Version) {
		return Received{}, DropVersion
	}
	if payload[0]&0x0f != typeAdvertisement {
		return Received{}, DropType
	}
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
	case e.Version == V3 && (checksum(pseudoHeader(source, destination, len(payload)), payload) == 0 ||
		destination != group && checksum(pseudoHeader(source, group, len(payload)), payload) == 0):
		r.Checksum = ChecksumPseudoHeader
	case checksum(0, payload) == 0:
		r.Checksum = ChecksumMessage
	default:
		return Received{}, DropChecksum
	}
	if payload[1] != e.VirtualRouterID {
		return Received{}, DropOtherRouter
	}
	r.VirtualRouterID, r.Priority = payload[1], payload[2]
	if r.Interval, err = e.judge(payload, payload[end:]); err != nil {
		return Received{}, err
	}
	if e.Self.IsValid() && r.From == e.Self {
		return Received{}, DropOwn
	}
	if len(e.Peers) > 0 && (destination == group || !slices.Contains(e.Peers, r.From)) {
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
		r.Addresses = append(r.Addresses, netip.AddrFrom4([4]byte(payload[at:])))
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

// Offsets in the IPv4 header (RFC 791, section 3.1).
const (
	ipHeaderMin     = 20
	ipTotalLengthAt = 2
	ipTTLAt         = 8
	ipProtocolAt    = 9
	ipSourceAt      = 12
	ipDestinationAt = 16
)

func (e Expect) ipv4Payload(b []byte) (source, destination [4]byte, payload []byte, err error) {
	if len(b) < ipHeaderMin || b[0]>>4 != 4 {
		return source, destination, nil, DropHeader
	}
	header := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[ipTotalLengthAt:]))
	if header < ipHeaderMin || total != len(b) || header > total || b[ipProtocolAt] != Protocol {
		return source, destination, nil, DropHeader
	}
	destination = [4]byte(b[ipDestinationAt:])
	if destination != group && !(e.Self.Is4() && destination == e.Self.As4()) {
		return source, destination, nil, DropDestination
	}
	if b[ipTTLAt] != TTL {
		return source, destination, nil, DropTTL
	}
	return [4]byte(b[ipSourceAt:]), destination, b[header:], nil
}

// equal compares the password in constant time. Without a password the authentication data is not looked at: a
// receiver ignores it (RFC 3768, section 5.3.10).
func (a Authentication) equal(b Authentication) bool {
	if a.kind != b.kind {
		return false
	}
	return a.kind == authenticationNone || subtle.ConstantTimeCompare(a.data[:], b.data[:]) == 1
}
