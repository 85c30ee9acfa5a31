// Package nftables is the data plane for kernels without IPVS: connections are spread by nf_tables, translated and
// followed by conntrack. It speaks netlink; no nft program is needed.
//
// Everything is in one table of its own, "ip twotier_director"; no other table is changed. For each virtual
// service, as nft prints it (V stands for VIP_PORT):
//
//	map services { ipv4_addr . inet_service : verdict }   10.10.60.22 . 80 : goto service_V
//	chain prerouting                                      ip daddr . tcp dport vmap @services
//	chain service_V                                       numgen inc mod N vmap @slots_V
//	map slots_V { mark : verdict }                        the real servers, each as often as its weight says
//	map weights_V { ipv4_addr . inet_service : mark }     the weights as wanted
//	chain real_V_ADDRESS_PORT                             counter dnat to ADDRESS:PORT
//
// The nat hook sees the first packet of a connection only; conntrack translates the rest and the replies. So the
// counters count connections, and a change of the slots moves no connection that is there.
package nftables

import (
	"net/netip"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// MaxSlots is the most slots of one service. Weights whose sum, divided by their greatest common divisor, is above it
// are scaled down: the share of each real server is then off by a few slots, and no real server with a weight
// is without a slot.
const MaxSlots = 1024

// slots deals the turns of one service to its real servers in proportion to their weights, evenly mixed, so that a
// heavy real server does not get its turns in a row. Empty when nobody may take a connection.
func slots(reals []spec.Real) []netip.AddrPort {
	turns := make([]int, len(reals))
	total, divisor := 0, 0
	for i, r := range reals {
		turns[i] = r.Weight
		total += r.Weight
		divisor = gcd(divisor, r.Weight)
	}
	if total == 0 {
		return nil
	}
	if total/divisor > MaxSlots {
		// Rounding down and the one that everybody gets keep the sum at or below MaxSlots.
		takers := 0
		for _, n := range turns {
			if n > 0 {
				takers++
			}
		}
		scaled := 0
		for i, n := range turns {
			if n > 0 {
				turns[i] = 1 + n*(MaxSlots-takers)/total
				scaled += turns[i]
			}
		}
		total, divisor = scaled, 1
	}
	total = 0
	for i := range turns {
		turns[i] /= divisor
		total += turns[i]
	}

	// Smooth weighted turns: each round everybody earns its turns, the richest goes and pays the sum.
	dealt := make([]netip.AddrPort, 0, total)
	credit := make([]int, len(reals))
	for range total {
		richest := -1
		for i, n := range turns {
			credit[i] += n
			if n > 0 && (richest < 0 || credit[i] > credit[richest]) {
				richest = i
			}
		}
		credit[richest] -= total
		dealt = append(dealt, reals[richest].Address)
	}
	return dealt
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
