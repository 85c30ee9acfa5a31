package doctor

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
)

// sysctl reads one of the namespace of the calling thread; false: this kernel, or this container, does not show it.
func sysctl(key string) (string, bool) {
	text, err := os.ReadFile("/proc/sys/" + key)
	return strings.TrimSpace(string(text)), err == nil
}

func number(key string) (int, bool) {
	text, ok := sysctl(key)
	n, err := strconv.Atoi(text)
	return n, ok && err == nil
}

func dotted(key string) string { return strings.ReplaceAll(key, "/", ".") }

// strict is the value of rp_filter that drops what arrives on another card than the answer would leave by (ip-sysctl.txt).
const strict = 1

// cards looks at the network cards of VIPs and real servers.
func cards(have plan.Have) (found []dataplane.Finding) {
	links, err := netlink.LinkList()
	if err != nil {
		return []dataplane.Finding{{Code: "cards", What: fmt.Sprintf("the network cards cannot be listed: %v", err), Remedy: "look at the rights of the director"}}
	}
	mtu, names := map[int]int{}, map[int]string{}
	for _, l := range links {
		mtu[l.Attrs().Index], names[l.Attrs().Index] = l.Attrs().MTU, l.Attrs().Name
	}
	everywhere, _ := number("net/ipv4/conf/all/rp_filter")
	seen := map[int]bool{}
	for _, a := range have.Host.Addresses {
		if !a.Prefix.Addr().Is4() { // IPv6 has no rp_filter
			continue
		}
		own, _ := number("net/ipv4/conf/" + names[a.Card] + "/rp_filter")
		if real, elsewhere := astray(have, a); elsewhere && max(own, everywhere) == strict && !seen[a.Card] {
			seen[a.Card] = true
			found = append(found, dataplane.Finding{Code: "rp_filter", What: fmt.Sprintf("rp_filter is strict on %s, and the way to real server %s, which can send there, leads by another card", names[a.Card], real),
				// sysctl(8) takes the dots of a name as slashes.
				Remedy: fmt.Sprintf("sysctl -w net.ipv4.conf.%s.rp_filter=2", strings.ReplaceAll(names[a.Card], ".", "/"))})
		}
	}
	for _, s := range have.Services {
		outer := cardOf(have.Host, s.VIP.Addr())
		for _, r := range s.Reals {
			inner := routeTo(r.Address.Addr())
			if outer != 0 && inner != 0 && mtu[inner] < mtu[outer] {
				found = append(found, dataplane.Finding{Code: "mtu", What: fmt.Sprintf("%s, which leads to real server %s, has an MTU of %d, %s with the VIP %s one of %d: large packets need ICMP to get through",
					names[inner], r.Address, mtu[inner], names[outer], s.VIP.Addr(), mtu[outer]), Remedy: fmt.Sprintf("ip link set %s mtu %d", names[inner], mtu[outer])})
			}
		}
	}
	return found
}

// astray finds a real server in the subnet of an address to which the way leads by another card: what it sends to this one is
// dropped when rp_filter is strict.
func astray(have plan.Have, a plan.HostAddress) (real netip.AddrPort, there bool) {
	for _, s := range have.Services {
		for _, r := range s.Reals {
			if card := routeTo(r.Address.Addr()); a.Prefix.Masked().Contains(r.Address.Addr()) && card != 0 && card != a.Card {
				return r.Address, true
			}
		}
	}
	return real, false
}

// cardOf is the card that has an address; 0: none.
func cardOf(h plan.Host, a netip.Addr) int {
	for _, each := range h.Addresses {
		if each.Prefix.Addr() == a {
			return each.Card
		}
	}
	return 0
}

// routeTo is the card by which packets to an address leave; 0: there is no way.
func routeTo(a netip.Addr) int {
	routes, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(routes) == 0 {
		return 0
	}
	return routes[0].LinkIndex
}

// connects makes a TCP connection, from an address if one is given.
func connects(ctx context.Context, from netip.Addr, to netip.AddrPort) bool {
	dialer := net.Dialer{Timeout: Patience}
	if from.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))
	}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return false
	}
	_ = conn.(*net.TCPConn).SetLinger(0) // the server is not to wait for anything
	_ = conn.Close()
	return true
}

