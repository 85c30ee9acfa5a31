package slots

import (
	"cmp"
	"math"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

const (
	// StepMost bounds what one step of Level moves: one part in so many of the slots.
	StepMost = 16
	// stepLeast is the least that one moves, one part in so many, unless the loans go home: what is nearly level stays as it is.
	stepLeast = 64
	// stepShare is the part of the way to the aim that one step goes, one part in so many. With pullPower it makes the steps settle
	// whether connections last for less than the time between two of them, which is when the aim overshoots most, or for hours.
	stepShare = pullPower + 1
	// pullPower says how hard: a real server with r times its part of the open connections gets its part of the new ones divided by
	// r to this power. Where connections last d times as long on one of two as on the other, in turn it has d times as many open,
	// and so the root of that of the degree stepShare.
	pullPower = 3
	// pullMost bounds r, and its inverse: nobody gets less than an eighth of its part, and a new one is not run over.
	pullMost = 2
	// chance is how many standard deviations of the open connections count as level: a hash deals by chance.
	chance = 2
)

// Level moves slots of a service of lc or wlc one step towards where the real servers have open connections in proportion to their
// weights, and returns its loans then. open are the connections of those with a weight; what is not said is 0.
//
// Who has more connections than chance explains lends the slots that bring the surplus to those that have the least, beginning
// with those that it has borrowed, if they can go home. When nobody has too many, what is lent goes home. One step changes as many
// slots as change hands and no more, one in StepMost at most.
func Level(s spec.Service, open map[netip.AddrPort]uint64) []spec.Loan {
	takers := slices.DeleteFunc(slices.Clone(weighed(s)), func(r spec.Real) bool { return r.Weight == 0 })
	pull, calm := pulls(takers, open)
	if calm && len(s.Lent) == 0 || len(takers) < 2 {
		return nil
	}
	home := maglev(weighed(s))
	lent := effective(s, home)
	if calm {
		return lent[min(len(lent), len(home)/StepMost):]
	}
	now := slices.Clone(home)
	for _, l := range lent {
		now[l.Slot] = l.To
	}
	at := make(map[netip.AddrPort]int, len(takers)) // the place of each among the takers
	for i, r := range takers {
		at[r.Address] = i
	}
	has, shares := make([]int, len(takers)), make([]uint64, len(takers))
	for slot := range home {
		has[at[now[slot]]]++
		shares[at[home[slot]]]++
	}
	const unit = 1 << 20 // shares are whole numbers
	for i := range shares {
		shares[i] = uint64(float64(shares[i]) * pull[i] * unit)
	}
	surplus := 0
	give, get := make([]uint64, len(takers)), make([]uint64, len(takers))
	for i, aim := range apportion(len(home), shares) {
		if has[i] > aim {
			give[i] = uint64(has[i] - aim)
			surplus += has[i] - aim
		} else {
			get[i] = uint64(aim - has[i])
		}
	}
	step := min((surplus+stepShare-1)/stepShare, len(home)/StepMost)
	if step < len(home)/stepLeast {
		return lent
	}
	move(now, home, at, apportion(step, give), apportion(step, get))
	var loans []spec.Loan
	for slot, holder := range now {
		if holder != home[slot] {
			loans = append(loans, spec.Loan{Slot: slot, To: holder})
		}
	}
	return loans
}

// move has each taker give and get so many slots, both by place: loans go home first, then other loans change hands, then slots are lent.
func move(now, home []netip.AddrPort, at map[netip.AddrPort]int, give, get []int) {
	for slot, holder := range now {
		from, to := at[holder], at[home[slot]]
		if holder != home[slot] && give[from] > 0 && get[to] > 0 {
			now[slot] = home[slot]
			give[from]--
			get[to]--
		}
	}
	takers := make([]netip.AddrPort, len(at))
	for address, i := range at {
		takers[i] = address
	}
	for _, lent := range []bool{true, false} {
		for slot, holder := range now {
			from := at[holder]
			if (holder != home[slot]) != lent || give[from] == 0 {
				continue
			}
			to := 0
			for i := range get {
				if get[i] > get[to] {
					to = i
				}
			}
			now[slot] = takers[to]
			give[from]--
			get[to]--
		}
	}
}

// pulls says for each taker by what its part of the new connections is to be multiplied; calm: by 1 for all.
func pulls(takers []spec.Real, open map[netip.AddrPort]uint64) (pull []float64, calm bool) {
	total, weights := 0.0, 0.0
	for _, r := range takers {
		total += float64(open[r.Address])
		weights += float64(r.Weight)
	}
	calm = true
	for _, r := range takers {
		fair := total * float64(r.Weight) / weights
		ratio, luck := 1.0, 0.0
		if fair > 0 {
			ratio, luck = float64(open[r.Address])/fair, chance/math.Sqrt(fair)
		}
		switch {
		case ratio > 1+luck:
			ratio -= luck
		case ratio < 1-luck:
			ratio += luck
		default:
			ratio = 1
		}
		calm = calm && ratio == 1
		pull = append(pull, math.Pow(max(1.0/pullMost, min(ratio, pullMost)), -pullPower))
	}
	return pull, calm
}

// apportion deals a number out in whole parts in proportion to shares: each gets its quotient rounded down, and the largest
// remainders get one more (Hamilton's method). No part is above its share where the number is not above their sum.
func apportion(number int, shares []uint64) []int {
	parts, rest, sum := make([]int, len(shares)), make([]int, len(shares)), uint64(0)
	for i, n := range shares {
		sum += n
		rest[i] = i
	}
	if sum == 0 {
		return parts
	}
	left := number
	for i, n := range shares {
		parts[i] = int(uint64(number) * n / sum)
		left -= parts[i]
	}
	slices.SortStableFunc(rest, func(a, b int) int {
		return cmp.Compare(uint64(number)*shares[b]%sum, uint64(number)*shares[a]%sum)
	})
	for _, i := range rest[:left] {
		parts[i]++
	}
	return parts
}

// Fit returns the loans of a service that change its table: those of slots that there are, to others than have them by the weights,
// who take connections.
func Fit(s spec.Service) []spec.Loan {
	if len(s.Lent) == 0 || !s.Scheduler.ByLoad() {
		return nil
	}
	return effective(s, maglev(weighed(s)))
}

// effective is Fit with the table by the weights.
func effective(s spec.Service, home []netip.AddrPort) (loans []spec.Loan) {
	takes := make(map[netip.AddrPort]bool, len(s.Reals))
	for _, r := range s.Reals {
		takes[r.Address] = r.Weight > 0
	}
	next := 0
	for _, l := range s.Lent {
		if l.Slot >= next && l.Slot < len(home) && takes[l.To] && l.To != home[l.Slot] {
			loans = append(loans, l)
			next = l.Slot + 1
		}
	}
	return loans
}
