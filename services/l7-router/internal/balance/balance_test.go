package balance

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twotier/twotier/services/l7-router/internal/spec"
)

// every is one of each algorithm.
func every() map[string]func() Algorithm {
	all := map[string]func() Algorithm{}
	for _, b := range []spec.Balance{
		{Algorithm: spec.RoundRobin}, {Algorithm: spec.StaticRR}, {Algorithm: spec.LeastConn}, {Algorithm: spec.First},
		{Algorithm: spec.Random}, {Algorithm: spec.PeakEWMA}, {Algorithm: spec.URI},
		{Algorithm: spec.URI, Hash: spec.HashConsistent}, {Algorithm: spec.URI, Hash: spec.HashMaglev},
	} {
		all[fmt.Sprintf("%T", New(b))] = func() Algorithm { return New(b) }
	}
	return all
}

// TestPromises checks for every algorithm what Algorithm promises, in random situations.
func TestPromises(t *testing.T) {
	t.Parallel()
	for name, open := range every() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(1, 2))
			a := open()
			for round := range 200 {
				servers := weights(make([]int, random.IntN(9))...)
				for i := range servers {
					servers[i] = server(i, random.IntN(4))
					if random.IntN(4) == 0 {
						servers[i].Load.Limit.Store(2)
						servers[i].Load.Active.Store(int64(random.IntN(4)))
					}
				}
				a.Set(servers)
				for range 10 {
					q := Query{Hash: random.Uint32(), Hashed: random.IntN(2) == 0}
					left := 0
					for i := range servers {
						if random.IntN(3) == 0 {
							q.Tried.Add(i)
						}
						hashed := q.Hashed && (name == "*balance.Map" || name == "*balance.Ring" || name == "*balance.Maglev")
						if servers[i].Weight > 0 && !q.Tried.Has(i) && (hashed || !servers[i].Load.Full()) {
							left++
						}
					}
					announced := a.Peek(&q)
					got := a.Next(&q)
					switch {
					case got != announced:
						t.Fatalf("round %d: Peek %d, Next %d", round, announced, got)
					case (got == None) != (left == 0):
						t.Fatalf("round %d: chosen %d of %d that are left", round, got, left)
					case got == None:
					case q.Tried.Has(got) || servers[got].Weight == 0:
						t.Fatalf("round %d: chosen %d, weight %d, tried %t", round, got, servers[got].Weight, q.Tried.Has(got))
					}
				}
			}
		})
	}
}

// TestProportions checks that the random and hashed algorithms follow the weights.
func TestProportions(t *testing.T) {
	t.Parallel()
	w := []int{100, 50, 25, 25}
	const n = 100000
	for _, b := range []spec.Balance{
		{Algorithm: spec.URI}, {Algorithm: spec.URI, Hash: spec.HashConsistent}, {Algorithm: spec.URI, Hash: spec.HashMaglev},
	} {
		a := New(b)
		a.Set(weights(w...))
		got := make([]int, len(w))
		random := rand.New(rand.NewPCG(3, 4))
		for range n {
			got[a.Next(&Query{Hash: random.Uint32(), Hashed: true})]++
		}
		for i, weight := range w {
			want := n * weight / 200
			if got[i] < want*9/10 || got[i] > want*11/10 {
				t.Errorf("%T: got %v, want within a tenth of shares %v", a, got, w)
				break
			}
		}
	}
	// Under load the two that look at it end up in proportion to the weights, however they draw.
	for _, a := range []Algorithm{newRandom(), newPeakEWMA(), new(LeastConn)} {
		servers := weights(w...)
		a.Set(servers)
		for i := range servers {
			servers[i].Load.Latency.Observe(time.Millisecond, 1)
		}
		for range 2000 {
			servers[a.Next(&Query{Now: 1})].Load.Active.Add(1)
		}
		for i, weight := range w {
			want := int64(2000 * weight / 200)
			if got := servers[i].Load.Active.Load(); got < want*9/10 || got > want*11/10 {
				t.Errorf("%T: %d requests under way on server %d, want about %d", a, got, i, want)
			}
		}
	}
}

