package slots

import (
	"net/netip"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// MaxTurns is the most turns of one service. Weights whose sum, divided by their greatest common divisor, is above it are
// scaled down: the share of each real server is then off by a few turns, and no real server with a weight is without one.
const MaxTurns = 1024

// turns deals the turns of one service to its real servers in proportion to their weights, evenly mixed, so that a
// heavy real server does not get its turns in a row. Empty when nobody may take a connection.
func turns(reals []spec.Real) []netip.AddrPort {
	share := make([]int, len(reals))
	total, divisor := 0, 0
	for i, r := range reals {
		share[i] = r.Weight
		total += r.Weight
		divisor = gcd(divisor, r.Weight)
	}
	if total == 0 {
		return nil
	}
	if total/divisor > MaxTurns {
		// Rounding down and the one that everybody gets keep the sum at or below MaxTurns.
		takers := 0
		for _, n := range share {
			if n > 0 {
				takers++
			}
		}
		scaled := 0
		for i, n := range share {
			if n > 0 {
				share[i] = 1 + n*(MaxTurns-takers)/total
				scaled += share[i]
			}
		}
		total, divisor = scaled, 1
	}
	total = 0
	for i := range share {
		share[i] /= divisor
		total += share[i]
	}

	// Smooth weighted turns: each round everybody earns its turns, the richest goes and pays the sum.
	dealt := make([]netip.AddrPort, 0, total)
	credit := make([]int, len(reals))
	for range total {
		richest := -1
		for i, n := range share {
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
