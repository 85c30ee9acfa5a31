package steer

import (
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// ceilings takes real servers that are full out of the balance, for a plane that has no thresholds: full with Upper open connections,
// until there are fewer than Refill. As long as they are not counted, nothing changes. The plane gets no thresholds.
func (s *steering) ceilings(want spec.Service, reals []spec.Real) {
	if !s.w.Ceilings {
		return
	}
	for i := range reals {
		r := &reals[i]
		if r.Upper == 0 {
			continue
		}
		key := Key{want.VIP, r.Address}
		s.course.Limited = append(s.course.Limited, key)
		full := s.was.Full[key]
		open, counted := s.open(key)
		switch {
		case counted && open >= uint64(r.Upper):
			full = true
		case counted && open < uint64(r.Refill()):
			full = false
		}
		if full {
			s.course.Memory.Full[key] = true
			if r.Weight > 0 {
				s.reason(want.VIP, r.Address, "no new connections: full at %d connections, until there are fewer than %d", r.Upper, r.Refill())
			}
			r.Weight = 0
		}
		r.Upper, r.Lower = 0, 0
	}
}
