package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	directorv1 "github.com/twotier/twotier/proto/director/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/ipvs"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/nftables"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
)

// pulsePort is where the checks ask; see pulse.
const pulsePort = 9000

// pulse is what the checks of a real server hear. Its connections go to another port, which goes on: whatever the client sees refused, the
// director has refused.
type pulse struct {
	t        *testing.T
	ns       *netnstest.NS
	listener net.Listener
	over     chan struct{}
}

func (p *pulse) beat() {
	p.t.Helper()
	p.ns.Do(p.t, func() {
		var err error
		if p.listener, err = net.Listen("tcp4", fmt.Sprintf(":%d", pulsePort)); err != nil {
			p.t.Fatal(err)
		}
	})
	listener, over := p.listener, make(chan struct{})
	p.over = over
	go func() {
		defer close(over)
		for {
			c, err := listener.Accept()
			if err != nil {
				return // closed
			}
			_ = c.Close() // that it could be made is all
		}
	}()
}

func (p *pulse) stop() {
	_ = p.listener.Close() // twice at the end of a test
	<-p.over
}

// oneByOne has real servers die one after the other, and come back, beneath new connections without a pause: each connection is answered,
// on the wire too, by whoever is to take it then.
func oneByOne(t *testing.T, plane string) {
	type step struct {
		die, live int   // which real server; below 0: none
		takers    []int // then, by number; 2 is the sorry server where there is one
	}
	for _, c := range []struct {
		name, rules string
		reals       []int // their weights
		steps       []step
	}{
		{"panic threshold", "panic_threshold: 50", []int{1, 1, 1}, []step{
			{-1, -1, []int{0, 1, 2}}, {0, -1, []int{1, 2}},
			{1, -1, []int{0, 1, 2}}, {2, -1, []int{0, 1, 2}}, // so few that health is ignored
			{-1, 0, []int{0, 1, 2}}, {-1, 2, []int{0, 2}}, {-1, 1, []int{0, 1, 2}},
		}},
		{"sorry server", "sorry", []int{1, 1}, []step{
			{-1, -1, []int{0, 1}}, {0, -1, []int{1}}, {1, -1, []int{2}}, {-1, 0, []int{0}}, {-1, 1, []int{0, 1}},
		}},
		{"quorum", "quorum: {weight: 2}\nsorry", []int{2, 1}, []step{
			{-1, -1, []int{0, 1}}, {1, -1, []int{0}}, {0, -1, []int{2}},
			{-1, 1, []int{2}}, // too little
			{-1, 0, []int{0, 1}}, {0, -1, []int{2}}, {1, -1, []int{2}},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := planetest.NewNetwork(t)
			rules := strings.Replace(c.rules, "sorry", fmt.Sprintf("sorry_server: {address: %s, port: %d}", n.Reals[2].Addr(), n.Reals[2].Port()), 1)
			text := fmt.Sprintf("kind: virtual-service\nname: web\naddress: %s\nport: %d\nscheduler: wrr\n%s\n"+
				"check: {tcp: {}, port: %d, interval: 0.2s, fast_interval: 0.05s, timeout: 5s, fall: 2, rise: 2}\nreal_servers:\n",
				planetest.VIP, planetest.VIPPort, rules, pulsePort)
			var pulses []*pulse
			for i, weight := range c.reals {
				text += fmt.Sprintf("- {address: %s, port: %d, weight: %d}\n", n.Reals[i].Addr(), n.Reals[i].Port(), weight)
				p := &pulse{t: t, ns: n.Servers[i]}
				p.beat()
				t.Cleanup(p.stop)
				pulses = append(pulses, p)
			}
			d := newDirector(t, n.Director, text)
			d.start("--dataplane", plane)
			takers := func(numbers []int) {
				t.Helper()
				var want []netip.AddrPort
				for _, i := range numbers {
					want = append(want, n.Reals[i])
				}
				eventually(t, fmt.Sprintf("takers %v", want), func() error {
					answer, err := d.client.ListServices(t.Context(), &directorv1.ListServicesRequest{}, grpc.WaitForReady(true))
					var got []netip.AddrPort
					for _, s := range answer.GetServices() {
						for _, r := range s.GetRealServers() {
							if r.GetWeight() > 0 {
								got = append(got, netip.MustParseAddrPort(r.GetAddress()))
							}
						}
					}
					if slices.SortFunc(got, netip.AddrPort.Compare); err == nil && !slices.Equal(got, want) {
						err = fmt.Errorf("got %v", got)
					}
					return err
				})
				for real := range spread(t, n, 6) {
					if !slices.Contains(want, real) {
						t.Errorf("takers are %v, and %s took a connection", want, real)
					}
				}
			}
			takers(c.steps[0].takers)
			watched := trace(t, n)
			load := n.Load(t, planetest.VIPPort, planetest.VIPPort)
			for _, s := range c.steps[1:] {
				if s.die >= 0 {
					pulses[s.die].stop()
				}
				if s.live >= 0 {
					pulses[s.live].beat()
				}
				takers(s.takers)
			}
			made, err := load.Stop()
			if err != nil {
				t.Errorf("of %d connections: %v", made, err)
			}
			seen := watched()
			t.Logf("%d connections were asked for on the wire, %d answered", seen.asked, seen.answered)
			if seen.asked < made || seen.answered != seen.asked || len(seen.open) > 0 || len(seen.refused) > 0 {
				t.Errorf("%d connections were made; on the wire %d were asked for, %d answered, ports %v not; refused: %q", made, seen.asked, seen.answered, seen.open, seen.refused)
			}
			if !t.Failed() {
				planetest.Passed(t, "real servers die one by one: "+c.name, plane, n)
			}
		})
	}
}

func TestKernelOneByOneNFTables(t *testing.T) {
	t.Parallel()
	netnstest.Require(t)
	if r := nftables.Probe(); !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	oneByOne(t, dataplane.NFTables)
}

func TestKernelOneByOneIPVS(t *testing.T) {
	netnstest.Require(t)
	if !ipvs.Probe().Usable {
		end := planetest.UML.Start(t, "^"+t.Name()+"$", binaryVariable+"="+buildDirector(t))
		t.Parallel()
		end()
		return
	}
	oneByOne(t, dataplane.IPVS)
}
