package nftables

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// services are all services of the table, by VIP.
type services map[spec.VIP]spec.Service

// present are those that were observed.
func present(have plan.Have) services {
	all := services{}
	for _, s := range have.Services {
		service := spec.Service{VIP: s.VIP, Scheduler: s.Scheduler, Persistence: s.Persistence, Lent: s.Lent}
		for _, r := range s.Reals {
			service.Reals = append(service.Reals, r.Real)
		}
		all[s.VIP] = service
	}
	return all
}

// endpoint is one end of a connection.
type endpoint struct {
	netip.AddrPort
	spec.Protocol
}

// String tells it from the others of the same address.
func (e endpoint) String() string { return e.Protocol.String() + " " + e.AddrPort.String() }

// Compare orders endpoints.
func (e endpoint) Compare(o endpoint) int {
	return cmp.Or(e.AddrPort.Compare(o.AddrPort), cmp.Compare(e.Protocol, o.Protocol))
}

// front is where clients connect to.
func front(vip spec.VIP) endpoint { return endpoint{vip.AddrPort, vip.Protocol} }

// behind is where a real server of a service listens.
func behind(vip spec.VIP, real netip.AddrPort) endpoint { return endpoint{real, vip.Protocol} }

// entries are what the maps and sets of the whole table hold.
type entries struct {
	vips, reals map[endpoint]bool
	// back holds the VIP of each real server that one service alone uses.
	back map[endpoint]spec.VIP
	// members are what passes is counted for.
	members map[member]bool
}

func (all services) entries() entries {
	e := entries{vips: map[endpoint]bool{}, reals: map[endpoint]bool{}, back: map[endpoint]spec.VIP{}, members: map[member]bool{}}
	for vip, s := range all {
		e.vips[front(vip)] = true
		for _, r := range s.Reals {
			e.members[memberOf(vip, r.Address)] = true
			real := behind(vip, r.Address)
			if e.reals[real] {
				delete(e.back, real)
			} else {
				e.reals[real], e.back[real] = true, vip
			}
		}
	}
	return e
}

// beyond returns the keys of a that b has not, or has with another value, in their order.
func beyond[K ordered[K], V comparable](a, b map[K]V) (keys []K) {
	for k, v := range a {
		if other, ok := b[k]; !ok || other != v {
			keys = append(keys, k)
		}
	}
	return sorted(keys)
}

// ordered are keys that have an order.
type ordered[K any] interface {
	comparable
	Compare(K) int
}

func sorted[K ordered[K]](keys []K) []K {
	slices.SortFunc(keys, func(a, b K) int { return a.Compare(b) })
	return keys
}

func keysOf[K ordered[K], V any](m map[K]V) []K {
	return sorted(slices.Collect(maps.Keys(m)))
}
