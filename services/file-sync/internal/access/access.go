// Package access answers: may a peer with this address connect? Nobody may who is not named. Only addresses are
// names here: a host name would have to be resolved, and a resolver that fails must not open a door.
package access

import (
	"fmt"
	"net/netip"
	"slices"
)

// List is the networks that may connect. The zero value lets nobody in.
type List struct{ prefixes []netip.Prefix }

// Loopback is the list that lets in only this machine.
func Loopback() List {
	return List{[]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
}

// ParsePrefix reads one network: a prefix without host bits, or a bare address, which stands for itself alone. Host bits are
// refused, because 172.16.0.99/16 lets in more than its writer sees.
func ParsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		a = a.Unmap()
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("want a network as a prefix, such as 172.16.0.99/32, got %q", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("want a network without host bits, %s or %s, got %q",
			p.Masked(), netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), s)
	}
	return p, nil
}

// New makes a list of networks.
func New(prefixes []netip.Prefix) List { return List{slices.Clone(prefixes)} }

// Allows reports whether a peer at addr may connect. An IPv4 address in IPv6 form counts as IPv4; the zone of a link-local
// address is ignored.
func (l List) Allows(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	return addr.IsValid() && slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}
