// Package placement answers: which instance goes where, so that the living nodes hold about as many?
//
// It moves as few as possible, and none for a difference of one. The package is pure.
package placement

import "cmp"

// Instance is an instance that may be moved.
type Instance struct {
	// Name of it.
	Name string
	// Owner is the node that holds it.
	Owner string
	// Ready are the other nodes that would take it.
	Ready []string
}

// Move is a handover.
type Move struct {
	Instance, From, To string
}

// least is the least difference that is worth a move: after one for a difference of one the other node had more.
const least = 2

// Next is the move that evens out most; false: there is none. Whoever makes it and asks again comes to an end. All who see
// the same choose the same, whatever the order of what they see.
func Next(instances []Instance) (Move, bool) {
	load := map[string]int{}
	for _, i := range instances {
		load[i.Owner]++
	}
	best, gain := Move{}, 0
	for _, i := range instances {
		for _, node := range i.Ready {
			m := Move{i.Name, i.Owner, node}
			g := load[i.Owner] - load[node]
			if node == i.Owner || g < least {
				continue
			}
			if g > gain || g == gain && compare(m, best) < 0 {
				best, gain = m, g
			}
		}
	}
	return best, gain > 0
}

func compare(a, b Move) int {
	return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Instance, b.Instance))
}
