package planetest

import (
	"context"
	"net/netip"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// counter is a plane that deals lc and wlc by a table, whose slots the loop moves by what the plane counts.
type counter interface {
	CountOpen(ctx context.Context, keys []steer.Key) (map[steer.Key]uint64, error)
}

// byTable tells whether the plane deals lc and wlc by a table, and says so in the report.
func (r *run) byTable() bool {
	_, counts := r.plane.(counter)
	if counts {
		r.remark = ", lc and wlc evened out afterwards by slots that are lent"
	}
	return counts
}

// level does what the loop does between new connections, on a plane that deals by a table, and returns the service then.
func (r *run) level(s spec.Service) spec.Service {
	r.t.Helper()
	c, counts := r.plane.(counter)
	if !counts || !s.Scheduler.ByLoad() {
		return s
	}
	var keys []steer.Key
	for _, real := range s.Reals {
		keys = append(keys, steer.Key{VIP: s.VIP, Real: real.Address})
	}
	counted, err := c.CountOpen(r.t.Context(), keys)
	if err != nil {
		r.t.Fatal(err)
	}
	open := map[netip.AddrPort]uint64{}
	for key, n := range counted {
		open[key.Real] = n
	}
	if s.Lent = slots.Level(s, open); r.world.Network != nil {
		r.become(s)
	}
	return s
}

// lent: slots that are lent are seen, outlive the plane and a rebuild, and go when they do not fit.
func lent(t *testing.T, r *run) {
	if !r.byTable() {
		r.remark = ", its schedulers look at the open connections: nothing is lent"
		return
	}
	s, beside := r.service(80, spec.WLC, 1, 2, 0), r.service(81, spec.LC, 3, 1)
	r.become(s, beside)
	for range 3 {
		s.Lent = slots.Level(s, map[netip.AddrPort]uint64{r.reals[0]: 1000, r.reals[1]: 10})
		beside.Lent = slots.Level(beside, map[netip.AddrPort]uint64{r.reals[0]: 10, r.reals[1]: 1000})
		r.become(s, beside)
	}
	if len(s.Lent) == 0 || len(beside.Lent) == 0 {
		t.Fatalf("%d and %d slots are lent", len(s.Lent), len(beside.Lent))
	}
	if err := r.plane.Close(); err != nil {
		t.Fatal(err)
	}
	r.plane = r.world.Open()
	r.is(s, beside)
	if _, err := r.plane.Apply(t.Context(), []plan.Change{{Kind: plan.Rebuild, Services: []spec.Service{s, beside}}}); err != nil {
		t.Fatal(err)
	}
	r.is(s, beside)
	s.Reals[1].Weight, s.Reals[2].Weight = 0, 1 // who has borrowed them takes no connections any more
	s.Lent = slots.Fit(s)
	r.become(s, beside)
	s.Lent = []spec.Loan{{Slot: 5, To: r.reals[0]}, {Slot: 6, To: r.reals[2]}}
	s.Lent = slots.Fit(s) // one of them at least may have it already
	r.become(s, beside)
	s.Lent = nil
	r.become(s, beside)
	s.Scheduler = spec.WRR
	r.become(s)
}

// unequal has the connections of one real server last and those of the others end at once: who looks at the open ones gives it few.
func unequal(t *testing.T, r *run) {
	r.byTable()
	const lots, lot = 30, 20
	last := r.reals[0]
	taken := func(scheduler spec.Scheduler) (n int) {
		s := r.service(VIPPort, scheduler, 1, 1, 1)
		r.become(s)
		var open []*Conn
		for range lots {
			conns, some := r.connect(VIPPort, lot)
			n += some[last]
			for _, c := range conns {
				if c.Real == last {
					open = append(open, c)
				} else if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
			s = r.level(s)
		}
		for i, c := range open {
			c.Echo(t, "still there")
			if err := c.Close(); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
		}
		r.become()
		return n
	}
	inTurn := taken(spec.RR)
	for _, scheduler := range []spec.Scheduler{spec.WLC, spec.LC} {
		n := taken(scheduler)
		t.Logf("of %d connections the real server where they last took %d by %s, %d in turn", lots*lot, n, scheduler, inTurn)
		if n > inTurn/2 {
			t.Errorf("of %d connections the real server where they last took %d by %s, %d in turn", lots*lot, n, scheduler, inTurn)
		}
	}
}
