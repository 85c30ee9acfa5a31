package plan

import (
	"reflect"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// Whatever is there and whatever is wanted: folding the planned changes makes the one into the other.
func TestFoldCarriesOutAPlan(t *testing.T) {
	t.Parallel()
	vip := spec.MustParseVIP("10.10.60.22:80")
	service := func(s spec.Scheduler, reals ...spec.Real) []spec.Service {
		return []spec.Service{{VIP: vip, Scheduler: s, Reals: reals}}
	}
	a, b, c := real("192.168.60.1:80", 1), real("192.168.60.2:80", 2), real("192.168.60.3:80", 0)
	heavy := real("192.168.60.1:80", 9)
	states := map[string][]spec.Service{
		"none": nil, "empty": service(spec.WLC), "a": service(spec.WLC, a), "a b": service(spec.WRR, a, b),
		"b c": service(spec.WLC, b, c), "heavy c": service(spec.WRR, heavy, c),
	}
	states["lent"], states["lent more"] = service(spec.WLC, a, b), service(spec.WLC, a, b)
	states["lent"][0].Lent = []spec.Loan{{Slot: 3, To: b.Address}}
	states["lent more"][0].Lent = []spec.Loan{{Slot: 3, To: b.Address}, {Slot: 7, To: a.Address}}
	for nameFrom, from := range states {
		for nameTo, to := range states {
			have := Have{}
			current, there := spec.Service{}, false
			for _, s := range from {
				h := Service{VIP: s.VIP, Scheduler: s.Scheduler, Lent: s.Lent}
				for _, r := range s.Reals {
					h.Reals = append(h.Reals, Real{Real: r})
				}
				have.Services = append(have.Services, h)
				current, there = s, true
			}
			for _, change := range Diff(spec.Want{Services: to}, have) {
				var err error
				for range 2 { // done twice = done once
					if current, there, err = Fold(current, there, change); err != nil {
						t.Fatalf("%s to %s: %v", nameFrom, nameTo, err)
					}
				}
			}
			if there != (len(to) == 1) {
				t.Errorf("%s to %s: there %v", nameFrom, nameTo, there)
			}
			if there && (current.Scheduler != to[0].Scheduler || !reflect.DeepEqual(current.Lent, to[0].Lent) || len(current.Reals)+len(to[0].Reals) > 0 && !reflect.DeepEqual(current.Reals, to[0].Reals)) {
				t.Errorf("%s to %s: got %+v, want %+v", nameFrom, nameTo, current, to[0])
			}
		}
	}
}

func TestFoldRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	for _, kind := range []Kind{SetService, AddReal, SetReal, Rebuild} {
		if _, _, err := Fold(spec.Service{}, false, Change{Kind: kind}); err == nil {
			t.Errorf("kind %d on no service: no error", kind)
		}
	}
}
