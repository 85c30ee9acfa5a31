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

// duplicates asks the wire who else has a VIP (RFC 5227 section 2.1.1: an ARP probe, which changes nobody's table).
func duplicates(ctx context.Context, have plan.Have) (found []dataplane.Finding) {
	asked := map[netip.Addr]bool{}
	var mu sync.Mutex
	var group sync.WaitGroup
	room := make(chan struct{}, together)
	for _, s := range have.Services {
		vip := s.VIP.Addr()
		card := cardOf(have.Host, vip)
		if card == 0 || asked[vip] || !vip.Is4() {
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

const (
	arpSize    = 28
	arpRequest = 1
	arpReply   = 2
)

// probe sends one ARP probe and waits for an answer.
func probe(ctx context.Context, card int, address netip.Addr) (mac net.HardwareAddr, there bool) {
	link, err := netlink.LinkByIndex(card)
	if err != nil || len(link.Attrs().HardwareAddr) != 6 {
		return nil, false
	}
	protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ARP))
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return nil, false
	}
	defer unix.Close(socket)
	if unix.Bind(socket, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: card}) != nil {
		return nil, false
	}
	own := link.Attrs().HardwareAddr
	ip := address.As4()
	ask := []byte{0, 1, 8, 0, 6, 4, 0, arpRequest}
	ask = append(ask, own...)
	ask = append(ask, 0, 0, 0, 0) // a probe: nobody's address
	ask = append(ask, 0, 0, 0, 0, 0, 0)
	ask = append(ask, ip[:]...)
	everyone := &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: card, Halen: 6, Addr: [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	if unix.Sendto(socket, ask, 0, everyone) != nil {
		return nil, false
	}
	deadline := time.Now().Add(Patience)
	buf := make([]byte, 64)
	for ctx.Err() == nil {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, false
		}
		wait := unix.NsecToTimeval(left.Nanoseconds())
		if unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait) != nil {
			return nil, false
		}
		n, _, err := unix.Recvfrom(socket, buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, false
		}
		if n >= arpSize && buf[7] == arpReply && [4]byte(buf[14:18]) == ip && string(buf[8:14]) != string(own) {
			return net.HardwareAddr(append([]byte(nil), buf[8:14]...)), true
		}
	}
	return nil, false
}
