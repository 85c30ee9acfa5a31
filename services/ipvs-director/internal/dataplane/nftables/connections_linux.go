package nftables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// lastOpen is the last state of a TCP connection in which a side may still have something to say: TCP_CONNTRACK_CLOSE_WAIT of
// include/uapi/linux/netfilter/nf_conntrack_tcp.h. Behind it are last acknowledgement, time wait and close.
const lastOpen = 5

// lastAcknowledgement is the last state in which a connection keeps its real server: behind it, in time wait and close, conntrack
// takes a packet that opens one for a new one (nf_conntrack_proto_tcp.c), but for one that the real server has reset.
const lastAcknowledgement = 6

// CountOpen counts the connections that real servers have open, by looking through all that conntrack knows. A flow of UDP is
// open for as long as conntrack remembers it (net.netfilter.nf_conntrack_udp_timeout and ..._udp_timeout_stream).
func (p *Plane) CountOpen(ctx context.Context, keys []steer.Key) (map[steer.Key]uint64, error) {
	open := make(map[steer.Key]uint64, len(keys))
	for _, key := range keys {
		open[key] = 0
	}
	for _, family := range families(keys) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			return nil, fmt.Errorf("list connections: %w", err)
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
	}
	return open, nil
}

// families are those of the services of keys.
func families(keys []steer.Key) (all []netlink.InetFamily) {
	for _, six := range []bool{false, true} {
		if slices.ContainsFunc(keys, func(k steer.Key) bool { return k.VIP.Is6() == six }) {
			all = append(all, netlink.InetFamily(familyOf(six)))
		}
	}
	return all
}