// TestDisruption bounds how many requests change their server when another one leaves.
func TestDisruption(t *testing.T) {
	t.Parallel()
	const keys = 20000
	for _, test := range []struct {
		hash spec.HashType
		most int // of those that the other servers had, in percent, that may move
	}{{spec.HashConsistent, 0}, {spec.HashMaglev, 3}} {
		for _, n := range []int{3, 10, 50} {
			a := New(spec.Balance{Algorithm: spec.URI, Hash: test.hash})
			servers := weights(make([]int, n)...)
			for i := range servers {
				servers[i] = server(i, 1)
				servers[i].Name = fmt.Sprint("server", i)
			}
			a.Set(servers)
			before := make([]int, keys)
			for i := range before {
				before[i] = a.Next(&Query{Hash: Mix(uint32(i)), Hashed: true})
			}
			gone := n / 2
			left := append([]Server(nil), servers...)
			left[gone].Weight = 0
			a.Set(left)
			moved := 0
			for i, was := range before {
				now := a.Next(&Query{Hash: Mix(uint32(i)), Hashed: true})
				if was != gone && now != was {
					moved++
				}
			}
			if moved*100 > keys*test.most {
				t.Errorf("%T, %d servers: %d of %d moved though their server stayed, want at most %d %%", a, n, moved, keys, test.most)
			}
			t.Logf("%T, %d servers: %.2f %% moved", a, n, float64(moved)*100/keys)
			a.Set(servers)
			for i, was := range before {
				if now := a.Next(&Query{Hash: Mix(uint32(i)), Hashed: true}); now != was {
					t.Fatalf("%T: after it has come back request %d goes to %d, it went to %d", a, i, now, was)
				}
			}
		}
	}
}

// TestMaglevHangsOnNames: another order of the same servers moves nothing between them but what ties decide.
func TestMaglevHangsOnNames(t *testing.T) {
	t.Parallel()
	there, back := new(Maglev), new(Maglev)
	servers := weights(1, 1, 1, 1, 1)
	turned := make([]Server, len(servers))
	for i := range servers {
		turned[len(servers)-1-i] = servers[i]
	}
	there.Set(servers)
	back.Set(turned)
	moved := 0
	for i := range uint32(tableSize) {
		q := Query{Hash: i, Hashed: true}
		if servers[there.Peek(&q)].Name != turned[back.Peek(&q)].Name {
			moved++
		}
	}
	if moved > tableSize/20 {
		t.Errorf("%d of %d entries moved", moved, tableSize)
	}
}

// TestLatency: the slower server is left at once and tried again later.
func TestLatency(t *testing.T) {
	t.Parallel()
	servers := weights(1, 1)
	a := newPeakEWMA()
	a.Set(servers)
	second := int64(time.Second)
	count := func(now int64) (slow int) {
		for range 1000 {
			if a.Next(&Query{Now: now}) == 1 {
				slow++
			}
		}
		return slow
	}
	servers[0].Load.Latency.Observe(10*time.Millisecond, second)
	servers[1].Load.Latency.Observe(10*time.Millisecond, second)
	if n := count(second); n < 400 || n > 600 {
		t.Errorf("equal servers: %d of 1000 go to the second", n)
	}
	servers[1].Load.Latency.Observe(500*time.Millisecond, 2*second)
	if n := count(2 * second); n != 0 {
		t.Errorf("right after a slow answer: %d of 1000 go to it", n)
	}
	servers[1].Load.Latency.Observe(10*time.Millisecond, 2*second)
	if got := servers[1].Load.Latency.Value(2 * second); got < 400*time.Millisecond {
		t.Errorf("one good answer makes the slow one forgotten: %v", got)
	}
	servers[0].Load.Latency.Observe(10*time.Millisecond, 62*second)
	if n := count(62 * second); n == 0 {
		t.Error("a minute later nobody tries it again")
	}
}

func TestNextAllocatesNothing(t *testing.T) {
	for name, open := range every() {
		a := open()
		a.Set(weights(3, 2, 1))
		q := new(Query)
		if n := testing.AllocsPerRun(100, func() { a.Next(q); a.Peek(q); q.Hashed = !q.Hashed }); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}

func BenchmarkNext(b *testing.B) {
	for name, open := range every() {
		for _, n := range []int{4, 256} {
			b.Run(fmt.Sprint(name, "/", n), func(b *testing.B) {
				servers := weights(make([]int, n)...)
				for i := range servers {
					servers[i] = server(i, 1+i%3)
				}
				a := open()
				a.Set(servers)
				q := &Query{Hashed: true}
				for i := range b.N {
					q.Hash = Mix(uint32(i))
					a.Next(q)
				}
			})
		}
	}
}
