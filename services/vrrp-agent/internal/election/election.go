// Package election answers: can this tracker's weight ever move the addresses?
//
// It reckons with every outcome of all trackers on all members, and with members that are down. The package is pure.
package election

// Member is one node: its priority, 1 to 254.
type Member struct {
	Priority int
}

// Tracker is a check that each member makes for itself. Weight 0 takes a member out of the election when it fails; another
// one is added to the priority: a positive one while the check is well, a negative one while it is not.
type Tracker struct {
	Weight int
}

// Bounds of the effective priority: 0 is a resignation, and 255 is kept for who owns an address for good.
const (
	least = 1
	most  = 254
)

// Effective is the priority of a member with the sum of its trackers' weights.
func Effective(priority, sum int) int { return min(max(priority+sum, least), most) }

// add is what a tracker adds to the sum.
func (t Tracker) add(well bool) int {
	if well == (t.Weight > 0) {
		return t.Weight
	}
	return 0
}

// Moves tells whether there is a case in which the tracker, with that index, decides: the member that is master while it
// is well has a rival that is strictly better once it has failed. With equal priorities the one who is master stays.
func Moves(members []Member, trackers []Tracker, index int) bool {
	rivals := map[int]bool{} // the priorities that the trackers can make of a sum, by sum
	all, others := sums(trackers, -1), sums(trackers, index)
	for n, m := range members {
		clear(rivals)
		for k, other := range members {
			if k == n {
				continue
			}
			for sum := range all {
				rivals[Effective(other.Priority, sum)] = true
			}
		}
		// Any rival may be the best of those that live.
		for sum := range others {
			well, failed := trackers[index].add(true), trackers[index].add(false)
			for rival := Effective(m.Priority, sum+failed) + 1; rival < Effective(m.Priority, sum+well); rival++ {
				if rivals[rival] {
					return true
				}
			}
		}
	}
	return false
}

// sums are the sums that the trackers can make, the one with that index left out.
func sums(trackers []Tracker, without int) map[int]bool {
	all := map[int]bool{0: true}
	for n, t := range trackers {
		if n == without {
			continue
		}
		next := map[int]bool{}
		for sum := range all {
			next[sum+t.add(true)], next[sum+t.add(false)] = true, true
		}
		all = next
	}
	return all
}

// Least is the weight of the same sign that is nearest to zero and moves the addresses; 0: there is none.
func Least(members []Member, trackers []Tracker, index int, largest int) int {
	sign := 1
	if trackers[index].Weight < 0 {
		sign = -1
	}
	with := append([]Tracker(nil), trackers...)
	for size := 1; size <= largest; size++ {
		with[index].Weight = sign * size
		if Moves(members, with, index) {
			return sign * size
		}
	}
	return 0
}
