package steer

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

func TestSlowStart(t *testing.T) {
	t.Parallel()
	s := service(1, 2)
	s.SlowStart = 100 * time.Second
	w := World{Want: spec.Want{Services: []spec.Service{s}}, Now: start}
	m := Memory{}
	for _, c := range []struct {
		name, have, health string
		after              time.Duration // since the start
		got                string
	}{
		{"nobody is there yet: nobody is spared", "", "UU", 0, "0:1 1:2"},
		{"both take", "0:1 1:2", "UU", 0, "0:1 1:2"},
		{"one is dead", "0:1 1:2", "UD", 0, "0:1 1:0"},
		{"it is back", "0:1 1:0", "UU", 0, "0:10 1:2"},
		{"half of the time", "0:10 1:2", "UU", 50 * time.Second, "0:10 1:10"},
		{"dead again", "0:10 1:10", "UD", 60 * time.Second, "0:1 1:0"},
		{"it begins anew", "0:1 1:0", "UU", 70 * time.Second, "0:10 1:2"},
		{"after a restart of the director, too", "0:10 1:2", "??", 80 * time.Second, "0:10 1:2"},
		{"nearly", "0:10 1:2", "UU", 169 * time.Second, "0:10 1:18"},
		{"the clock was set back", "0:10 1:18", "UU", 10 * time.Second, "0:10 1:2"},
		{"it is over", "0:10 1:18", "UU", 110 * time.Second, "0:1 1:2"},
		{"the only one is not spared", "0:0 1:0", "DU", 200 * time.Second, "0:0 1:2"},
	} {
		w.Have, w.Health, w.Now = plan.Have{}, health(c.health), start.Add(c.after)
		if c.have != "" {
			w.Have = kernel(c.have)
		}
		course := Steer(w, m)
		if got := print(course); got != c.got {
			t.Errorf("%s: got %s, want %s", c.name, got, c.got)
		}
		m = course.Memory
	}
}

// However many real servers of whatever weights begin, and whenever: the share of each that begins never shrinks for itself, no one
// that takes connections is without a weight, and after the time all weights are as wanted.
func TestSlowStartGrowsUpToTheWeight(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(3, 4))
	for round := range 2000 {
		s := service()
		s.SlowStart = time.Duration(1+random.IntN(60)) * time.Second
		began := map[int]bool{}
		var have plan.Service
		have.VIP, have.Scheduler = s.VIP, s.Scheduler
		for i := range 2 + random.IntN(4) {
			r := spec.Real{Address: real(i), Weight: 1 + random.IntN([]int{3, 100, spec.MaxWeight}[random.IntN(3)])}
			s.Reals = append(s.Reals, r)
			began[i] = i > 0 && random.IntN(2) > 0
			if began[i] {
				r.Weight = 0
			}
			have.Reals = append(have.Reals, plan.Real{Real: r})
		}
		w := World{Want: spec.Want{Services: []spec.Service{s}}, Have: plan.Have{Services: []plan.Service{have}}, Health: health("UUUUUU"), Now: start}
		m, last := Memory{}, map[int]float64{}
		for elapsed := time.Duration(0); elapsed < s.SlowStart; elapsed += time.Duration(1+random.IntN(1000)) * s.SlowStart / 2000 {
			w.Now = start.Add(elapsed)
			course := Steer(w, m)
			got := course.Services[0].Reals
			// Real server 0 takes connections all the time: what the others get is measured by it.
			for i, r := range got {
				part := float64(r.Weight) / float64(got[0].Weight) / (float64(s.Reals[i].Weight) / float64(s.Reals[0].Weight))
				switch {
				case r.Weight < 1 || r.Weight > spec.MaxWeight:
					t.Fatalf("round %d: real server %d has the weight %d", round, i, r.Weight)
				case !began[i] && (part < 0.999 || part > 1.001):
					t.Fatalf("round %d: real server %d takes all the time, and has %f of its share", round, i, part)
				case began[i] && part+1e-9 < last[i]:
					t.Fatalf("round %d: the share of real server %d shrinks from %f to %f", round, i, last[i], part)
				}
				last[i] = part
			}
			w.Have, m = apply(t, w.Have, plan.Diff(spec.Want{Services: course.Services}, w.Have)...), course.Memory
		}
		w.Now = start.Add(s.SlowStart)
		course := Steer(w, m)
		for i, r := range course.Services[0].Reals {
			if r != s.Reals[i] {
				t.Fatalf("round %d: at the end real server %d is %+v, want %+v", round, i, r, s.Reals[i])
			}
		}
		if len(course.Memory.Warming) > 0 {
			t.Fatalf("round %d: remembered at the end: %v", round, course.Memory.Warming)
		}
	}
}
