// Package netdev answers: what is on this node's network cards, and how do adverts get in and out?
//
// It holds the calls to the kernel: addresses and link events by netlink, adverts by a raw socket, gratuitous ARP by a
// packet socket. It decides nothing. CAP_NET_ADMIN and CAP_NET_RAW are all that it needs.
package netdev

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
)

const (
	// kernelTimeout bounds one netlink request.
	kernelTimeout = 2 * time.Second
	// relook is how often the cards are looked at although the kernel has reported nothing: it heals lost events.
	relook = 10 * time.Second
	// dumpTries is how often a list is read again that changed while it was read.
	dumpTries = 5
	// resubscribe is the pause before the events are subscribed to again after an error, such as a queue run over.
	resubscribe = 100 * time.Millisecond
)

// Host is the network of this node: of the network namespace that the process was started in.
type Host struct {
	log     *zap.Logger
	handle  *netlink.Handle
	sockets map[int]*nl.SocketHandle // for what handle does not do
	fresh   sync.Mutex               // one look at a time, so that an older one never replaces a newer
	view    atomic.Pointer[nic.View]
	leases  leases

	wearing sync.Mutex      // one card with a virtual Ethernet address at a time is made or removed
	before  map[int]manners // how the cards that have one behind them were set; guarded by wearing
}

// Open connects to the kernel and takes the first view. Close it.
func Open(log *zap.Logger) (*Host, error) {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	h := &Host{log: log.Named("netdev"), handle: handle, before: map[int]manners{}}
	socket, err := nl.GetNetlinkSocketAt(-1, -1, unix.NETLINK_ROUTE) // where we are
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	h.sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: socket}}
	timeout := unix.NsecToTimeval(kernelTimeout.Nanoseconds())
	if err := errors.Join(handle.SetSocketTimeout(kernelTimeout), socket.SetSendTimeout(&timeout), socket.SetReceiveTimeout(&timeout)); err != nil {
		h.Close()
		return nil, fmt.Errorf("set the timeout of netlink: %w", err)
	}
	if _, err := h.Refresh(); err != nil {
		h.Close()
		return nil, err
	}
	h.unleased(h.leases.open())
	return h, nil
}

// Close ends the connection to the kernel.
func (h *Host) Close() {
	h.handle.Close()
	h.leases.close()
	for _, s := range h.sockets {
		s.Close()
	}
}

// unleased tells that the kernel has refused, once.
func (h *Host) unleased(err error) {
	if err != nil {
		h.log.Warn("a machine that is stopped as a whole may answer for an address that it has lost when it goes on", zap.Error(err))
	}
}

// View is the newest view of the cards. Any goroutine may call; the view is not to be changed.
func (h *Host) View() nic.View { return *h.view.Load() }

