package steer

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func TestCeilings(t *testing.T) {
	t.Parallel()
	s := service(1, 1)
	s.Reals[0].Upper, s.Reals[0].Lower = 4, 2
	m := Memory{}
	for _, c := range []struct {
		have    string
		open    int // of real server 0; below 0: not counted
		got     string
		because string
	}{
		{"0:1 1:1", 3, "0:1 1:1", "takes connections"},
		{"0:1 1:1", 4, "0:0 1:1", "no new connections: full at 4 connections, until there are fewer than 2"},
		{"0:0 1:1", 3, "0:0 1:1", "no new connections: full at 4 connections, until there are fewer than 2"},
		{"0:0 1:1", -1, "0:0 1:1", "no new connections: full at 4 connections, until there are fewer than 2"},
		{"0:0 1:1", 2, "0:0 1:1", "no new connections: full at 4 connections, until there are fewer than 2"},
		{"0:0 1:1", 1, "0:1 1:1", "takes connections"},
		{"0:1 1:1", 3, "0:1 1:1", "takes connections"},
		{"0:1 1:1", 9, "0:0 1:1", "no new connections: full at 4 connections, until there are fewer than 2"},
	} {
		w := World{Want: spec.Want{Services: []spec.Service{s}}, Have: kernel(c.have), Health: health("UU"), Now: start, Ceilings: true,
			Open: func(k Key) (uint64, bool) { return uint64(max(c.open, 0)), c.open >= 0 }}
		course := Steer(w, m)
		key := Key{vip, real(0)}
		if got := print(course); got != c.got || course.Reasons[key] != c.because || !slices.Equal(course.Limited, []Key{key}) {
			t.Errorf("%d open: got %s, %q, to count %v; want %s, %q", c.open, got, course.Reasons[key], course.Limited, c.got, c.because)
		}
		if r := course.Services[0].Reals[0]; r.Upper != 0 || r.Lower != 0 {
			t.Errorf("the plane gets %+v", r)
		}
		m = course.Memory
		w.Ceilings = false
		if got := Steer(w, Memory{}); got.Services[0].Reals[0] != s.Reals[0] || len(got.Limited) > 0 {
			t.Errorf("a plane with thresholds gets %+v", got.Services[0].Reals[0])
		}
	}
}

// However connections come and go: nobody takes new ones above its ceiling or, once full, above the lower threshold, and everybody else
// has its weight; one that comes back from being full is not spared again.
func TestCeilingsHold(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(5, 6))
	for round := range 1000 {
		s := service()
		s.SlowStart = []time.Duration{0, time.Millisecond}[random.IntN(2)]
		open, full := map[Key]uint64{}, map[Key]bool{}
		states := ""
		for i := range 1 + random.IntN(4) {
			r := spec.Real{Address: real(i), Weight: 1 + random.IntN(3), Upper: uint32(random.IntN(6))}
			if r.Upper > 0 {
				r.Lower = uint32(random.IntN(int(r.Upper) + 1))
			}
			s.Reals, states = append(s.Reals, r), states+"U"
		}
		w := World{Want: spec.Want{Services: []spec.Service{s}}, Health: health(states), Now: start, Ceilings: true,
			Open: func(k Key) (uint64, bool) { return open[k], true }}
		m := Memory{}
		for step := range 30 {
			w.Now = w.Now.Add(time.Second)
			course := Steer(w, m)
			for i, r := range course.Services[0].Reals {
				key, want := Key{vip, r.Address}, s.Reals[i]
				if want.Upper > 0 && open[key] >= uint64(want.Upper) {
					full[key] = true
				} else if open[key] < uint64(want.Refill()) {
					full[key] = false
				}
				want.Upper, want.Lower = 0, 0
				if full[key] {
					want.Weight = 0
				}
				if s.SlowStart > 0 && r.Weight > 0 && want.Weight > 0 {
					r.Weight = want.Weight // it may be spared, or others
				}
				if r != want {
					t.Fatalf("round %d step %d: %v with %d open: got %+v, want %+v", round, step, key, open[key], r, want)
				}
			}
			w.Have, m = apply(t, w.Have, plan.Diff(spec.Want{Services: course.Services}, w.Have)...), course.Memory
			for _, r := range s.Reals {
				open[Key{vip, r.Address}] = uint64(random.IntN(8))
			}
		}
	}
}
