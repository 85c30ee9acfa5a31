package packet

import (
	"crypto/subtle"
	"encoding/binary"
	"net/netip"
	"time"
)

// Drop is the reason why a received packet was not taken in. It is an error.
type Drop uint8

// The reasons, in the order of the checks (RFC 3768, section 7.1).
const (
	// DropHeader: not a whole IPv4 packet of protocol 112.
	DropHeader Drop = iota
	// DropDestination: not sent to 224.0.0.18.
	DropDestination
	// DropTTL: the time to live is not 255; the packet may come from another network.
	DropTTL
	// DropVersion: not VRRP version 2.
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
	// DropInterval: the sender advertises at another interval.
	DropInterval
	// DropOwn: the sender has our own address.
	DropOwn

	// Drops is the number of reasons.
	Drops = int(DropOwn) + 1
)

var dropNames = [Drops]string{
	"header", "destination", "ttl", "version", "type", "length", "checksum", "other_router", "authentication",
	"interval", "own_address",
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
	// VirtualRouterID of the instance.
	VirtualRouterID uint8
	// Interval of the instance.
	Interval time.Duration
	// Authentication of the instance.
	Authentication Authentication
	// Self is our own address, whose adverts are not for us. The zero value leaves the check out.
	Self netip.Addr
}

// Receive makes the receive checks of RFC 3768, section 7.1 on an IPv4 packet, header included, as a raw socket gives
// it, and returns the advert and its sender. The error is a Drop.
//
// The list of addresses is returned and not judged here: dropping an advert over it would make two masters.
func (e Expect) Receive(datagram []byte) (Advertisement, netip.Addr, error) {
	source, payload, err := ipv4Payload(datagram)
	if err != nil {
		return Advertisement{}, netip.Addr{}, err
	}
	a, auth, err := parse(payload)
	if err != nil {
		return Advertisement{}, source, err
	}
	switch {
	case a.VirtualRouterID != e.VirtualRouterID:
		return Advertisement{}, source, DropOtherRouter
	case !auth.equal(e.Authentication):
		return Advertisement{}, source, DropAuthentication
	case a.Interval != e.Interval:
		return Advertisement{}, source, DropInterval
	case e.Self.IsValid() && source == e.Self:
		return Advertisement{}, source, DropOwn
	}
	return a, source, nil
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

func ipv4Payload(b []byte) (netip.Addr, []byte, error) {
	if len(b) < ipHeaderMin || b[0]>>4 != 4 {
		return netip.Addr{}, nil, DropHeader
	}
	header := int(b[0]&0x0f) * 4
	total := int(binary.BigEndian.Uint16(b[ipTotalLengthAt:]))
	if header < ipHeaderMin || total != len(b) || header > total || b[ipProtocolAt] != Protocol {
		return netip.Addr{}, nil, DropHeader
	}
	source := netip.AddrFrom4([4]byte(b[ipSourceAt:]))
	if [4]byte(b[ipDestinationAt:]) != group {
		return source, nil, DropDestination
	}
	if b[ipTTLAt] != TTL {
		return source, nil, DropTTL
	}
	return source, b[header:], nil
}

func parse(b []byte) (Advertisement, Authentication, error) {
	if len(b) < headerLength+authenticationData {
		return Advertisement{}, Authentication{}, DropLength
	}
	if b[0]>>4 != version {
		return Advertisement{}, Authentication{}, DropVersion
	}
	if b[0]&0x0f != typeAdvertisement {
		return Advertisement{}, Authentication{}, DropType
	}
	count := int(b[3])
	end := headerLength + count*addressLength
	if len(b) != end+authenticationData {
		return Advertisement{}, Authentication{}, DropLength
	}
	if checksum(b) != 0 {
		return Advertisement{}, Authentication{}, DropChecksum
	}
	a := Advertisement{VirtualRouterID: b[1], Priority: b[2], Interval: time.Duration(b[5]) * time.Second}
	for at := headerLength; at < end; at += addressLength {
		a.Addresses = append(a.Addresses, netip.AddrFrom4([4]byte(b[at:])))
	}
	return a, Authentication{kind: b[4], data: [authenticationData]byte(b[end:])}, nil
}

// equal compares the password in constant time. Without a password the authentication data is not looked at: a
// receiver ignores it (RFC 3768, section 5.3.10).
func (a Authentication) equal(b Authentication) bool {
	if a.kind != b.kind {
		return false
	}
	return a.kind == authenticationNone || subtle.ConstantTimeCompare(a.data[:], b.data[:]) == 1
}
