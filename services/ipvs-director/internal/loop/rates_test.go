package loop

import (
	"net/netip"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

func TestRates(t *testing.T) {
	t.Parallel()
	key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.78:80")}
	begin := time.Unix(1_000_000, 0)
	var r rates
	for i, step := range []struct {
		after time.Duration
		total uint64
		want  float64
	}{
		{0, 100, 0},           // nothing to compare with
		{time.Second, 900, 0}, // too soon
		{2 * time.Second, 500, 200},
		{3 * time.Second, 501, 200}, // too soon: as before
		{6 * time.Second, 504, 1},
		{9 * time.Second, 3, 0}, // it has begun anew
		{12 * time.Second, 33, 10},
	} {
		r.count(plan.Have{Services: []plan.Service{{VIP: key.VIP, Reals: []plan.Real{{Real: spec.Real{Address: key.Real}, Total: step.total}}}}}, begin.Add(step.after))
		if got := r.perSecond[key].Connections; got != step.want {
			t.Errorf("step %d: %v a second, want %v", i, got, step.want)
		}
	}
	// What was counted once says nothing new at the next look, and is the mean of the time between countings.
	counted := func(total uint64, at time.Duration) plan.Have {
		return plan.Have{Counted: begin.Add(at), Services: []plan.Service{{VIP: key.VIP, Reals: []plan.Real{{Real: spec.Real{Address: key.Real}, Total: total}}}}}
	}
	r.count(counted(113, 20*time.Second), begin.Add(20*time.Second))
	r.count(counted(113, 20*time.Second), begin.Add(25*time.Second))
	r.count(counted(193, 28*time.Second), begin.Add(29*time.Second))
	if got := r.perSecond[key].Connections; got != 10 {
		t.Errorf("of countings 8 s apart: %v a second, want 10", got)
	}
	r.count(plan.Have{}, begin.Add(time.Hour))
	if len(r.perSecond) > 0 {
		t.Errorf("of one that has gone: %v", r.perSecond)
	}
}

// What has passed has a rate each way where it is counted, and none when its counter has begun anew.
func TestRatesOfTraffic(t *testing.T) {
	t.Parallel()
	key := steer.Key{VIP: spec.MustParseVIP("10.10.60.22:80"), Real: netip.MustParseAddrPort("192.168.60.78:80")}
	begin := time.Unix(1_000_000, 0)
	var r rates
	for i, step := range []struct {
		traffic *plan.Traffic
		want    Rates
	}{
		{&plan.Traffic{PacketsIn: 10, PacketsOut: 20, BytesIn: 1 << 40, BytesOut: 7}, Rates{}},
		{&plan.Traffic{PacketsIn: 20, PacketsOut: 24, BytesIn: 1<<40 + 1000, BytesOut: 8}, Rates{PacketsIn: 5, PacketsOut: 2, BytesIn: 500, BytesOut: 0.5}},
		{&plan.Traffic{PacketsIn: 1, PacketsOut: 26, BytesIn: 40, BytesOut: 8}, Rates{PacketsOut: 1}},
		{nil, Rates{}},
		{&plan.Traffic{PacketsIn: 9}, Rates{}},
	} {
		r.count(plan.Have{Services: []plan.Service{{VIP: key.VIP, Reals: []plan.Real{{Real: spec.Real{Address: key.Real}, Traffic: step.traffic}}}}},
			begin.Add(time.Duration(i)*RateOver))
		if got := r.perSecond[key]; got != step.want {
			t.Errorf("step %d: %+v, want %+v", i, got, step.want)
		}
	}
}
