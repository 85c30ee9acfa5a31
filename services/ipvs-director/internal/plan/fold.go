package plan

import (
	"fmt"
	"slices"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Fold returns what a service becomes through one change on it, and whether it exists afterwards. there tells whether
// it existed before. The service that is passed in is not changed. A change that is done already changes nothing.
func Fold(s spec.Service, there bool, c Change) (spec.Service, bool, error) {
	if !there && c.Kind != AddService && c.Kind != RemoveService && c.Kind != RemoveReal {
		return s, false, fmt.Errorf("%s: there is no such service", c)
	}
	s.Reals = slices.Clone(s.Reals)
	at, found := slices.BinarySearchFunc(s.Reals, c.Real, func(a, b spec.Real) int { return a.Address.Compare(b.Address) })
	switch c.Kind {
	case AddService, SetService:
		s.VIP, s.Scheduler, s.Persistence, s.OnePacket, there = c.VIP, c.Scheduler, c.Persistence, c.OnePacket, true
	case AddReal, SetReal:
		if found {
			s.Reals[at] = c.Real
		} else {
			s.Reals = slices.Insert(s.Reals, at, c.Real)
		}
	case RemoveReal:
		if found {
			s.Reals = slices.Delete(s.Reals, at, at+1)
		}
	case Lend:
		s.Lent = c.Lent
	case RemoveService:
		return spec.Service{}, false, nil
	default:
		return s, there, fmt.Errorf("%s: not a change of one service", c)
	}
	return s, there, nil
}
