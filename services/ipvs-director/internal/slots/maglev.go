package slots

import (
	"hash/fnv"
	"net/netip"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The sizes of a Maglev table: primes, the smaller for few real servers. The larger is the default of the kernel's own
// scheduler mh (IP_VS_MH_TAB_INDEX 12). Between the two sizes nearly all slots change their real server: connections that
// are open do not notice, unless a director is taken over from in the very moment.
const (
	SmallTable = 1021
	LargeTable = 4093
	// SmallTableReals is the most real servers, drained ones counted too, that share a small table.
	SmallTableReals = 16
)

// maglev makes the consistent table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer"
// (NSDI 2016), section 3.4, with weights: each real server has a preference list of the slots, a permutation that follows
// from its address alone, and they take turns in taking their next free slot; one of half the weight has half the turns.
// So each gets its share within one part in some hundred, and when one goes, few slots but its own change.
func maglev(reals []spec.Real) []netip.AddrPort {
	size := uint64(SmallTable)
	if len(reals) > SmallTableReals {
		size = LargeTable
	}
	heaviest := 0
	for _, r := range reals {
		heaviest = max(heaviest, r.Weight)
	}
	if heaviest == 0 {
		return nil
	}
	type taker struct {
		next, skip uint64
		earned     int
	}
	takers := make([]taker, len(reals))
	for i, r := range reals {
		h := fnv.New64a()
		_, _ = h.Write(bytesOf(r.Address)) // it cannot fail
		sum := mix(h.Sum64())
		takers[i] = taker{next: sum % size, skip: mix(sum)%(size-1) + 1}
		if w := reals[i].Weight; w > 0 {
			takers[i].earned = heaviest - w // so that the first round gives each a slot, however light it is
		}
	}
	table := make([]netip.AddrPort, size)
	for left := size; ; {
		for i := range takers {
			t := &takers[i]
			if t.earned += reals[i].Weight; t.earned < heaviest {
				continue
			}
			t.earned -= heaviest
			for table[t.next].IsValid() {
				t.next = (t.next + t.skip) % size
			}
			table[t.next] = reals[i].Address
			if left--; left == 0 {
				return table
			}
		}
	}
}

// mix spreads what a hash of a few bytes leaves in the low bits: the finalizer of SplitMix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
