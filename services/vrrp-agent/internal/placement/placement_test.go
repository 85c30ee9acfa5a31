package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestNext(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		all  []Instance
		want string
	}{
		"nothing":             {nil, "{  } false"},
		"even":                {[]Instance{{"1", "a", []string{"b"}}, {"2", "b", []string{"a"}}}, "{  } false"},
		"a difference of one": {[]Instance{{"1", "a", []string{"b"}}}, "{  } false"},
		"a node comes back":   {[]Instance{{"2", "a", []string{"b"}}, {"1", "a", []string{"b"}}}, "{1 a b} true"},
		"nobody is ready":     {[]Instance{{"1", "a", nil}, {"2", "a", nil}}, "{  } false"},
		"the one that can":    {[]Instance{{"1", "a", nil}, {"2", "a", []string{"b"}}}, "{2 a b} true"},
		"to the least": {[]Instance{{"1", "a", []string{"b", "c"}}, {"2", "a", []string{"b", "c"}}, {"3", "a", []string{"b", "c"}},
			{"4", "b", []string{"a", "c"}}}, "{1 a c} true"},
	} {
		m, ok := Next(c.all)
		if got := fmt.Sprint(m, ok); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

// TestProperties lets random clusters come to rest: moves end, each is one that its target would take, nobody who could
// hand over holds two more than the target at the end, none was moved in vain, and the order of what is seen does not matter.
func TestProperties(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 {
		nodes := []string{"a", "b", "c", "d", "e"}[:1+r.IntN(5)]
		everybody := r.IntN(2) == 0 // is ready for everything
		var all []Instance
		for n := range r.IntN(30) {
			i := Instance{Name: fmt.Sprint(n), Owner: nodes[r.IntN(len(nodes))]}
			for _, node := range nodes {
				if node != i.Owner && (everybody || r.IntN(3) > 0) {
					i.Ready = append(i.Ready, node)
				}
			}
			all = append(all, i)
		}
		load := func() map[string]int {
			l := map[string]int{}
			for _, i := range all {
				l[i.Owner]++
			}
			return l
		}
		surplus := 0 // what must be moved at least, with everybody ready
		for _, held := range load() {
			surplus += max(0, held-(len(all)+len(nodes)-1)/len(nodes))
		}
		moves := 0
		for ; ; moves++ {
			m, ok := Next(all)
			shuffled := slices.Clone(all)
			r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			if again, _ := Next(shuffled); again != m {
				t.Fatalf("seed %d: %v in one order, %v in another", seed, m, again)
			}
			if !ok {
				break
			}
			if moves > len(all)*len(nodes) {
				t.Fatalf("seed %d: no end", seed)
			}
			n := slices.IndexFunc(all, func(i Instance) bool { return i.Name == m.Instance })
			if all[n].Owner != m.From || !slices.Contains(all[n].Ready, m.To) {
				t.Fatalf("seed %d: %v of %v", seed, m, all[n])
			}
			ready := slices.DeleteFunc(slices.Clone(all[n].Ready), func(node string) bool { return node == m.To })
			all[n].Owner, all[n].Ready = m.To, append(ready, m.From)
		}
		l := load()
		for _, i := range all {
			for _, node := range i.Ready {
				if l[i.Owner]-l[node] >= 2 {
					t.Fatalf("seed %d: at rest with %v", seed, l)
				}
			}
		}
		if everybody && moves > surplus+len(nodes) {
			t.Fatalf("seed %d: %d moves, %d would do", seed, moves, surplus)
		}
	}
}
