package loop

import (
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// RateOver is the least time that a rate is the mean of. IPVS adds up its counters every 2 s.
const RateOver = 2 * time.Second

// rates turns counters into rates.
type rates struct {
	since  time.Time
	totals map[steer.Key]uint64
	// perSecond are new connections; never changed once it is handed out.
	perSecond map[steer.Key]float64
}

// count takes what was observed at a moment, or counted before.
func (r *rates) count(have plan.Have, now time.Time) {
	if !have.Counted.IsZero() {
		now = have.Counted
	}
	passed := now.Sub(r.since)
	if r.totals != nil && passed < RateOver {
		return
	}
	totals, perSecond := map[steer.Key]uint64{}, map[steer.Key]float64{}
	for _, s := range have.Services {
		for _, real := range s.Reals {
			key := steer.Key{VIP: s.VIP, Real: real.Address}
			totals[key] = real.Total
			if before, known := r.totals[key]; known && real.Total >= before { // else the counter has begun anew
				perSecond[key] = float64(real.Total-before) / passed.Seconds()
			}
		}
	}
	r.since, r.totals, r.perSecond = now, totals, perSecond
}
