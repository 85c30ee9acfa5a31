package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes of the kernel that the libraries do not name: the origin of an address (include/uapi/linux/if_addr.h, since
// Linux 5.18; older ones ignore it) and a card's settings (include/uapi/linux/netconf.h).
const (
	ifaProto         = 11
	netconfIndex     = 1
	netconfForwarded = 2
)

// markV6 is the origin of an address of IPv6 that an agent has put on a card. Those of IPv4 have a label for it, which IPv6
// has not. Below 4 are the kernel's own; this is the protocol number of VRRP.
const markV6 = 112

// Flags of our addresses of IPv6: nobody is asked whether it is free, because the peer is known to have given it up, and
// no route is made for a subnet of one address.
const flagsV6 = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE

// addressV6 is an address of IPv6 on a card.
type addressV6 struct {
	index  int
	prefix netip.Prefix
	marked bool
}

// ask makes a request on the socket of this room, which is of the namespace that the process was started in.
func (h *Host) ask(kind, flags int, data ...nl.NetlinkRequestData) *nl.NetlinkRequest {
	r := nl.NewNetlinkRequest(kind, flags)
	r.Sockets = h.sockets
	r.Data = data
	return r
}

// listV6 lists the addresses of IPv6 that can be used.
func (h *Host) listV6() ([]addressV6, error) {
	messages, err := h.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, nl.NewIfAddrmsg(unix.AF_INET6)).Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	if err != nil {
		return nil, err
	}
	var all []addressV6
	for _, m := range messages {
		head := nl.DeserializeIfAddrmsg(m)
		attributes, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, err
		}
		if head.Family != unix.AF_INET6 { // a kernel without IPv6 lists all that it has
			continue
		}
		a, local := addressV6{index: int(head.Index)}, false
		flags := uint32(head.Flags)
		for _, t := range attributes {
			switch t.Attr.Type {
			case unix.IFA_LOCAL, unix.IFA_ADDRESS:
				// With a peer both are there; ours is the local one.
				if ip, ok := netip.AddrFromSlice(t.Value); ok && !local {
					a.prefix, local = netip.PrefixFrom(ip, int(head.Prefixlen)), t.Attr.Type == unix.IFA_LOCAL
				}
			case unix.IFA_FLAGS:
				if len(t.Value) >= 4 {
					flags = binary.NativeEndian.Uint32(t.Value)
				}
			case ifaProto:
				a.marked = len(t.Value) == 1 && t.Value[0] == markV6
			}
		}
		if a.prefix.IsValid() && flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == 0 {
			all = append(all, a)
		}
	}
	return all, nil
}

// routers tells by their indexes which cards forward what comes in by IPv6. A kernel without IPv6 knows none.
func (h *Host) routers() (map[int]bool, error) {
	head := rawData{unix.AF_INET6, 0, 0, 0} // struct netconfmsg
	messages, err := h.ask(unix.RTM_GETNETCONF, unix.NLM_F_DUMP, head).Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNETCONF)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all := map[int]bool{}
	for _, m := range messages {
		if len(m) < len(head) {
			continue
		}
		attributes, err := nl.ParseRouteAttr(m[len(head):])
		if err != nil {
			return nil, err
		}
		index, forwards := 0, false
		for _, t := range attributes {
			if len(t.Value) < 4 {
				continue
			}
			switch v := binary.NativeEndian.Uint32(t.Value); t.Attr.Type {
			case netconfIndex:
				index = int(v)
			case netconfForwarded:
				forwards = v != 0
			}
		}
		all[index] = forwards
	}
	return all, nil
}

// rawData is bytes of a request.
type rawData []byte

func (d rawData) Len() int          { return len(d) }
func (d rawData) Serialize() []byte { return d }

// addV6 is Add for IPv6. The address is one that nothing is sent from unless it was asked for (preferred lifetime 0), as
// with keepalived: what the node itself sends must not bear an address that moves.
func (h *Host) addV6(index int, a netip.Addr, life time.Duration) (bool, error) {
	request := func(flags int) error {
		head := nl.NewIfAddrmsg(unix.AF_INET6)
		head.Prefixlen, head.Index = uint8(a.BitLen()), uint32(index)
		life := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: uint32(life / time.Second)}}
		_, err := h.ask(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_ACK|flags, head,
			nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice()),
			nl.NewRtAttr(unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, flagsV6)),
			nl.NewRtAttr(unix.IFA_CACHEINFO, life.Serialize()), nl.NewRtAttr(ifaProto, []byte{markV6}),
		).Execute(unix.NETLINK_ROUTE, 0)
		return err
	}
	err := request(unix.NLM_F_EXCL)
	there := errors.Is(err, unix.EEXIST)
	if there {
		err = request(unix.NLM_F_REPLACE)
	}
	if err != nil {
		return false, fmt.Errorf("add %v to network card %d: %w", a, index, err)
	}
	return !there, nil
}
