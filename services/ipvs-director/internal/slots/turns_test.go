package slots

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func weighted(weights ...int) (reals []spec.Real) {
	for i, w := range weights {
		reals = append(reals, spec.Real{Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, byte(i >> 8), byte(i)}), 80), Weight: w})
	}
	return reals
}

func TestTurnsAreMixedByWeight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		weights []int
		want    string // the index of the real server of each slot
	}{
		{nil, ""},
		{[]int{0}, ""},
		{[]int{0, 0}, ""},
		{[]int{1}, "0"},
		{[]int{7}, "0"},
		{[]int{1, 1}, "0 1"},
		{[]int{2, 0, 2}, "0 2"},
		{[]int{3, 1}, "0 0 1 0"},
		{[]int{5, 1, 1}, "0 0 1 0 2 0 0"},
		{[]int{65535, 65535}, "0 1"},
	} {
		var got []string
		for _, s := range turns(weighted(c.weights...)) {
			got = append(got, fmt.Sprint(s.Addr().As4()[3]))
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("weights %v: got %q, want %q", c.weights, strings.Join(got, " "), c.want)
		}
	}
}

func TestTurnsAreBounded(t *testing.T) {
	t.Parallel()
	many := make([]int, spec.MaxRealServers)
	for i := range many {
		many[i] = 1 + i*257%spec.MaxWeight
	}
	for _, weights := range [][]int{{65535, 1}, {65535, 65534, 3, 0}, {1023, 2}, many} {
		dealt := turns(weighted(weights...))
		if len(dealt) > MaxTurns {
			t.Errorf("%d weights: %d slots", len(weights), len(dealt))
		}
		count := map[netip.AddrPort]int{}
		for _, s := range dealt {
			count[s]++
		}
		total := 0
		for _, w := range weights {
			total += w
		}
		for i, r := range weighted(weights...) {
			if (count[r.Address] > 0) != (weights[i] > 0) {
				t.Errorf("weight %d has %d slots", weights[i], count[r.Address])
			}
			if len(weights) > 4 {
				continue // with hundreds of takers the one that everybody gets weighs more than the rounding
			}
			share, want := float64(count[r.Address])/float64(len(dealt)), float64(weights[i])/float64(total)
			if diff := share - want; diff > 4.0/MaxTurns || diff < -4.0/MaxTurns {
				t.Errorf("weight %d of %v: share %.4f, want %.4f", weights[i], weights, share, want)
			}
		}
	}
}
