package slots

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// unequal is the largest number of open connections for its weight, divided by the smallest.
func unequal(s spec.Service, open map[netip.AddrPort]uint64) float64 {
	least, most := 0.0, 0.0
	for _, r := range weighed(s) {
		if r.Weight == 0 {
			continue
		}
		load := float64(open[r.Address]+1) / float64(r.Weight)
		if least == 0 || load < least {
			least = load
		}
		most = max(most, load)
	}
	return most / least
}

// Whatever is open and whatever was lent: a step moves just as many slots as change hands, within its bound, none to or of real
// servers without weight, and what is lent can be read back as it is.
func TestLevelKeepsItsPromises(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(7, 11))
	for round := range 100 {
		s := spec.Service{VIP: vip, Scheduler: []spec.Scheduler{spec.WLC, spec.LC}[round%2]}
		var weights []int
		for range 2 + random.IntN(20) {
			weights = append(weights, random.IntN(4))
		}
		s.Reals = weighted(weights...)
		open := map[netip.AddrPort]uint64{}
		for step := range 6 {
			for _, r := range s.Reals {
				open[r.Address] = uint64(random.IntN(1 << random.IntN(12)))
			}
			if step == 3 { // they may be lent to somebody who takes none any more, or to nobody at all
				s.Reals[random.IntN(len(s.Reals))].Weight = random.IntN(2)
				s.Lent = append(s.Lent, spec.Loan{Slot: LargeTable + 1, To: s.Reals[0].Address})
			}
			before, was := Of(s), Fit(s)
			s.Lent = Level(s, open)
			after := Of(s)
			moves, _ := Moves(before, after)
			moved, net := 0, map[netip.AddrPort]int{}
			for _, m := range moves {
				moved += m.Slots
				net[m.From] -= m.Slots
				net[m.To] += m.Slots
			}
			gained := 0
			for _, n := range net {
				gained += max(0, n)
			}
			home := !slices.ContainsFunc(s.Lent, func(l spec.Loan) bool { return !slices.Contains(was, l) }) // some went, and no more
			if moved > len(after.Slots)/StepMost || moved != gained && !home {
				t.Fatalf("round %d: %d of %d slots moved, %d were needed: %v", round, moved, len(after.Slots), gained, moves)
			}
			for slot, real := range after.Slots {
				if i := slices.IndexFunc(s.Reals, func(r spec.Real) bool { return r.Address == real }); s.Reals[i].Weight == 0 {
					t.Fatalf("round %d: slot %d is of %s, which takes no connections", round, slot, real)
				}
			}
			if got := Fit(s); !slices.Equal(got, s.Lent) && len(after.Slots) > 0 {
				t.Fatalf("round %d: %d loans, %d of them change the table", round, len(s.Lent), len(got))
			}
		}
	}
}

// Who has too many lends to who has least, and gets back when that is over: at once what the one has borrowed of the other, and
// all of it in the end.
func TestLoansGoHome(t *testing.T) {
	t.Parallel()
	s := spec.Service{VIP: vip, Scheduler: spec.WLC, Reals: weighted(1, 1, 1)}
	a, b, c := s.Reals[0].Address, s.Reals[1].Address, s.Reals[2].Address
	level := func(x, y, z uint64) {
		s.Lent = Level(s, map[netip.AddrPort]uint64{a: x, b: y, c: z})
	}
	level(1000, 1000, 1010)
	if len(s.Lent) > 0 {
		t.Errorf("chance explains it, and %d slots are lent", len(s.Lent))
	}
	steps := 0
	for before := -1; before != len(s.Lent); steps++ {
		before = len(s.Lent)
		level(1000, 100, 1000)
	}
	shares := Of(s).Shares()
	if shares[b] < 2*shares[a] || shares[a] != shares[c] || len(s.Lent) == 0 {
		t.Errorf("after %d steps the shares are %v", steps, shares)
	}
	for _, l := range s.Lent {
		if l.To != b {
			t.Errorf("slot %d is lent to %s", l.Slot, l.To)
		}
	}
	lent := len(s.Lent)
	level(1000, 4000, 1000)
	if len(s.Lent) >= lent {
		t.Errorf("the pressure has turned, and %d slots are lent where %d were", len(s.Lent), lent)
	}
	for back := 0; len(s.Lent) > 0; back++ {
		if level(1000, 1000, 1000); back > StepMost {
			t.Fatalf("%d slots are still lent after %d steps without pressure", len(s.Lent), back)
		}
	}
	for range 20 {
		level(1000, 100, 1000)
	}
	if s.Reals[1].Weight = 0; len(Fit(s)) != 0 {
		t.Errorf("who takes no connections has %d loans", len(Fit(s)))
	}
}

// Connections last as long as their real server makes them: dealt by the weights the slow one has the more of them. With steps
// it comes down to the root that is promised, and the steps come to rest.
func TestLevelSettles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		weights []int
		lasts   []int // how many steps a connection lasts at each
		rate    int   // new connections between two steps
	}{
		{[]int{1, 1}, []int{20, 80}, 40}, {[]int{1, 1}, []int{1, 4}, 500}, {[]int{3, 1, 2}, []int{10, 60, 10}, 60}, {[]int{1, 1, 1, 1}, []int{100, 100, 100, 400}, 40},
	} {
		t.Run(fmt.Sprint(c.weights, c.lasts), func(t *testing.T) {
			t.Parallel()
			run := func(scheduler spec.Scheduler) (worst float64, moved float64) {
				s := spec.Service{VIP: vip, Scheduler: scheduler, Reals: weighted(c.weights...)}
				random := rand.New(rand.NewPCG(1, 2))
				ends := map[int][]netip.AddrPort{} // by step
				open := map[netip.AddrPort]uint64{}
				lasts := map[netip.AddrPort]int{}
				for i, r := range s.Reals {
					lasts[r.Address] = c.lasts[i]
				}
				steps := 200 + 6*slices.Max(c.lasts)
				late := steps / 2
				table := Of(s)
				sum := map[netip.AddrPort]uint64{}
				for step := range steps {
					for _, real := range ends[step] {
						open[real]--
					}
					for range c.rate {
						slot, _ := table.Slot(netip.AddrPortFrom(netip.MustParseAddr("10.10.60.1"), uint16(random.IntN(1<<16))))
						real := table.Slots[slot]
						open[real]++
						ends[step+lasts[real]] = append(ends[step+lasts[real]], real)
					}
					if scheduler == spec.WLC {
						if loans := Level(s, open); !slices.Equal(loans, s.Lent) {
							before := table
							s.Lent = loans
							table = Of(s)
							moves, _ := Moves(before, table)
							for _, m := range moves {
								if step >= late {
									moved += float64(m.Slots)
								}
							}
						}
					}
					if step >= late {
						for real, n := range open {
							sum[real] += n
						}
					}
				}
				return unequal(s, sum), moved / float64(steps-late)
			}
			fixed, _ := run(spec.MH)
			level, moved := run(spec.WLC)
			t.Logf("the fullest has %.2f times the connections of the emptiest for its weight, by the weights alone %.2f; %.1f slots a step move", level, fixed, moved)
			if fixed < 3.5 || level > 1+(fixed-1)/3 {
				t.Errorf("the fullest has %.2f times the connections of the emptiest for its weight, by the weights alone %.2f", level, fixed)
			}
			if moved > 10 {
				t.Errorf("%.1f slots move in each step after all has settled", moved)
			}
		})
	}
}
