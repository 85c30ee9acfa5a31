// Package address answers: which addresses does this node hold, and does it forward? It puts addresses on network
// cards, takes away only those that it has put there, and tells the neighbours by gratuitous ARP.
//
// An address of ours bears a mark in the kernel (IFA_PROTO, Linux 5.18), so that a restarted director knows it again
// and an address of somebody else's is never taken for one of ours.
package address

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// ARP operations, RFC 826.
const (
	arpRequest = 1
	arpReply   = 2
)

// announcement is the ARP packet (RFC 826, without the Ethernet header) with which a host says that it has an address:
// sender and target are both the address (RFC 5227, section 3, for the request).
func announcement(operation uint16, mac net.HardwareAddr, address netip.Addr) []byte {
	const ethernet, ipv4 = 1, 0x0800
	ip := address.As4()
	p := binary.BigEndian.AppendUint16(nil, ethernet)
	p = binary.BigEndian.AppendUint16(p, ipv4)
	p = append(p, byte(len(mac)), byte(len(ip)))
	p = binary.BigEndian.AppendUint16(p, operation)
	p = append(p, mac...)
	p = append(p, ip[:]...)
	if operation == arpReply {
		p = append(p, mac...)
	} else {
		p = append(p, make([]byte, len(mac))...)
	}
	return append(p, ip[:]...)
}