func familyOf(six bool) uint8 {
	if six {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func isOpen(f *netlink.ConntrackFlow) bool {
	tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && tcp.State <= lastOpen || f.Forward.Protocol == unix.IPPROTO_UDP
}

// keysOfFlow are the two ways to read a connection: its first packet came from the client, or, when it was taken up from
// another director, from the real server.
func keysOfFlow(f *netlink.ConntrackFlow) [2]steer.Key {
	protocol := spec.TCP
	if f.Forward.Protocol == unix.IPPROTO_UDP {
		protocol = spec.UDP
	}
	return [2]steer.Key{
		{VIP: spec.VIP{AddrPort: end(f.Forward.DstIP, f.Forward.DstPort), Protocol: protocol}, Real: end(f.Reverse.SrcIP, f.Reverse.SrcPort)},
		{VIP: spec.VIP{AddrPort: end(f.Reverse.DstIP, f.Reverse.DstPort), Protocol: protocol}, Real: end(f.Forward.SrcIP, f.Forward.SrcPort)},
	}
}

func end(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// Find tells which real server the connection of a client to a VIP has; false: the kernel has no such connection, or remembers
// one that is over. Any goroutine may call it.
func Find(ctx context.Context, client netip.AddrPort, vip spec.VIP) (real netip.AddrPort, found bool, err error) {
	if err := ctx.Err(); err != nil {
		return real, false, err
	}
	// The kernel marks its one answer as one of many, without an end to them: the acknowledgement behind it is the end, which
	// this library takes for one and the other does not.
	request := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_ACK)
	request.AddData(&nl.Nfgenmsg{NfgenFamily: familyOf(vip.Is6()), Version: nl.NFNETLINK_V0})
	request.AddData(tupleOf(client, vip))
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if errors.Is(err, os.ErrNotExist) {
		return real, false, nil
	}
	if err != nil || len(answers) == 0 {
		return real, false, fmt.Errorf("look for the connection of %s to %s: %w", client, vip, err)
	}
	attributes, err := mdl.NewAttributeDecoder(answers[0][min(headerSize, len(answers[0])):])
	if err != nil {
		return real, false, fmt.Errorf("read the connection of %s to %s: %w", client, vip, err)
	}
	var original, reply netip.AddrPort // where the first packet came from, and where the answers do
	state := uint8(0)                  // of TCP
	for attributes.Next() {
		switch attributes.Type() {
		case nl.CTA_TUPLE_ORIG:
			attributes.Nested(func(t *mdl.AttributeDecoder) error { original = source(t); return nil })
		case nl.CTA_TUPLE_REPLY:
			attributes.Nested(func(t *mdl.AttributeDecoder) error { reply = source(t); return nil })
		case nl.CTA_PROTOINFO:
			attributes.Nested(func(t *mdl.AttributeDecoder) error { state = stateOf(t); return nil })
		}
	}
	if err := attributes.Err(); err != nil {
		return real, false, fmt.Errorf("read the connection of %s to %s: %w", client, vip, err)
	}
	if state > lastAcknowledgement {
		return netip.AddrPort{}, false, nil
	}
	if original == client {
		return reply, true, nil
	}
	return original, true, nil // taken up from the real server
}

// stateOf is the state of a connection by TCP; 0: it has none.
func stateOf(info *mdl.AttributeDecoder) (state uint8) {
	for info.Next() {
		if info.Type() != nl.CTA_PROTOINFO_TCP {
			continue
		}
		info.Nested(func(tcp *mdl.AttributeDecoder) error {
			for tcp.Next() {
				if tcp.Type() == nl.CTA_PROTOINFO_TCP_STATE {
					state = tcp.Uint8()
				}
			}
			return nil
		})
	}
	return state
}

// tupleOf is one direction of a connection (CTA_TUPLE_IP and CTA_TUPLE_PROTO of
// include/uapi/linux/netfilter/nfnetlink_conntrack.h).
func tupleOf(from netip.AddrPort, to spec.VIP) *nl.RtAttr {
	tuple := nl.NewRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_ORIG, nil)
	ip := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_IP, nil)
	if to.Is6() {
		ip.AddRtAttr(nl.CTA_IP_V6_SRC, from.Addr().AsSlice())
		ip.AddRtAttr(nl.CTA_IP_V6_DST, to.Addr().AsSlice())
	} else {
		ip.AddRtAttr(nl.CTA_IP_V4_SRC, from.Addr().AsSlice())
		ip.AddRtAttr(nl.CTA_IP_V4_DST, to.Addr().AsSlice())
	}
	ports := tuple.AddRtAttr(unix.NLA_F_NESTED|nl.CTA_TUPLE_PROTO, nil)
	ports.AddRtAttr(nl.CTA_PROTO_NUM, []byte{protocols[to.Protocol]})
	ports.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, from.Port()))
	ports.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, to.Port()))
	return tuple
}

// source reads where one direction comes from.
func source(tuple *mdl.AttributeDecoder) netip.AddrPort {
	var address netip.Addr
	var port uint16
	for tuple.Next() {
		tuple.Nested(func(part *mdl.AttributeDecoder) error {
			kind := tuple.Type()
			for part.Next() {
				b := part.Bytes()
				switch {
				case kind == nl.CTA_TUPLE_IP && (part.Type() == nl.CTA_IP_V4_SRC || part.Type() == nl.CTA_IP_V6_SRC):
					address, _ = netip.AddrFromSlice(b)
				case kind == nl.CTA_TUPLE_PROTO && part.Type() == nl.CTA_PROTO_SRC_PORT && len(b) == 2:
					port = binary.BigEndian.Uint16(b)
				}
			}
			return nil
		})
	}
	return netip.AddrPortFrom(address, port)
}

// Reset makes the kernel forget the connections of real servers that get no new ones. The next segment of the client goes
// to another real server, which answers with a reset; the next datagram begins a new flow there.
func (p *Plane) Reset(ctx context.Context, keys []steer.Key) error {
	for _, family := range families(keys) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, ofKeys(keys)); err != nil {
			return fmt.Errorf("forget connections: %w", err)
		}
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
