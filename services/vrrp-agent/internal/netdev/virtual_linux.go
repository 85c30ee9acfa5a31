package netdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
)

// wornAlias marks the cards that Wear makes. Behind it stands what the port's card was set to before, so that it can be put
// back in another life of the agent too.
const wornAlias = "twotier vrrp-agent"

// manners are how a card answers and speaks by ARP.
type manners struct{ ignore, announce uint32 }

// wornManners are those of a port's card while it has a card with a virtual Ethernet address behind it.
var wornManners = manners{ignore: answerOwnOnly, announce: speakAsItself}

// alias is the mark of a card that Wear makes.
func (m manners) alias() string {
	return fmt.Sprintf(wornAlias+", arp_ignore was %d, arp_announce %d", m.ignore, m.announce)
}

// wornBy reads the mark: whether Wear has made the card, and what the port's card was set to, if that is known.
func wornBy(link netlink.Link) (was manners, ours, known bool) {
	alias := link.Attrs().Alias
	_, macvlan := link.(*netlink.Macvlan)
	n, _ := fmt.Sscanf(alias, wornAlias+", arp_ignore was %d, arp_announce %d", &was.ignore, &was.announce)
	return was, macvlan && strings.HasPrefix(alias, wornAlias), n == 2
}

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
	h.wearing.Lock()
	defer h.wearing.Unlock()
	link, err := h.handle.LinkByName(name)
	if err == nil {
		_, ours, _ := wornBy(link)
		a := link.Attrs()
		switch {
		case !ours:
			return 0, fmt.Errorf("network card %s is there already, and somebody else's", name)
		case a.ParentIndex == p.Index && packet.MAC(a.HardwareAddr) == mac:
			return a.Index, nil
		}
		if err := h.doff(a.Index); err != nil { // of a port that was another one
			return 0, err
		}
	} else if !errors.As(err, new(netlink.LinkNotFoundError)) {
		return 0, fmt.Errorf("look for network card %s: %w", name, err)
	}
	was, known := h.before[p.Index]
	if !known {
		if was, err = h.manners(p.Index); err != nil {
			return 0, fmt.Errorf("see how network card %s is set: %w", p.Name, err)
		}
		h.before[p.Index] = was
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
	if err = h.handle.LinkSetAlias(link, was.alias()); err == nil { // the kernel takes none with a new card
		link, err = h.handle.LinkByName(name)
	}
	if err == nil {
		index = link.Attrs().Index
		err = errors.Join(
			h.behave(p.Index, wornManners),
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

// behave sets how a card answers and speaks by ARP.
func (h *Host) behave(index int, m manners) error {
	return h.configure(index, map[int]uint32{confARPIgnore: m.ignore, confARPAnnounce: m.announce}, false)
}

// manners tells how a card is set to answer and to speak by ARP.
func (h *Host) manners(index int) (m manners, err error) {
	head := nl.NewIfInfomsg(unix.AF_UNSPEC)
	head.Index = int32(index)
	messages, err := h.ask(unix.RTM_GETLINK, unix.NLM_F_ACK, head).Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return m, err
	}
	for _, message := range messages {
		conf, err := within(message[head.Len():], unix.IFLA_AF_SPEC, unix.AF_INET, inet4Conf)
		if err != nil {
			return m, err
		}
		value := func(id int) uint32 { return binary.NativeEndian.Uint32(conf[4*(id-1):]) } // they are counted from 1
		if len(conf) >= 4*confARPIgnore {
			return manners{ignore: value(confARPIgnore), announce: value(confARPAnnounce)}, nil
		}
	}
	return m, errors.New("the kernel does not tell")
}

// within finds an attribute in attributes in attributes; nil: there is none.
func within(b []byte, path ...uint16) ([]byte, error) {
	for _, kind := range path {
		attributes, err := nl.ParseRouteAttr(b)
		if err != nil {
			return nil, err
		}
		b = nil
		for _, a := range attributes {
			if a.Attr.Type == kind {
				b = a.Value
			}
		}
	}
	return b, nil
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
	if err != nil {
		return nil // gone
	}
	if _, ours, _ := wornBy(link); !ours {
		return nil
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

// Doff removes a card that Wear has made; with the last one behind a card, that card is set again as it was before. What
// somebody else has set meanwhile stays. That the card is not there is no error.
func (h *Host) Doff(index int) error {
	h.wearing.Lock()
	defer h.wearing.Unlock()
	return h.doff(index)
}

func (h *Host) doff(index int) error {
	link, err := h.handle.LinkByIndex(index)
	if err != nil && !errors.As(err, new(netlink.LinkNotFoundError)) {
		return fmt.Errorf("look for network card %d: %w", index, err)
	}
	if err == nil {
		was, ours, known := wornBy(link)
		if !ours {
			return nil // it has the index of one that is gone
		}
		port := link.Attrs().ParentIndex
		if _, remembered := h.before[port]; known && !remembered { // of another life
			h.before[port] = was
		}
		if err := h.handle.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("remove network card %d: %w", index, err)
		}
	}
	left, err := h.worn()
	if err != nil {
		return err
	}
	var errs []error
	for port, was := range h.before {
		if slices.ContainsFunc(left, func(l netlink.Link) bool { return l.Attrs().ParentIndex == port }) {
			continue
		}
		delete(h.before, port)
		if err := h.putBack(port, was); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("set network card %d as it was: %w", port, err))
		}
	}
	return errors.Join(errs...)
}

// putBack sets a card as it was, except for what is no longer as behave has set it.
func (h *Host) putBack(port int, was manners) error {
	now, err := h.manners(port)
	if err != nil {
		return err
	}
	if now.ignore != wornManners.ignore {
		was.ignore = now.ignore
	}
	if now.announce != wornManners.announce {
		was.announce = now.announce
	}
	return h.behave(port, was)
}

// worn are the cards that Wear has made.
func (h *Host) worn() ([]netlink.Link, error) {
	links, err := whole(h.handle.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	return slices.DeleteFunc(links, func(l netlink.Link) bool { _, ours, _ := wornBy(l); return !ours }), nil
}

// Strip removes all cards that Wear has made, with what is left on them.
func (h *Host) Strip() error {
	links, err := h.worn()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		errs = append(errs, h.Doff(link.Attrs().Index))
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
