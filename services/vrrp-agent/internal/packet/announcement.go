package packet

import (
	"encoding/binary"
	"net/netip"
)

// MAC is an Ethernet address.
type MAC [6]byte

// VirtualMAC is the Ethernet address of a virtual router (RFC 9568, section 7.3).
func VirtualMAC(id uint8, v6 bool) MAC {
	family := byte(1)
	if v6 {
		family = 2
	}
	return MAC{0x00, 0x00, 0x5e, 0x00, family, id}
}

// GratuitousARP returns the Ethernet frame that tells everyone on the network that the address is at mac: a broadcast
// ARP request whose sender and target are both the address, with the target hardware address all ones, as keepalived
// sends it (RFC 826; RFC 5227, section 3, on why a request and not a reply).
func GratuitousARP(mac MAC, address netip.Addr) []byte {
	broadcast := [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	ip := address.As4()
	frame := make([]byte, 0, 42)
	frame = append(frame, broadcast[:]...)
	frame = append(frame, mac[:]...)
	frame = append(frame,
		0x08, 0x06, // EtherType ARP
		0x00, 0x01, // hardware: Ethernet
		0x08, 0x00, // protocol: IPv4
		6, 4, // their address lengths
		0x00, 0x01, // request
	)
	frame = append(frame, mac[:]...)
	frame = append(frame, ip[:]...)
	frame = append(frame, broadcast[:]...)
	return append(frame, ip[:]...)
}

// allNodes is every machine of an IPv6 network, and its Ethernet address (RFC 4291, section 2.7.1; RFC 2464, section 7).
var allNodes = netip.AddrFrom16([16]byte{0xff, 0x02, 15: 1})

// Numbers of ICMPv6 and of its neighbor advertisement (RFC 4861, sections 4.4 and 4.6.1), and offsets in its Ethernet
// frame.
const (
	icmp6                 = 58
	neighborAdvertisement = 136
	flagRouter            = 0x80
	flagOverride          = 0x20
	optionTarget          = 2

	icmp6At   = 14 + HeaderV6
	targetAt  = icmp6At + 8
	optionAt  = targetAt + 16
	frameLong = optionAt + 8
)

// NeighborAdvertisement returns the Ethernet frame that does for IPv6 what GratuitousARP does: an advertisement that nobody
// has asked for, to all nodes, with the override flag, so that it replaces what they know (RFC 4861, section 7.2.6; RFC
// 9568, section 6.4.2). router is what the machine is to its neighbors; the flag must be what the kernel says in its own
// advertisements, because one that is withdrawn takes default routes with it.
func NeighborAdvertisement(mac MAC, address netip.Addr, router bool) []byte {
	flags := byte(flagOverride)
	if router {
		flags |= flagRouter
	}
	raw := address.As16()
	frame := append(make([]byte, 0, frameLong), 0x33, 0x33, 0, 0, 0, 1)
	frame = append(frame, mac[:]...)
	frame = append(frame, 0x86, 0xdd)
	frame = append(frame, make([]byte, HeaderV6)...)
	PutHeaderV6(frame[14:], raw, allNodes.As16(), TTL, frameLong-icmp6At)
	frame[14+ip6NextHeaderAt] = icmp6
	frame = append(frame, neighborAdvertisement, 0, 0, 0, flags, 0, 0, 0)
	frame = append(frame, raw[:]...)
	frame = append(frame, optionTarget, 1)
	frame = append(frame, mac[:]...)
	sum := checksum(pseudoHeader(address, allNodes, icmp6, frameLong-icmp6At), frame[icmp6At:])
	binary.BigEndian.PutUint16(frame[icmp6At+2:], sum)
	return frame
}

// Announcement is the frame that tells the network where the address is, of its family.
func Announcement(mac MAC, address netip.Addr, router bool) []byte {
	if address.Is6() {
		return NeighborAdvertisement(mac, address, router)
	}
	return GratuitousARP(mac, address)
}

// Claim reads who says of himself to have an address, in an ARP frame of either kind (RFC 826) or a neighbor advertisement
// (RFC 4861). A probe (RFC 5227), which says nothing yet, is none.
func Claim(frame []byte) (a netip.Addr, mac MAC, ok bool) {
	if len(frame) >= optionAt && [2]byte(frame[12:]) == [2]byte{0x86, 0xdd} {
		return neighborClaim(frame)
	}
	if len(frame) < 42 || [8]byte(frame[12:20]) != [8]byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4} {
		return netip.Addr{}, MAC{}, false
	}
	a = netip.AddrFrom4([4]byte(frame[28:]))
	return a, MAC(frame[22:28]), !a.IsUnspecified()
}

// neighborClaim is Claim of a frame that is long enough for an advertisement without options. One that does not name its
// Ethernet address means the one that it came from.
func neighborClaim(frame []byte) (a netip.Addr, mac MAC, ok bool) {
	if frame[14+ip6NextHeaderAt] != icmp6 || frame[14+ip6HopLimitAt] != TTL || frame[icmp6At] != neighborAdvertisement || frame[icmp6At+1] != 0 {
		return netip.Addr{}, MAC{}, false
	}
	mac = MAC(frame[6:12])
	if len(frame) >= frameLong && [2]byte(frame[optionAt:]) == [2]byte{optionTarget, 1} {
		mac = MAC(frame[optionAt+2 : frameLong])
	}
	return netip.AddrFrom16([16]byte(frame[targetAt:])), mac, true
}