// duplicates asks the wire who else has a VIP, by probes that change nobody's table.
func duplicates(ctx context.Context, have plan.Have) (found []dataplane.Finding) {
	asked := map[netip.Addr]bool{}
	var mu sync.Mutex
	var group sync.WaitGroup
	room := make(chan struct{}, together)
	for _, s := range have.Services {
		vip := s.VIP.Addr()
		card := cardOf(have.Host, vip)
		if card == 0 || asked[vip] {
			continue
		}
		asked[vip] = true
		room <- struct{}{}
		group.Go(func() {
			defer func() { <-room }()
			mac, there := probe(ctx, card, vip)
			if !there {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			found = append(found, dataplane.Finding{Code: "duplicate_vip", What: fmt.Sprintf("the VIP %s is here, and %s answers for it too", vip, mac),
				Remedy: "take it away from one of the two; clients reach now the one, now the other"})
		})
	}
	group.Wait()
	return found
}

// inquiry is a probe for an address, and how an answer is told.
type inquiry struct {
	protocol uint16 // of Ethernet
	to       [8]byte
	packet   []byte
	answered func(packet []byte) bool
}

// byARP is an ARP probe: RFC 5227 section 2.1.1, RFC 826.
func byARP(address netip.Addr, own net.HardwareAddr) inquiry {
	const size, request, reply = 28, 1, 2
	ip := address.As4()
	ask := append([]byte{0, 1, 8, 0, 6, 4, 0, request}, own...)
	ask = append(ask, 0, 0, 0, 0) // a probe: nobody's address
	ask = append(ask, 0, 0, 0, 0, 0, 0)
	return inquiry{protocol: unix.ETH_P_ARP, to: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, packet: append(ask, ip[:]...), answered: func(b []byte) bool {
		return len(b) >= size && b[7] == reply && [4]byte(b[14:18]) == ip
	}}
}

// byNeighbour is what a node asks before it takes an address: a neighbour solicitation from nobody. RFC 4862 section 5.4.2, RFC 4861
// sections 4.3 and 4.4. The answer goes to all nodes.
func byNeighbour(address netip.Addr) inquiry {
	const (
		header, size               = 40, 24 // of IPv6, and of the message
		icmpv6, hops               = 58, 255
		solicitation, announcement = 135, 136
		target                     = header + 8
	)
	ip := address.As16()
	group := [16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: ip[13], 14: ip[14], 15: ip[15]} // RFC 4291 section 2.7.1
	b := make([]byte, header+size)
	b[0], b[5], b[6], b[7] = 6<<4, size, icmpv6, hops
	copy(b[24:], group[:])
	b[header] = solicitation
	copy(b[target:], ip[:])
	// RFC 8200 section 8.1: the addresses, the length and the protocol count too.
	sum := uint32(size + icmpv6)
	for i := 8; i < len(b); i += 2 {
		sum += uint32(b[i])<<8 | uint32(b[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[header+2:], ^uint16(sum))
	return inquiry{protocol: unix.ETH_P_IPV6, to: [8]byte{0x33, 0x33, group[12], group[13], group[14], group[15]}, packet: b, answered: func(b []byte) bool {
		return len(b) >= header+size && b[6] == icmpv6 && b[header] == announcement && [16]byte(b[target:target+16]) == ip
	}}
}

// probe asks once for an address and waits for somebody else's answer.
func probe(ctx context.Context, card int, address netip.Addr) (mac net.HardwareAddr, there bool) {
	link, err := netlink.LinkByIndex(card)
	if err != nil || len(link.Attrs().HardwareAddr) != 6 {
		return nil, false
	}
	own := link.Attrs().HardwareAddr
	inquiry := byNeighbour(address)
	if address.Is4() {
		inquiry = byARP(address, own)
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, inquiry.protocol))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil, false
	}
	defer unix.Close(socket)
	if unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: card}) != nil {
		return nil, false
	}
	if unix.Sendto(socket, inquiry.packet, 0, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: card, Halen: 6, Addr: inquiry.to}) != nil {
		return nil, false
	}
	deadline := time.Now().Add(Patience)
	buf := make([]byte, 128)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, false
		}
		wait := unix.NsecToTimeval(left.Nanoseconds())
		if unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait) != nil {
			return nil, false
		}
		n, from, err := unix.Recvfrom(socket, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, false
		}
		sender, ok := from.(*unix.SockaddrLinklayer)
		if ok && sender.Halen == 6 && sender.Pkttype != unix.PACKET_OUTGOING && inquiry.answered(buf[:n]) && string(sender.Addr[:6]) != string(own) {
			return net.HardwareAddr(append([]byte(nil), sender.Addr[:6]...)), true
		}
	}
	return nil, false
}
