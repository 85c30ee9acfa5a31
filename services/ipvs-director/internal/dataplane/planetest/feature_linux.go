package planetest

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The addresses of services and real servers in states that carry no traffic.
var (
	real4 = netip.MustParseAddrPort("192.168.60.55:80")
	real6 = netip.MustParseAddrPort("[2001:db8:60::55]:80")
	vip4  = spec.MustParseVIP(VIP + ":80")
	vip6  = spec.MustParseVIP("[2001:db8::22]:80")
)

// with is a service that needs a feature, and the ways in which what needs it can change. The features of schedulers are for
// eachScheduler.
func with(f spec.Feature) []spec.Service {
	service := func(vip spec.VIP, real spec.Real) spec.Service {
		real.Weight = 1
		return spec.Service{VIP: vip, Scheduler: spec.WRR, Reals: []spec.Real{real}}
	}
	plain := spec.Real{Address: real4}
	forward := func(forwards ...spec.Forward) (all []spec.Service) {
		for _, f := range forwards {
			all = append(all, service(vip4, spec.Real{Address: real4, Forward: f}))
		}
		return append(all, service(vip4, plain))
	}
	switch f {
	case spec.FeatureUDP:
		udp := vip4
		udp.Protocol = spec.UDP
		return []spec.Service{service(udp, plain)}
	case spec.FeatureIPv6:
		return []spec.Service{service(vip6, spec.Real{Address: real6})}
	case spec.FeatureMark:
		return []spec.Service{service(spec.VIP{Mark: 7}, plain), service(spec.VIP{Mark: 7}, spec.Real{Address: netip.AddrPortFrom(real4.Addr(), 0)})}
	case spec.FeaturePersistence:
		one := service(vip4, plain)
		one.Persistence = spec.Persistence{Timeout: time.Minute, Prefix: 32}
		other := service(vip4, plain)
		other.Persistence = spec.Persistence{Timeout: 2 * time.Minute, Prefix: 24}
		return []spec.Service{one, other, service(vip4, plain)}
	case spec.FeatureThresholds:
		return []spec.Service{service(vip4, spec.Real{Address: real4, Upper: 10}), service(vip4, spec.Real{Address: real4, Upper: 12, Lower: 4}), service(vip4, plain)}
	case spec.FeatureDirect:
		return forward(spec.Forward{Method: spec.Direct})
	case spec.FeatureIPIP:
		return forward(spec.Forward{Method: spec.ByTunnel})
	case spec.FeatureGUE:
		gue := spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GUE, Port: 6080}
		checked := gue
		checked.Checksum = spec.RemoteChecksum
		return forward(gue, checked)
	case spec.FeatureGRE:
		return forward(spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GRE}, spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GRE, Checksum: spec.WholeChecksum})
	case spec.FeatureMixedFamilies:
		return []spec.Service{service(vip6, spec.Real{Address: real4, Forward: spec.Forward{Method: spec.ByTunnel}})}
	case spec.FeatureOnePacket:
		udp := vip4
		udp.Protocol = spec.UDP
		one := service(udp, plain)
		one.OnePacket = true
		return []spec.Service{one, service(udp, plain)}
	}
	return nil
}

// kept makes each state of the feature from nothing and from the one before, and makes it anew.
func kept(t *testing.T, r *run) {
	states := with(r.needs[0])
	for _, s := range states {
		r.become(s)
	}
	for _, s := range states {
		r.become()
		r.become(s)
		if err := r.plane.Close(); err != nil {
			t.Fatal(err)
		}
		r.plane = r.world.Open()
		r.is(s)
		beside := spec.Service{VIP: spec.MustParseVIP(VIP + ":443"), Scheduler: spec.WRR, Reals: []spec.Real{{Address: real4, Weight: 1}}}
		list := []spec.Service{s, beside}
		slices.SortFunc(list, func(a, b spec.Service) int { return a.VIP.Compare(b.VIP) })
		if _, err := r.plane.Apply(t.Context(), []plan.Change{{Kind: plan.Rebuild, Services: list}}); err != nil {
			t.Fatal(err)
		}
		r.is(list...)
	}
}

// lacking asks for everything that the plane declares to lack.
func lacking(_ *testing.T, r *run) {
	for _, f := range spec.Features {
		if _, lacks := r.world.Lacks[f]; lacks {
			r.refuses(f)
		}
	}
}

// tuned says what the plane is to have once, and what would change it.
func tuned(f spec.Feature) []plan.Change {
	switch f {
	case spec.FeatureTimeouts:
		return []plan.Change{{Kind: plan.SetTimeouts, Timeouts: spec.Timeouts{TCP: time.Hour}}}
	case spec.FeatureSync:
		d := plan.Daemon{CardName: "outer", Group: spec.SyncGroup{Address: spec.DefaultSyncGroup, Port: spec.DefaultSyncPort, TTL: spec.DefaultSyncTTL}}
		return []plan.Change{{Kind: plan.StartSync, Daemon: d}, {Kind: plan.StopSync, Daemon: d}}
	}
	return nil
}

