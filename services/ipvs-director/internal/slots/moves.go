package slots

import (
	"cmp"
	"net/netip"
	"slices"
)

// Move is how many slots change their real server; the zero AddrPort is nobody.
type Move struct {
	From, To netip.AddrPort
	Slots    int
}

// Moves compares two tables slot by slot, in the order of From and To. It is false when they have no slots in common: tables
// of another size, or that are dealt in another way.
func Moves(now, then Table) (moves []Move, comparable bool) {
	if now.Choice != then.Choice || now.Choice == InTurn || now.Seed != then.Seed || len(now.Slots) != len(then.Slots) {
		return nil, false
	}
	count := map[Move]int{}
	for i := range now.Slots {
		if now.Slots[i] != then.Slots[i] {
			count[Move{From: now.Slots[i], To: then.Slots[i]}]++
		}
	}
	for m, n := range count {
		m.Slots = n
		moves = append(moves, m)
	}
	slices.SortFunc(moves, func(a, b Move) int { return cmp.Or(a.From.Compare(b.From), a.To.Compare(b.To)) })
	return moves, true
}

// Shares tells how much of the new connections each real server gets, in parts of a thousand.
func (t Table) Shares() map[netip.AddrPort]int {
	count := map[netip.AddrPort]int{}
	for _, real := range t.Slots {
		count[real]++
	}
	for real, n := range count {
		count[real] = (n*1000 + len(t.Slots)/2) / len(t.Slots)
	}
	return count
}
