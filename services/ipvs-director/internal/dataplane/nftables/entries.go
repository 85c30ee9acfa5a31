package nftables

import (
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
		service := spec.Service{VIP: s.VIP, Scheduler: s.Scheduler, Persistence: s.Persistence}
		for _, r := range s.Reals {
			service.Reals = append(service.Reals, r.Real)
		}
		all[s.VIP] = service
	}
	return all
}

// entries are what the maps and sets of the whole table hold.
type entries struct {
	vips, reals map[netip.AddrPort]bool
	// back holds the VIP of each real server that one service alone uses.
	back map[netip.AddrPort]spec.VIP
}

func (all services) entries() entries {
	e := entries{vips: map[netip.AddrPort]bool{}, reals: map[netip.AddrPort]bool{}, back: map[netip.AddrPort]spec.VIP{}}
	for vip, s := range all {
		e.vips[vip.AddrPort] = true
		for _, r := range s.Reals {
			if e.reals[r.Address] {
				delete(e.back, r.Address)
			} else {
				e.reals[r.Address], e.back[r.Address] = true, vip
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
