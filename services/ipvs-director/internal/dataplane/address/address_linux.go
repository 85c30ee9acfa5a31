package address

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
)

const (
	// ifaProto is IFA_PROTO of include/uapi/linux/if_addr.h: who put the address there. ip(8) shows it as "proto".
	ifaProto = 11
	// mark is this director's value of it. 0 to 3 are the kernel's; the other values are free.
	mark = 0x74
	// readings is how often an interrupted listing is begun again.
	readings = 3
	// forwarding is read in the network namespace of the calling thread.
	forwarding = "/proc/sys/net/ipv4/ip_forward"
)

// Host is the network stack of the namespace that its methods are called in. It keeps no state.
type Host struct{}

// Observe lists the addresses of all network cards but the loopback, in the order of card and address. One of IPv6 is there when its
// network has not objected to it, and while it is asked it is not (RFC 4862 section 5.4).
func (Host) Observe(ctx context.Context) (plan.Host, error) {
	var host plan.Host
	setting, err := os.ReadFile(forwarding)
	if err != nil {
		return host, fmt.Errorf("read whether this node forwards: %w", err)
	}
	host.Forwarding = strings.TrimSpace(string(setting)) == "1"
	links, err := netlink.LinkList()
	if err != nil {
		return host, fmt.Errorf("list network cards: %w", err)
	}
	names := map[int]string{}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagLoopback == 0 {
			names[l.Attrs().Index] = l.Attrs().Name
		}
	}
	addresses, err := list(ctx)
	if err != nil {
		return host, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addresses {
		if a.CardName = names[a.Card]; a.CardName != "" {
			host.Addresses = append(host.Addresses, a)
		}
	}
	return host, nil
}

// Apply puts one address on a network card and announces it, or takes one away.
func (h Host) Apply(ctx context.Context, c plan.Change) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch {
	case c.Kind == plan.AddAddress && c.Card == 0:
		return fmt.Errorf("%s: %w", c, plan.ErrNoCard)
	case c.Kind == plan.AddAddress:
		if err := add(ctx, c); err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		if err := announce(c.Card, c.Address.Addr()); err != nil {
			return fmt.Errorf("%s: it is there, but could not be announced: %w", c, err)
		}
		return nil
	case c.Kind == plan.RemoveAddress:
		err := request(unix.RTM_DELADDR, 0, c)
		if err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) { // somebody was faster
			return fmt.Errorf("%s: %w", c, err)
		}
		return nil
	}
	return fmt.Errorf("%s: not a change of an address", c)
}

// add puts the address on the card and makes sure that the kernel has kept the mark: without it a later director
// would never take the address away.
func add(ctx context.Context, c plan.Change) error {
	if err := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, c); err != nil {
		return err
	}
	addresses, err := list(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(addresses, func(a plan.HostAddress) bool { return a.Card == c.Card && a.Prefix == c.Address && a.Ours }) {
		return nil
	}
	return errors.Join(errors.New("this kernel keeps no mark on addresses: Linux 5.18 or later does"), request(unix.RTM_DELADDR, 0, c))
}

// request sends one message about one address. The netlink library's own calls leave out IFA_PROTO.
func request(kind, flags int, c plan.Change) error {
	address := c.Address.Addr().AsSlice()
	r := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	head := nl.NewIfAddrmsg(unix.AF_INET)
	head.Prefixlen = uint8(c.Address.Bits())
	head.Index = uint32(c.Card)
	r.AddData(head)
	r.AddData(nl.NewRtAttr(unix.IFA_LOCAL, address))
	r.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, address))
	r.AddData(nl.NewRtAttr(ifaProto, []byte{mark}))
	_, err := r.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// list reads all addresses, again when another change has interrupted the listing.
func list(ctx context.Context) ([]plan.HostAddress, error) {
	var err error
	for range readings {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		r := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
		r.AddData(nl.NewIfAddrmsg(unix.AF_UNSPEC))
		var messages [][]byte
		messages, err = r.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
		if err == nil {
			return parse(messages)
		}
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return nil, err
}

func parse(messages [][]byte) (addresses []plan.HostAddress, err error) {
	for _, m := range messages {
		if len(m) < unix.SizeofIfAddrmsg {
			return nil, errors.New("short message from the kernel")
		}
		head := nl.DeserializeIfAddrmsg(m)
		attributes, err := nl.ParseRouteAttr(m[head.Len():])
		if err != nil {
			return nil, err
		}
		if head.Family != unix.AF_INET && head.Family != unix.AF_INET6 || !usable(head.Flags) {
			continue
		}
		a := plan.HostAddress{Card: int(head.Index)}
		local := false // without one, as mostly with IPv6, IFA_ADDRESS is the node's own
		for _, attribute := range attributes {
			switch kind := attribute.Attr.Type; kind {
			case unix.IFA_LOCAL, unix.IFA_ADDRESS:
				if ip, ok := netip.AddrFromSlice(attribute.Value); ok && (kind == unix.IFA_LOCAL || !local) {
					a.Prefix, local = netip.PrefixFrom(ip, int(head.Prefixlen)), local || kind == unix.IFA_LOCAL
				}
			case ifaProto:
				a.Ours = len(attribute.Value) == 1 && attribute.Value[0] == mark
			}
		}
		if a.Prefix.IsValid() {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, func(a, b plan.HostAddress) int {
		if a.Card != b.Card {
			return a.Card - b.Card
		}
		return a.Prefix.Addr().Compare(b.Prefix.Addr())
	})
	return addresses, nil
}

// usable tells whether the node answers for an address with these flags (IFA_F_... of include/uapi/linux/if_addr.h).
func usable(flags uint8) bool {
	waits := flags&unix.IFA_F_TENTATIVE != 0 && flags&unix.IFA_F_OPTIMISTIC == 0
	return !waits && flags&unix.IFA_F_DADFAILED == 0
}

// announce tells the neighbours on a card's network that the address is here now, both ways, because some listen to
// one only. A card that is not Ethernet has no neighbours to tell.
func announce(card int, address netip.Addr) error {
	link, err := netlink.LinkByIndex(card)
	if err != nil {
		return err
	}
	mac := link.Attrs().HardwareAddr
	if len(mac) != 6 {
		return nil
	}
	// The protocol 0 receives nothing. NET_RAW is needed here.
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	everyone := &unix.SockaddrLinklayer{
		Protocol: binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff}), // in network order
		Ifindex:  card,
		Halen:    6,
		Addr:     [8]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
	}
	for _, operation := range []uint16{arpRequest, arpReply} {
		err = errors.Join(err, unix.Sendto(socket, announcement(operation, mac, address), 0, everyone))
	}
	return errors.Join(err, unix.Close(socket))
}
