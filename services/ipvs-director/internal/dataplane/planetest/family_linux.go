package planetest

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"
	"testing"

	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// weighted is a service with these real servers; weights below 0 = not there.
func weighted(vip spec.VIP, scheduler spec.Scheduler, reals []netip.AddrPort, weights ...int) spec.Service {
	s := spec.Service{VIP: vip, Scheduler: scheduler}
	for i, w := range weights {
		if w >= 0 {
			s.Reals = append(s.Reals, spec.Real{Address: reals[i], Weight: w})
		}
	}
	return s
}

func datagrams(_ *testing.T, r *run) {
	r.datagrams(netip.MustParseAddr(VIP), r.world.Network.Reals)
}

func datagrams6(_ *testing.T, r *run) {
	r.datagrams(netip.MustParseAddr(VIP6), r.world.Network.Reals6)
}

// datagrams looks how flows are dealt, beside a service for TCP on the same address and port.
func (r *run) datagrams(address netip.Addr, reals []netip.AddrPort) {
	r.t.Helper()
	n := r.world.Network
	udp := spec.VIP{AddrPort: netip.AddrPortFrom(address, VIPPort), Protocol: spec.UDP}
	tcp := spec.VIP{AddrPort: udp.AddrPort}
	beside := weighted(tcp, spec.WRR, reals, -1, -1, 1)
	ask := func(f *Flow, text string) netip.AddrPort {
		r.t.Helper()
		real, err := f.Ask(text)
		if err != nil {
			r.t.Fatalf("%s: %v", text, err)
		}
		return real
	}

	r.become(beside, weighted(udp, spec.WRR, reals, 1, 1))
	flows, who := make([]*Flow, 10), make([]netip.AddrPort, 10)
	taken := map[netip.AddrPort]int{}
	for i := range flows {
		flows[i] = n.Open(r.t, udp)
		who[i] = ask(flows[i], fmt.Sprintf("flow %d", i))
		taken[who[i]]++
	}
	if taken[reals[0]] != 5 || taken[reals[1]] != 5 {
		r.t.Errorf("with weights 1:1 the 10 flows went %v", taken)
	}
	if c, err := n.DialVIP(r.t, tcp); err != nil || c.Real != reals[2] {
		r.t.Errorf("the service for TCP: %v, %v", c, err)
	}
	stay := func(what string) {
		r.t.Helper()
		for i, f := range flows {
			if real := ask(f, what); real != who[i] {
				r.t.Errorf("%s: flow %d was at %s and is at %s", what, i, who[i], real)
			}
		}
	}
	stay("once more")
	r.become(beside, weighted(udp, spec.WRR, reals, 0, 1))
	stay("after the drain")
	for i := range 4 {
		if real := ask(n.Open(r.t, udp), fmt.Sprintf("new %d", i)); real != reals[1] {
			r.t.Errorf("after the drain of %s a new flow went to %s", reals[0], real)
		}
	}
	r.become(weighted(udp, spec.SH, reals, 1, 1, 1))
	first := ask(n.Open(r.t, udp), "by address")
	for i := range 5 {
		if real := ask(n.Open(r.t, udp), fmt.Sprintf("by address %d", i)); real != first {
			r.t.Errorf("sh: one client is at %s and %s", first, real)
		}
	}
	r.become(weighted(udp, spec.WRR, reals, 0))
	if real, err := n.Open(r.t, udp).Ask("nobody"); !errors.Is(err, syscall.ECONNREFUSED) {
		r.t.Errorf("without a taker: %v, %v; want %v", real, err, syscall.ECONNREFUSED)
	}
}

func ipv6(t *testing.T, r *run) {
	n := r.world.Network
	vip := spec.VIP{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(VIP6), VIPPort)}
	connect := func(count int) (conns []*Conn, taken map[netip.AddrPort]int) {
		t.Helper()
		taken = map[netip.AddrPort]int{}
		for i := range count {
			c, err := n.DialVIP(t, vip)
			if err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
			taken[c.Real]++
			conns = append(conns, c)
		}
		return conns, taken
	}
	// Beside one of IPv4 on the same port, which knows nothing of it.
	four := r.service(VIPPort, spec.WRR, -1, -1, 1)
	r.become(four, weighted(vip, spec.WRR, n.Reals6, 3, 1, 0))
	conns, taken := connect(20)
	if taken[n.Reals6[0]] != 15 || taken[n.Reals6[1]] != 5 {
		t.Errorf("with weights 3:1:0 the 20 connections went %v", taken)
	}
	if _, taken := r.connect(VIPPort, 2); taken[n.Reals[2]] != 2 {
		t.Errorf("IPv4 beside it: %v", taken)
	}
	echo := func(what string) {
		t.Helper()
		for _, c := range conns {
			c.Echo(t, what)
		}
	}
	r.become(four, weighted(vip, spec.MH, n.Reals6, 0, 1, 1))
	echo("after the drain")
	if _, taken := connect(20); taken[n.Reals6[0]] != 0 || taken[n.Reals6[1]] == 0 || taken[n.Reals6[2]] == 0 {
		t.Errorf("mh with weights 0:1:1: %v", taken)
	}
	r.become(weighted(vip, spec.SH, n.Reals6, 0, 1, 1))
	echo("after the one of IPv4 is gone")
	if _, taken := connect(6); len(taken) != 1 {
		t.Errorf("sh: one client is at %v", taken)
	}
	r.become(weighted(vip, spec.WRR, n.Reals6, 0, 0, 0))
	echo("when all are drained")
	if c, err := n.DialVIP(t, vip); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("without a taker: %v, %v; want %v", c, err, syscall.ECONNREFUSED)
	}
}
