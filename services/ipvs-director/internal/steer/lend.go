package steer

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// StepsAtOnce is how many services may have slots moved by one course: each step is a transaction and a word to the other directors.
const StepsAtOnce = 16

// lend decides which slots of a service others have than the weights say. The kernel is the memory of it.
func (s *steering) lend(now *spec.Service) {
	if s.w.Lending == nil || !now.Scheduler.ByLoad() {
		return
	}
	told, follow := s.w.Lending.Follow(now.VIP)
	if now.Lent = s.lent[now.VIP]; follow {
		now.Lent = told
	}
	now.Lent = slots.Fit(*now)
	if !follow {
		s.level(now)
	}
	if key := (Key{VIP: now.VIP}); len(now.Lent) > 0 && s.course.Reasons[key] == "" {
		s.course.Reasons[key] = fmt.Sprintf("%d slots are lent to those with few open connections", len(now.Lent))
	}
}

// level takes a step, if it is time for one and all connections have been counted.
func (s *steering) level(now *spec.Service) {
	open, counted := map[netip.AddrPort]uint64{}, true
	for _, r := range now.Reals {
		if r.Weight > 0 {
			key := Key{now.VIP, r.Address}
			s.course.ByLoad = append(s.course.ByLoad, key)
			n, ok := s.open(key)
			open[r.Address], counted = n, counted && ok
		}
	}
	if !counted || len(s.course.Stepped) == StepsAtOnce || !s.w.Lending.Level(now.VIP) {
		return
	}
	if lent := slots.Level(*now, open); !slices.Equal(lent, now.Lent) {
		now.Lent = lent
		s.course.Stepped = append(s.course.Stepped, now.VIP)
	}
}
