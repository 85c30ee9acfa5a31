package planetest

import (
	"maps"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// The headers of a datagram, in bytes: RFC 791, RFC 8200 and RFC 768.
const ipv4Header, ipv6Header, udpHeader = 20, 40, 8

func passed(_ *testing.T, r *run) {
	r.passed(netip.MustParseAddr(VIP), r.world.Network.Reals, ipv4Header+udpHeader)
}

func passed6(_ *testing.T, r *run) {
	r.passed(netip.MustParseAddr(VIP6), r.world.Network.Reals6, ipv6Header+udpHeader)
}

// passed asks two services different numbers of questions, and looks whether every datagram and every byte is counted for the one that it
// was for, over a change of a weight. Their real server is the same, and a third one has it too that nobody asks.
func (r *run) passed(address netip.Addr, reals []netip.AddrPort, header int) {
	r.t.Helper()
	at := func(port int) (services []spec.Service) {
		for i := range 3 {
			vip := spec.VIP{AddrPort: netip.AddrPortFrom(address, uint16(port+i)), Protocol: spec.UDP}
			services = append(services, weighted(vip, spec.RR, reals, 1))
		}
		return services
	}
	// What is asked first may have to be asked again, until all know their neighbours: that is no part of this.
	services := at(VIPPort + 100)
	r.become(services...)
	if _, err := r.world.Network.Open(r.t, services[0].VIP).Ask("first"); err != nil {
		r.t.Fatal(err)
	}
	services = at(VIPPort)
	r.become(services...)
	want := map[spec.VIP]plan.Traffic{services[2].VIP: {}}
	ask := func(vip spec.VIP, questions int) {
		r.t.Helper()
		flow := r.world.Network.Open(r.t, vip)
		for i := range questions {
			question := strings.Repeat("x", 1+100*i)
			real, err := flow.Ask(question)
			if err != nil || real != reals[0] {
				r.t.Fatalf("%s: %s, %v", vip, real, err)
			}
			t := want[vip]
			t.PacketsIn, t.PacketsOut = t.PacketsIn+1, t.PacketsOut+1
			t.BytesIn += uint64(header + len(question))
			t.BytesOut += uint64(header + len(real.String()+" "+question))
			want[vip] = t
		}
	}
	ask(services[0].VIP, 10)
	ask(services[1].VIP, 3)
	r.counted(want)
	services[0].Reals[0].Weight = 5
	r.become(services...)
	ask(services[0].VIP, 2)
	r.counted(want)
}

// counted waits until the plane has counted that, and no more.
func (r *run) counted(want map[spec.VIP]plan.Traffic) {
	r.t.Helper()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for deadline := time.After(patience); ; {
		got := map[spec.VIP]plan.Traffic{}
		for _, s := range r.observe().Services {
			if s.Reals[0].Traffic == nil {
				r.t.Fatalf("%s: nothing is counted", s.VIP)
			}
			got[s.VIP] = *s.Reals[0].Traffic
		}
		if maps.Equal(got, want) {
			return
		}
		select {
		case <-again.C:
		case <-deadline:
			r.t.Fatalf("counted: %v\npassed:  %v", got, want)
		}
	}
}