// tune makes the plane as the tuning says and fails unless it then is so.
func (r *run) tune(want spec.Tuning, cards ...plan.HostAddress) plan.Tuning {
	r.t.Helper()
	for pass := range 2 {
		have := r.observe()
		have.Host.Addresses = cards
		changes := plan.Diff(spec.Want{Tuning: want}, have)
		if pass == 1 && len(changes) > 0 {
			r.t.Fatalf("still to do: %v", changes)
		}
		for range 2 { // what is done already is no error
			if _, err := r.plane.Apply(r.t.Context(), changes); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	return *r.observe().Tuning
}

func timeouts(t *testing.T, r *run) {
	was := r.observe().Tuning.Timeouts
	want := spec.Timeouts{TCP: 7500 * time.Second, TCPFin: 30 * time.Second, UDP: 10 * time.Second}
	if got := r.tune(spec.Tuning{Timeouts: want}).Timeouts; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	want.UDP = 20 * time.Second
	if got := r.tune(spec.Tuning{Timeouts: spec.Timeouts{UDP: want.UDP}}).Timeouts; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := r.tune(spec.Tuning{}).Timeouts; got != want {
		t.Errorf("nothing wanted: got %s, want %s left alone", got, want)
	}
	if want == was {
		t.Errorf("they were %s before", was)
	}
}

func syncing(t *testing.T, r *run) {
	group := spec.SyncGroup{ID: 7, Address: spec.DefaultSyncGroup, Port: spec.DefaultSyncPort, TTL: spec.DefaultSyncTTL}
	other := spec.SyncGroup{ID: 255, Address: netip.MustParseAddr("224.0.0.99"), Port: 8849, TTL: 2}
	outer := plan.HostAddress{Prefix: netip.MustParsePrefix("10.10.60.21/24"), Card: 2, CardName: "outer"}
	inner := plan.HostAddress{Prefix: netip.MustParsePrefix("192.168.60.99/24"), Card: 3, CardName: "inner0"}
	daemon := func(master bool, card string, group spec.SyncGroup) plan.Daemon {
		return plan.Daemon{Master: master, CardName: card, Group: group}
	}
	for _, c := range []struct {
		name string
		sync *spec.Sync
		want []plan.Daemon
	}{
		{"both", &spec.Sync{Master: true, Backup: true, Network: outer.Prefix.Masked(), Group: group}, []plan.Daemon{daemon(true, "outer", group), daemon(false, "outer", group)}},
		{"not said: left alone", nil, []plan.Daemon{daemon(true, "outer", group), daemon(false, "outer", group)}},
		{"another group and card", &spec.Sync{Master: true, Backup: true, Network: inner.Prefix.Masked(), Group: other}, []plan.Daemon{daemon(true, "inner0", other), daemon(false, "inner0", other)}},
		{"backup only", &spec.Sync{Backup: true, Network: inner.Prefix.Masked(), Group: other}, []plan.Daemon{daemon(false, "inner0", other)}},
		{"none", &spec.Sync{}, nil},
	} {
		if got := r.tune(spec.Tuning{Sync: c.sync}, outer, inner).Daemons; !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	nowhere := plan.Diff(spec.Want{Tuning: spec.Tuning{Sync: &spec.Sync{Master: true, Network: outer.Prefix.Masked(), Group: group}}}, r.observe())
	if _, err := r.plane.Apply(t.Context(), nowhere); !errors.Is(err, plan.ErrNoCard) {
		t.Errorf("without a card: got %v from %v", err, nowhere)
	}
}

// refuses fails the test unless the plane refuses a feature that it lacks, and does not do it.
func (r *run) refuses(f spec.Feature) {
	r.t.Helper()
	states := with(f)
	for _, s := range spec.Schedulers {
		if s.Feature() == f {
			states = append(states, spec.Service{VIP: vip4, Scheduler: s})
		}
	}
	for _, c := range tuned(f) {
		if _, err := r.plane.Apply(r.t.Context(), []plan.Change{c}); !errors.Is(err, dataplane.ErrLacks) {
			r.t.Errorf("%s, which is lacking: got %v from %s", f, err, c)
		}
		if have := r.observe(); have.Tuning != nil {
			r.t.Errorf("%s is lacking, and there is %+v", f, *have.Tuning)
		}
	}
	if len(tuned(f)) > 0 {
		return
	}
	if len(states) == 0 {
		r.t.Fatalf("no state needs %s", f)
	}
	r.become(spec.Service{VIP: vip4, Scheduler: spec.WRR})
	for _, changes := range [][]plan.Change{
		plan.Diff(spec.Want{Services: states[:1]}, r.observe()),
		{{Kind: plan.Rebuild, Services: states[:1]}},
	} {
		if _, err := r.plane.Apply(r.t.Context(), changes); !errors.Is(err, dataplane.ErrLacks) {
			r.t.Errorf("%s, which is lacking: got %v from %v", f, err, changes)
		}
		if have := r.observe(); len(plan.Diff(spec.Want{Services: states[:1]}, have)) == 0 {
			r.t.Errorf("%s is lacking, and there it is: %s", f, describe(have))
		}
	}
	r.become()
}
