package loop

import (
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// RateOver is the least time that a rate is the mean of. IPVS adds up its counters every 2 s.
const RateOver = 2 * time.Second

// Rates are what came each second of late, the mean of RateOver or more.
type Rates struct {
	// Connections are new ones; packets and bytes are 0 on a plane that does not count them.
	Connections, PacketsIn, PacketsOut, BytesIn, BytesOut float64
}

// rates turns counters into rates.
type rates struct {
	since time.Time
	last  map[steer.Key]plan.Real
	// perSecond is never changed once it is handed out.
	perSecond map[steer.Key]Rates
}

// count takes what was observed at a moment, or counted before.
func (r *rates) count(have plan.Have, now time.Time) {
	if !have.Counted.IsZero() {
		now = have.Counted
	}
	passed := now.Sub(r.since)
	if r.last != nil && passed < RateOver {
		return
	}
	each := func(before, after uint64) float64 {
		if after < before { // the counter has begun anew
			return 0
		}
		return float64(after-before) / passed.Seconds()
	}
	last, perSecond := map[steer.Key]plan.Real{}, map[steer.Key]Rates{}
	for _, s := range have.Services {
		for _, real := range s.Reals {
			key := steer.Key{VIP: s.VIP, Real: real.Address}
			last[key] = real
			before, known := r.last[key]
			if !known {
				continue
			}
			rates := Rates{Connections: each(before.Total, real.Total)}
			if was, is := before.Traffic, real.Traffic; was != nil && is != nil {
				rates.PacketsIn, rates.PacketsOut = each(was.PacketsIn, is.PacketsIn), each(was.PacketsOut, is.PacketsOut)
				rates.BytesIn, rates.BytesOut = each(was.BytesIn, is.BytesIn), each(was.BytesOut, is.BytesOut)
			}
			perSecond[key] = rates
		}
	}
	r.since, r.last, r.perSecond = now, last, perSecond
}
