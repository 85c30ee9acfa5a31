package nftables

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// lastOpen is the last state of a TCP connection in which a side may still have something to say: TCP_CONNTRACK_CLOSE_WAIT of
// include/uapi/linux/netfilter/nf_conntrack_tcp.h. Behind it are last acknowledgement, time wait and close.
const lastOpen = 5

// CountOpen counts the connections that real servers have open, by looking through all that conntrack knows.
func (p *Plane) CountOpen(ctx context.Context, keys []steer.Key) (map[steer.Key]uint64, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list connections: %w", err)
	}
	open := make(map[steer.Key]uint64, len(keys))
	for _, key := range keys {
		open[key] = 0
	}
	for _, f := range flows {
		if !isOpen(f) {
			continue
		}
		for _, key := range keysOfFlow(f) {
			if n, asked := open[key]; asked {
				open[key] = n + 1
				break
			}
		}
	}
	return open, nil
}

func isOpen(f *netlink.ConntrackFlow) bool {
	tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && tcp.State <= lastOpen
}

// keysOfFlow are the two ways to read a connection: its first packet came from the client, or, when it was taken up from
// another director, from the real server.
func keysOfFlow(f *netlink.ConntrackFlow) [2]steer.Key {
	return [2]steer.Key{
		{VIP: end(f.Forward.DstIP, f.Forward.DstPort), Real: end(f.Reverse.SrcIP, f.Reverse.SrcPort)},
		{VIP: end(f.Reverse.DstIP, f.Reverse.DstPort), Real: end(f.Forward.SrcIP, f.Forward.SrcPort)},
	}
}

func end(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// Reset makes the kernel forget the connections of real servers that get no new ones. The next segment of the client goes
// to another real server, which answers with a reset.
func (p *Plane) Reset(ctx context.Context, keys []steer.Key) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, ofKeys(keys)); err != nil {
		return fmt.Errorf("forget connections: %w", err)
	}
	return nil
}

// ofKeys matches the connections of real servers.
type ofKeys []steer.Key

// MatchConntrackFlow is called for each connection.
func (keys ofKeys) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	ways := keysOfFlow(f)
	for _, key := range keys {
		if key == ways[0] || key == ways[1] {
			return true
		}
	}
	return false
}
