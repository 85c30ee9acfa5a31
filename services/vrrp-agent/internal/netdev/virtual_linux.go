package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// wornAlias marks the cards that Wear makes.
const wornAlias = "twotier vrrp-agent"

// Settings of a card (include/uapi/linux/ip.h) and of its IPv6 (include/uapi/linux/if_link.h), as netlink names them.
const (
	confRPFilter      = 8
	confARPAnnounce   = 18
	confARPIgnore     = 19
	confAcceptLocal   = 23
	inet4Conf         = 1 // IFLA_INET_CONF
	inet6AddrGenMode  = 8 // IFLA_INET6_ADDR_GEN_MODE
	addrGenNone       = 1
	reversePathLoose  = 2
	answerOwnOnly     = 1 // arp_ignore: the address must be on the card that the question has come by
	speakAsItself     = 2 // arp_announce: with an address of the card that speaks
	acceptFromOurself = 1
)

// Wear makes a card with the virtual Ethernet address of an instance behind the port's card, a macvlan, switched off, or
// finds the one that it has made. It answers for what stands on it and for nothing else; the port's card is made to answer no
// more for what stands on others, nor to speak in their name. Another card of that name is an error.
func (h *Host) Wear(p nic.Port, name string, mac packet.MAC) (index int, err error) {
	link, err := h.handle.LinkByName(name)
	if err == nil {
		worn, ok := link.(*netlink.Macvlan)
		switch {
		case !ok || link.Attrs().Alias != wornAlias:
			return 0, fmt.Errorf("network card %s is there already, and somebody else's", name)
		case worn.ParentIndex == p.Index && packet.MAC(link.Attrs().HardwareAddr) == mac:
			return link.Attrs().Index, nil
		}
		if err := h.handle.LinkDel(link); err != nil { // of a port that was another one
			return 0, fmt.Errorf("remove network card %s: %w", name, err)
		}
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, fmt.Errorf("look for network card %s: %w", name, err)
	}
	// In the mode bridge what comes from the same Ethernet address on another machine still reaches the port's card; in the
	// others the kernel takes it for an echo of its own (macvlan_handle_frame in drivers/net/macvlan.c).
	link = &netlink.Macvlan{Mode: netlink.MACVLAN_MODE_BRIDGE, LinkAttrs: netlink.LinkAttrs{
		Name: name, ParentIndex: p.Index, HardwareAddr: net.HardwareAddr(mac[:]), TxQLen: -1,
	}}
	if err := h.handle.LinkAdd(link); err != nil {
		return 0, fmt.Errorf("make network card %s: %w", name, err)
	}
	// No address from what routers announce: both machines would have the same one. Netlink has no way to say so, and where
	// /proc/sys cannot be written, as in most containers, rest sees to it that such an address keeps no card on.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/accept_ra", []byte("0"), 0)
	if err = h.handle.LinkSetAlias(link, wornAlias); err == nil { // the kernel takes none with a new card
		link, err = h.handle.LinkByName(name)
	}
	if err == nil {
		index = link.Attrs().Index
		err = errors.Join(
			h.configure(p.Index, map[int]uint32{confARPIgnore: answerOwnOnly, confARPAnnounce: speakAsItself}, false),
			h.configure(index, map[int]uint32{
				confARPIgnore: answerOwnOnly, confARPAnnounce: speakAsItself, confRPFilter: reversePathLoose, confAcceptLocal: acceptFromOurself,
			}, true),
		)
	}
	if err != nil {
		return 0, fmt.Errorf("set network card %s up: %w", name, err)
	}
	return index, nil
}

// Switch switches a card that Wear has made on or off. A card that is on takes in what is sent to its Ethernet address,
// which only a master may (RFC 9568, section 6.4.2).
func (h *Host) Switch(index int, on bool) error {
	set, state := h.handle.LinkSetDown, "off"
	if on {
		set, state = h.handle.LinkSetUp, "on"
	}
	if err := set(card(index)); err != nil {
		return fmt.Errorf("switch network card %d %s: %w", index, state, err)
	}
	return nil
}

// configure sets a card's settings of IPv4, and, if it is bare, that it makes no address of IPv6 for itself: it would ask the
// network for it in the virtual address's name.
func (h *Host) configure(index int, settings map[int]uint32, bare bool) error {
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inet4Conf, nil)
	for id, value := range settings {
		conf.AddRtAttr(id, binary.NativeEndian.AppendUint32(nil, value))
	}
	if bare && h.speaksV6(index) {
		spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(inet6AddrGenMode, []byte{addrGenNone})
	}
	_, err := h.ask(unix.RTM_SETLINK, unix.NLM_F_ACK, head, spec).Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// speaksV6 tells whether the card has IPv6: the kernel refuses settings of what is not there.
func (h *Host) speaksV6(index int) bool {
	routers, err := whole(h.routers)
	_, there := routers[index]
	return err == nil && there
}

// rest switches a card that Wear has made off when nothing stands on it any more.
func (h *Host) rest(index int) error {
	link, err := h.handle.LinkByIndex(index)
	if err != nil || link.Attrs().Alias != wornAlias {
		return nil // gone, or not ours
	}
	v, err := h.Refresh()
	if err != nil {
		return err
	}
	// What the kernel has made there itself, out of what routers announce, keeps no card on.
	if slices.ContainsFunc(v.Cards, func(c nic.Card) bool { return c.Index == index && len(c.Marked) > 0 }) {
		return nil
	}
	return h.Switch(index, false)
}

// Doff removes a card that Wear has made. That it is not there is no error.
func (h *Host) Doff(index int) error {
	if err := h.handle.LinkDel(card(index)); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove network card %d: %w", index, err)
	}
	return nil
}

// Strip removes all cards that Wear has made, with what is left on them.
func (h *Host) Strip() error {
	links, err := whole(h.handle.LinkList)
	if err != nil {
		return fmt.Errorf("list network cards: %w", err)
	}
	var errs []error
	for _, link := range links {
		if link.Attrs().Alias == wornAlias {
			errs = append(errs, h.Doff(link.Attrs().Index))
		}
	}
	return errors.Join(errs...)
}

// Via makes a card the one that adverts go out by; the port's own when it is 0.
func (w *Wire) Via(index int) error {
	if index == 0 {
		index = w.port.Index
	}
	if w.port.Source.Is6() {
		w.v6.toGroup.ZoneId = uint32(index)
		w.v6.fromGroup = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: w.port.Source.As16(), Ifindex: uint32(index)})
		return w.set(func(fd int) error {
			return errors.Join(
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index),
				// The source is the port's address and not one of that card.
				unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1),
			)
		})
	}
	sender := unix.IPMreqn{Address: w.port.Source.As4(), Ifindex: int32(index)}
	return w.set(func(fd int) error {
		return unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &sender)
	})
}

func (w *Wire) set(option func(fd int) error) error {
	var err error
	controlErr := w.raw.Control(func(fd uintptr) { err = option(int(fd)) })
	return errors.Join(controlErr, err)
}