// Refresh looks at the cards now. Any goroutine may call.
func (h *Host) Refresh() (nic.View, error) {
	h.fresh.Lock()
	defer h.fresh.Unlock()
	links, err := whole(h.handle.LinkList)
	if err != nil {
		return nic.View{}, fmt.Errorf("list network cards: %w", err)
	}
	addresses, err := whole(func() ([]netlink.Addr, error) { return h.handle.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nic.View{}, fmt.Errorf("list addresses: %w", err)
	}
	addressesV6, err := whole(h.listV6)
	if err != nil {
		return nic.View{}, fmt.Errorf("list addresses of IPv6: %w", err)
	}
	var routers map[int]bool
	if len(addressesV6) > 0 {
		if routers, err = whole(h.routers); err != nil {
			return nic.View{}, fmt.Errorf("list which network cards forward: %w", err)
		}
	}
	v := view(links, addresses, addressesV6, routers)
	h.view.Store(&v)
	return v, nil
}

// whole reads a list until the kernel says that it did not change meanwhile.
func whole[T any](list func() (T, error)) (all T, err error) {
	for range dumpTries {
		if all, err = list(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// view turns the kernel's answers into a View.
func view(links []netlink.Link, addresses []netlink.Addr, addressesV6 []addressV6, routers map[int]bool) nic.View {
	var v nic.View
	for _, link := range links {
		a := link.Attrs()
		card := nic.Card{Index: a.Index, Name: a.Name, Up: a.RawFlags&unix.IFF_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0, Router: routers[a.Index]}
		copy(card.MAC[:], a.HardwareAddr)
		for _, address := range addresses {
			ip, ok := netip.AddrFromSlice(address.IP.To4())
			if bits, _ := address.Mask.Size(); ok && address.LinkIndex == a.Index {
				card.Addresses = append(card.Addresses, netip.PrefixFrom(ip, bits))
				if bits == 32 && strings.HasSuffix(address.Label, mark) {
					card.Marked = append(card.Marked, ip)
				}
			}
		}
		for _, address := range addressesV6 {
			if address.index == a.Index {
				card.Addresses = append(card.Addresses, address.prefix)
				if address.marked {
					card.Marked = append(card.Marked, address.prefix.Addr())
				}
			}
		}
		v.Cards = append(v.Cards, card)
	}
	slices.SortFunc(v.Cards, func(a, b nic.Card) int { return cmp.Compare(a.Index, b.Index) })
	return v
}

// Run keeps the view up to date until ctx ends, and calls changed after each event of the kernel. changed must not block.
func (h *Host) Run(ctx context.Context, changed func()) error {
	for ctx.Err() == nil {
		if err := h.follow(ctx, changed); err != nil {
			h.log.Warn("following network events", zap.Error(err))
		}
		select {
		case <-ctx.Done():
		case <-time.After(resubscribe):
		}
	}
	return nil
}

// follow returns with the subscription.
func (h *Host) follow(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	links, addresses := make(chan netlink.LinkUpdate, 16), make(chan netlink.AddrUpdate, 16)
	routes := make(chan netlink.RouteUpdate, 16)
	failed := make(chan error, 3) // one for each subscription; later errors are of no interest
	report := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	linkErr := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{ErrorCallback: report})
	var addressErr error
	if linkErr == nil {
		addressErr = netlink.AddrSubscribeWithOptions(addresses, done, netlink.AddrSubscribeOptions{ErrorCallback: report})
	}
	var routeErr error
	if linkErr == nil && addressErr == nil {
		routeErr = netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{ErrorCallback: report})
	}
	// The subscriptions end when done is closed, but hand over first what they have in hand.
	defer func() {
		close(done)
		if linkErr == nil {
			for range links {
			}
		}
		if linkErr == nil && addressErr == nil {
			for range addresses {
			}
		}
		if linkErr == nil && addressErr == nil && routeErr == nil {
			for range routes {
			}
		}
	}()
	if err := errors.Join(linkErr, addressErr, routeErr); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}

	ticker := time.NewTicker(relook)
	defer ticker.Stop()
	event := true // whatever happened before the subscription
	for {
		before := h.View()
		after, err := h.Refresh()
		if err != nil {
			return err
		}
		if event || !reflect.DeepEqual(before, after) {
			changed()
		}
		event = true
		for news := false; !news; {
			news = true
			select {
			case <-ctx.Done():
				return nil
			case err := <-failed:
				return err
			case <-ticker.C:
				event = false
			case _, open := <-links:
				if !open {
					return errors.New("link events ended")
				}
			case u, open := <-addresses:
				if !open {
					return errors.New("address events ended")
				}
				news = !renews(u, h.View())
			case u, open := <-routes:
				if !open {
					return errors.New("route events ended")
				}
				news = u.Type == unix.RTM_DELROUTE && u.Protocol == routeProtocol
			}
		}
		drain(links)
		drain(addresses)
		drain(routes)
	}
}

// renews tells whether the event is only that an address that is known lives longer. Our own renewals are such events,
// several a second.
func renews(u netlink.AddrUpdate, v nic.View) bool {
	ip, ok := netip.AddrFromSlice(u.LinkAddress.IP)
	ip = ip.Unmap()
	bits, _ := u.LinkAddress.Mask.Size()
	return u.NewAddr && ok && bits == ip.BitLen() && v.On(u.LinkIndex, ip)
}

// drain takes what is there: one look answers all events of the moment.
func drain[T any](c <-chan T) {
	for range cap(c) {
		select {
		case _, open := <-c:
			if !open {
				return
			}
		default:
			return
		}
	}
}

// Add puts a single address (/32, /128) on a card for life, whole seconds, after which the kernel removes it. One that is there
// lives for that long from now on. It tells whether it was not there before. Where the kernel has nf_tables, nobody who asks
// for the address is answered when that time is over.
func (h *Host) Add(index int, a netip.Addr, life time.Duration) (bool, error) {
	h.unleased(h.leases.extend(a, life))
	if a.Is6() {
		return h.addV6(index, a, life)
	}
	address := single(a)
	address.Label = label(h.View(), index)
	// The kernel looks after the longer of the two times only when the shorter one has an end.
	address.ValidLft = int(life / time.Second)
	address.PreferedLft = address.ValidLft
	err := h.handle.AddrAdd(card(index), address)
	there := errors.Is(err, unix.EEXIST)
	if there {
		err = h.handle.AddrReplace(card(index), address)
	}
	if err != nil {
		return false, fmt.Errorf("add %v to network card %d: %w", a, index, err)
	}
	return !there, nil
}

// Asleep is how long the machine has been asleep since its start: the one clock of the kernel goes on meanwhile, the other
// does not.
func (h *Host) Asleep() time.Duration {
	var with, without unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &without) // both are always there
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &with)
	// Between the two calls a moment has passed, which is no sleep.
	return time.Duration(with.Nano()-without.Nano()) / time.Millisecond * time.Millisecond
}

// mark is the end of the label of an address that an agent has put there. When a card gets another name, the kernel
// keeps what stands behind the colon (inetdev_changename in net/ipv4/devinet.c).
const mark = ":vrrp"

// label is the name of the card, cut to what fits (IFNAMSIZ), and the mark: eth0:vrrp.
func label(v nic.View, index int) string {
	name := ""
	for _, c := range v.Cards {
		if c.Index == index {
			name = c.Name
		}
	}
	return name[:min(len(name), unix.IFNAMSIZ-1-len(mark))] + mark
}

// Remove takes a single address (/32, /128) off a card and tells whether it was there. A card that Wear has made
// is switched off with its last one. That it, or the card, is not there is no
// error.
func (h *Host) Remove(index int, a netip.Addr) (bool, error) {
	defer func() { h.unleased(h.leases.end(a)) }()
	err := h.handle.AddrDel(card(index), single(a))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		return false, nil
	}
	if err == nil {
		err = h.rest(index)
	}
	if err != nil {
		return false, fmt.Errorf("remove %v from network card %d: %w", a, index, err)
	}
	return true, nil
}

func card(index int) netlink.Link {
	return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
}

func single(a netip.Addr) *netlink.Addr {
	return &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
}
