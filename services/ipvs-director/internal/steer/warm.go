package steer

import (
	"net/netip"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// warmSteps is how many steps the weight of a real server takes that begins: a tenth, two tenths, and so on. Each is a change of
// the kernel.
const warmSteps = 10

// warm spares the real servers that have just begun to take connections: while one of them is spared, all weights of the service are
// multiplied, which changes no share, so that those of the spared ones can be a part. Nobody is spared when nobody else would take
// what it does not, nor in a panic.
func (s *steering) warm(want spec.Service, reals []spec.Real, panics bool) []spec.Real {
	if want.SlowStart == 0 || panics {
		return reals
	}
	have := s.have[want.VIP]
	takes := func(a netip.AddrPort) bool { return have[a].Weight > 0 }
	others, heaviest := false, 1
	for _, r := range reals {
		others = others || r.Weight > 0 && takes(r.Address)
		heaviest = max(heaviest, r.Weight)
	}
	steps := map[netip.AddrPort]int{}
	for _, r := range reals {
		key := Key{want.VIP, r.Address}
		since, warming := s.was.Warming[key]
		switch {
		case r.Weight == 0:
			continue // it begins anew when it takes connections again
		case !warming && (takes(r.Address) || s.was.Full[key] || !others):
			continue
		case !warming || since.After(s.w.Now): // the clock was set back
			since = s.w.Now
		}
		elapsed := s.w.Now.Sub(since)
		if elapsed >= want.SlowStart {
			continue
		}
		s.course.Memory.Warming[key] = since
		steps[r.Address] = warmth(elapsed, want.SlowStart)
		s.reason(want.VIP, r.Address, "takes connections: with %d %% of its weight, it has just begun", steps[r.Address]*100/warmSteps)
	}
	if len(steps) == 0 {
		return reals
	}
	factor := max(1, min(warmSteps, spec.MaxWeight/heaviest))
	for i := range reals {
		reals[i].Weight *= factor
		if step, warming := steps[reals[i].Address]; warming && reals[i].Weight > 0 {
			reals[i].Weight = max(1, reals[i].Weight*step/warmSteps)
		}
	}
	return reals
}

// warmth is the step that is reached after a part of the time, 1 to warmSteps-1.
func warmth(elapsed, whole time.Duration) int {
	return 1 + int(float64(warmSteps-1)*float64(elapsed)/float64(whole))
}
