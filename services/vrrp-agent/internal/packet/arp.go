package packet

import "net/netip"

// MAC is an Ethernet address.
type MAC [6]byte

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

// Claim reads who says of himself to have an IPv4 address, in an ARP frame of either kind (RFC 826). A probe (RFC 5227), which
// says nothing yet, is none.
func Claim(frame []byte) (a netip.Addr, mac MAC, ok bool) {
	if len(frame) < 42 || [8]byte(frame[12:20]) != [8]byte{0x08, 0x06, 0, 1, 0x08, 0, 6, 4} {
		return netip.Addr{}, MAC{}, false
	}
	a = netip.AddrFrom4([4]byte(frame[28:]))
	return a, MAC(frame[22:28]), !a.IsUnspecified()
}
