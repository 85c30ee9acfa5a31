package netdev

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// routeProtocol marks the routes of the agent: who made a route stands in it as a number (rtm_protocol in rtnetlink(7)).
// The kernel and the routing daemons have others; this is VRRP's own as a protocol of IP.
const routeProtocol = netlink.RouteProtocol(112)

// Routes are those in the main table that an agent has made.
func (h *Host) Routes() ([]nic.Route, error) {
	var all []nic.Route
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := whole(func() ([]netlink.Route, error) {
			return h.handle.RouteListFiltered(family, &netlink.Route{Protocol: routeProtocol}, netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			if r.Family != family { // a kernel without IPv6 lists all that it has
				continue
			}
			all = append(all, nic.Route{Index: r.LinkIndex, Route: spec.Route{
				Destination: prefix(r.Dst, family), Via: address(r.Gw), Source: address(r.Src), Metric: uint32(r.Priority),
			}})
		}
	}
	return all, nil
}

// prefix is the destination of a route; the kernel says nothing for all of them.
func prefix(n *net.IPNet, family int) netip.Prefix {
	switch {
	case n == nil && family == netlink.FAMILY_V6:
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	case n == nil:
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	bits, _ := n.Mask.Size()
	return netip.PrefixFrom(address(n.IP), bits)
}

// address is the zero value when there is none.
func address(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// AddRoute makes a route and tells whether it was not there before. One of ours to the same place with the same metric
// becomes it: of IPv6 the kernel keeps a route whose source has gone, without the source (fib6_remove_prefsrc in
// net/ipv6/route.c). That somebody else has one there is an error.
func (h *Host) AddRoute(r nic.Route) (bool, error) {
	err := h.handle.RouteAdd(message(r))
	if errors.Is(err, unix.EEXIST) {
		ours, listErr := h.Routes()
		if slices.Contains(ours, r) {
			return false, nil
		}
		switch {
		case listErr != nil:
			err = listErr
		case slices.ContainsFunc(ours, func(o nic.Route) bool { return o.Destination == r.Destination && o.Metric == r.Metric }):
			err = h.handle.RouteReplace(message(r))
		default:
			err = fmt.Errorf("another one to %v with metric %d is there", r.Destination, r.Metric)
		}
	}
	if err != nil {
		return false, fmt.Errorf("add route %v: %w", r, err)
	}
	return true, nil
}

// RemoveRoute takes a route of ours away and tells whether it was there. That it, or its card, is not there is no error.
func (h *Host) RemoveRoute(r nic.Route) (bool, error) {
	err := h.handle.RouteDel(message(r))
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENETUNREACH) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("remove route %v: %w", r, err)
	}
	return true, nil
}

// message is a route for the kernel.
func message(r nic.Route) *netlink.Route {
	m := &netlink.Route{
		LinkIndex: r.Index, Protocol: routeProtocol, Priority: int(r.Metric), Scope: netlink.SCOPE_LINK,
		Dst: &net.IPNet{IP: r.Destination.Addr().AsSlice(), Mask: net.CIDRMask(r.Destination.Bits(), r.Destination.Addr().BitLen())},
	}
	if r.Via.IsValid() {
		m.Gw, m.Scope = r.Via.AsSlice(), netlink.SCOPE_UNIVERSE
	}
	if r.Source.IsValid() {
		m.Src = r.Source.AsSlice()
	}
	return m
}
