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
