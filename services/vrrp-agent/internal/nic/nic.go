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
	// Addresses on the card with the subnets that they stand in, IPv4, in the kernel's order.
	Addresses []netip.Prefix
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
	// Source is the card's own address, the sender of our adverts.
	Source netip.Addr
}

// Same tells whether two ports are the same place. A new name or Ethernet address makes no new place.
func (p Port) Same(q Port) bool { return p.Index == q.Index && p.Source == q.Source }

// ErrDown is the error of a card that is there but carries nothing.
var ErrDown = errors.New("is down")

// Find returns the port for the virtual addresses: the card that has an address of its own in the network, or, if that
// is not given (the zero value), in a subnet that contains them all. Of several the narrowest subnet wins, then the
// lowest index.
func (v View) Find(virtual []netip.Addr, network netip.Prefix) (Port, error) {
	suits := func(own netip.Prefix) bool { return containsAll(own, virtual) }
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
	return Port{Index: best.Index, Name: best.Name, MAC: best.MAC, Source: own.Addr()}, nil
}

func containsAll(p netip.Prefix, addresses []netip.Addr) bool {
	for _, a := range addresses {
		if !p.Contains(a) {
			return false
		}
	}
	return true
}

// On tells whether the address is on the card with that index, as a single address (/32), which is how the agent adds
// it.
func (v View) On(index int, address netip.Addr) bool {
	for _, c := range v.Cards {
		if c.Index == index && slices.Contains(c.Addresses, netip.PrefixFrom(address, 32)) {
			return true
		}
	}
	return false
}

// Single returns all addresses that stand on some card as single addresses (/32), each once, in order.
func (v View) Single() []netip.Addr {
	var all []netip.Addr
	for _, c := range v.Cards {
		for _, p := range c.Addresses {
			if p.Bits() == 32 {
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
// own in the same subnet. false: there is none.
func (v View) Toward(to netip.Addr) (Port, bool) {
	for _, c := range v.Cards {
		for _, p := range c.Addresses {
			if c.Up && !p.IsSingleIP() && p.Contains(to) && p.Addr() != to && !p.Addr().IsLoopback() {
				return Port{Index: c.Index, Name: c.Name, MAC: c.MAC, Source: p.Addr()}, true
			}
		}
	}
	return Port{}, false
}

// Own returns the addresses of the node itself, without loopback and without single addresses, which may be floating ones.
func (v View) Own() []netip.Addr {
	var all []netip.Addr
	for _, c := range v.Cards {
		for _, p := range c.Addresses {
			if !p.IsSingleIP() && !p.Addr().IsLoopback() {
				all = append(all, p.Addr())
			}
		}
	}
	return all
}
