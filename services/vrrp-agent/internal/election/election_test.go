package election

import (
	"math/rand/v2"
	"testing"
)

func TestTutorial(t *testing.T) {
	t.Parallel()
	members := []Member{{105}, {99}}
	for weight, want := range map[int]bool{-5: false, -6: false, -7: true, 5: false, 6: false, 7: true} {
		if got := Moves(members, []Tracker{{weight}}, 0); got != want {
			t.Errorf("weight %d: got %v", weight, got)
		}
	}
	if got := Least(members, []Tracker{{-5}}, 0, 253); got != -7 {
		t.Errorf("got %d, want -7", got)
	}
	// The second tracker makes the first one count: 105 - 5 - 2 = 98.
	if !Moves(members, []Tracker{{-5}, {-2}}, 0) {
		t.Error("two together move the address")
	}
	if Moves([]Member{{105}}, []Tracker{{-100}}, 0) || Least([]Member{{105}}, []Tracker{{-1}}, 0, 253) != 0 {
		t.Error("nobody is there to move to")
	}
}

// winner is the member that wins outright, -1 if nobody does or two are equal.
func winner(members []Member, trackers []Tracker, well func(member, tracker int) bool, dead int) int {
	best, at, tie := 0, -1, false
	for n, m := range members {
		if dead>>n&1 == 1 {
			continue
		}
		sum, fault := 0, false
		for k, t := range trackers {
			sum += t.add(well(n, k))
			fault = fault || t.Weight == 0 && !well(n, k)
		}
		p := Effective(m.Priority, sum)
		switch {
		case fault:
		case p > best:
			best, at, tie = p, n, false
		case p == best:
			tie = true
		}
	}
	if tie {
		return -1
	}
	return at
}

// brute tries every outcome of every tracker on every member, and every set of dead members.
func brute(members []Member, trackers []Tracker, index int) bool {
	bits := len(members) * len(trackers)
	for dead := range 1 << len(members) {
		for outcome := range 1 << bits {
			well := func(failed int) func(int, int) bool {
				return func(member, tracker int) bool {
					if member == failed && tracker == index {
						return false
					}
					return outcome>>(member*len(trackers)+tracker)&1 == 1
				}
			}
			for n := range members {
				if outcome>>(n*len(trackers)+index)&1 == 0 {
					continue
				}
				before, after := winner(members, trackers, well(-1), dead), winner(members, trackers, well(n), dead)
				if before == n && after >= 0 && after != n {
					return true
				}
			}
		}
	}
	return false
}

// TestBruteForce compares with the trial of all outcomes, on 10,000 random configurations.
func TestBruteForce(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	moved := 0
	for range 10000 {
		members := make([]Member, 1+random.IntN(3))
		for n := range members {
			members[n].Priority = 90 + random.IntN(20)
			if random.IntN(8) == 0 {
				members[n].Priority = 1 + random.IntN(254)
			}
		}
		trackers := make([]Tracker, 1+random.IntN(2))
		for n := range trackers {
			trackers[n].Weight = random.IntN(31) - 15
			if random.IntN(8) == 0 {
				trackers[n].Weight = random.IntN(507) - 253
			}
		}
		trackers[0].Weight = max(trackers[0].Weight, -253)
		if trackers[0].Weight == 0 {
			trackers[0].Weight = -5
		}
		got, want := Moves(members, trackers, 0), brute(members, trackers, 0)
		if got != want {
			t.Fatalf("%v %v: got %v, want %v", members, trackers, got, want)
		}
		if want {
			moved++
		}
	}
	if moved < 1000 || moved > 9000 {
		t.Errorf("only one side was tried: %d of 10000 move", moved)
	}
}
