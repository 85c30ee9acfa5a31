// Package nic answers: which network card belongs to these addresses, and which addresses are on it?
//
// Cards are found by the subnet of their own address, never by name: names change with the order in which a machine's
// networks are plugged in. The package is pure; netdev fills in the View.
package nic

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// View is what the kernel said of all network cards at one moment.
type View struct {
	// Cards in the order of their indexes.
	Cards []Card
}

// Card is one network card.
type Card struct {
	// Index by which the kernel knows the card. A card that is replaced comes back with another.
	Index int
	// Name, for people only.
	Name string
	// MAC is its Ethernet address.
	MAC packet.MAC
	// Up: switched on, and the cable carries.
	Up bool
	// Addresses on the card with the subnets that they stand in, those of IPv4 first, in the kernel's order. One of IPv6 that
	// the kernel has not yet found to be nobody else's is not among them.
	Addresses []netip.Prefix
	// Router: it forwards what comes in by IPv6, and tells its neighbors so.
	Router bool
	// Marked are those of them that an agent has put there, in this life or an earlier one.
	Marked []netip.Addr
}

// Route is a virtual route on a card. It can be compared.
type Route struct {
	spec.Route
	// Index of the card.
	Index int
}

// Port is the place of an instance on the network: a card, and the card's own address.
type Port struct {
	// Index, Name and MAC of the card.
	Index int
	Name  string
	MAC   packet.MAC
	// Source is the card's own address, the sender of our adverts: on IPv6 the link-local one (RFC 9568, section 5.1.2.1).
	Source netip.Addr
	// Own is the card's own address in the subnet of the virtual addresses. On IPv4 it is Source.
	Own netip.Addr
	// Router is the card's.
	Router bool
	// Worn is the index of the card that has the virtual Ethernet address, behind that of the port; 0: there is none.
	Worn int
}

// Holder is the index of the card that holds the virtual addresses.
func (p Port) Holder() int {
	if p.Worn != 0 {
		return p.Worn
	}
	return p.Index
}

// From is the address of ours that speaks to another one by unicast: like to like, so that none of them needs a router.
func (p Port) From(to netip.Addr) netip.Addr {
	if to.IsLinkLocalUnicast() {
		return p.Source
	}
	return p.Own
}

// Same tells whether two ports are the same place. A new name or Ethernet address makes no new place.
func (p Port) Same(q Port) bool { return p.Index == q.Index && p.Source == q.Source }

// ErrDown is the error of a card that is there but carries nothing.
var ErrDown = errors.New("is down")

// Find returns the port for the virtual addresses: the card that has an address of its own in the network, or, if that
// is not given (the zero value), in a subnet that contains them all. Of several the narrowest subnet wins, then the
// lowest index. Virtual addresses of IPv6 that are link-local say nothing about the card, which must have one of its own.
func (v View) Find(virtual []netip.Addr, network netip.Prefix) (Port, error) {
	located := slices.DeleteFunc(slices.Clone(virtual), linkLocal)
	suits := func(own netip.Prefix) bool { return len(located) > 0 && containsAll(own, located) }
	sought := fmt.Sprintf("a subnet with %v", virtual)
	if network.IsValid() {
		suits = func(own netip.Prefix) bool { return network.Contains(own.Addr()) }
		sought = network.String()
	}
	var best *Card
	var own netip.Prefix
	for i := range v.Cards {
		for _, p := range v.Cards[i].Addresses {
			if p.IsSingleIP() || slices.Contains(virtual, p.Addr()) || !suits(p) {
				continue
			}
			if best == nil || p.Bits() > own.Bits() {
				best, own = &v.Cards[i], p
			}
		}
	}
	if best == nil {
		return Port{}, fmt.Errorf("no network card has an address in %s", sought)
	}
	if !best.Up {
		return Port{}, fmt.Errorf("network card %s with %v: %w", best.Name, own, ErrDown)
	}
	port := Port{Index: best.Index, Name: best.Name, MAC: best.MAC, Source: own.Addr(), Own: own.Addr(), Router: best.Router}
	if own.Addr().Is6() {
		at := slices.IndexFunc(best.Addresses, func(p netip.Prefix) bool {
			return linkLocal(p.Addr()) && !p.IsSingleIP() && !slices.Contains(virtual, p.Addr())
		})
		if at < 0 {
			return Port{}, fmt.Errorf("network card %s with %v has no link-local address", best.Name, own)
		}
		port.Source = best.Addresses[at].Addr()
	}
	return port, nil
}

// linkLocal tells whether an address of IPv6 is link-local. Every card has such a subnet, and it is the same everywhere.
func linkLocal(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }

func containsAll(p netip.Prefix, addresses []netip.Addr) bool {
	for _, a := range addresses {
		if !p.Contains(a) {
			return false
		}
	}
	return true
}

// On tells whether the address is on the card with that index, as a single address (/32, /128), which is how the agent
// adds it.
func (v View) On(index int, address netip.Addr) bool {
	for _, c := range v.Cards {
		if c.Index == index && slices.Contains(c.Addresses, netip.PrefixFrom(address, address.BitLen())) {
			return true
		}
	}
	return false
}

// Single returns all addresses that stand on some card as single addresses (/32, /128), each once, in order.
func (v View) Single() []netip.Addr {
	var all []netip.Addr
	for _, c := range v.Cards {
		for _, p := range c.Addresses {
			if p.IsSingleIP() && !p.Addr().IsLoopback() {
				all = append(all, p.Addr())
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// Marked returns all addresses that an agent has put on some card, each once, in order.
func (v View) Marked() []netip.Addr {
	var all []netip.Addr
	for _, c := range v.Cards {
		all = append(all, c.Marked...)
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// Toward returns the port from which an address can be reached without a router: the card, up, that has an address of its
// own in the same subnet. false: there is none, or, with a link-local address of IPv6, any.
func (v View) Toward(to netip.Addr) (Port, bool) {
	for _, c := range v.Cards {
		for _, p := range c.Addresses {
			if c.Up && !p.IsSingleIP() && p.Contains(to) && p.Addr() != to && !p.Addr().IsLoopback() && !linkLocal(to) {
				return Port{Index: c.Index, Name: c.Name, MAC: c.MAC, Source: p.Addr(), Own: p.Addr()}, true
			}
		}
	}
	return Port{}, false
}

// Own returns the addresses of the node itself, without loopback, without single addresses, which may be floating ones, and
// without those of IPv6 that are link-local, which say nothing without their card.
func (v View) Own() []netip.Addr {
	var all []netip.Addr
	for _, c := range v.Cards {
		for _, p := range c.Addresses {
			if !p.IsSingleIP() && !p.Addr().IsLoopback() && !linkLocal(p.Addr()) {
				all = append(all, p.Addr())
			}
		}
	}
	return all
}
