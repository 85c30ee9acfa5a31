package ipvs

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// patience bounds every wait on the network. It is far above what is ever needed; no test measures it.
const patience = 20 * time.Second

// segment is a client, a director and real servers on one switch, as direct routing and tunnels need it: the real servers have
// the VIPs too, do not answer for them, and their replies do not pass the director.
type segment struct{ planetest.Network }

const (
	segmentVIP  = "10.10.60.22"
	segmentVIP6 = "2001:db8:10::22"
	guePort     = 6080
)

// The addresses of a real server.
func realAt(i int) string  { return fmt.Sprintf("10.10.60.%d", 71+i) }
func realAt6(i int) string { return fmt.Sprintf("2001:db8:10::%d", 71+i) }

func newSegment(t testing.TB) *segment {
	t.Helper()
	lan := netnstest.New(t)
	var ports []string
	host := func(name, v4, v6 string) *netnstest.NS {
		ns := netnstest.New(t)
		netnstest.Veth(t, ns, "lan", v4+"/24", lan, name, "")
		ns.Address(t, "lan", v6+"/64")
		ports = append(ports, name)
		return ns
	}
	s := &segment{planetest.Network{Client: host("client", "10.10.60.1", "2001:db8:10::1"), Director: host("director", "10.10.60.21", "2001:db8:10::21")}}
	s.Director.Address(t, "lan", segmentVIP+"/24")
	// Not preferred: the source of a tunnel's packets must not be an address that the real servers have too.
	s.Director.Exec(t, "ip", "address", "add", segmentVIP6+"/64", "dev", "lan", "nodad", "preferred_lft", "0")
	for _, setting := range []string{"ipv4/ip_forward", "ipv6/conf/all/forwarding"} {
		s.Director.Set(t, "net/"+setting, "1")
	}
	for i := range 4 {
		real := host(fmt.Sprintf("real%d", i), realAt(i), realAt6(i))
		real.Set(t, "net/ipv4/conf/all/arp_ignore", "1")
		real.Set(t, "net/ipv4/conf/all/arp_announce", "2")
		real.Address(t, "lo", segmentVIP+"/32")
		real.Address(t, "lo", segmentVIP6+"/128")
		for _, link := range [][]string{
			{"t44", "type", "ipip", "local", realAt(i)},
			{"t64", "type", "sit", "local", realAt(i)},
			{"tany6", "type", "ip6tnl", "local", realAt6(i), "mode", "any"},
			{"tgre", "type", "gre", "local", realAt(i)},
		} {
			real.Exec(t, "ip", append([]string{"link", "add"}, link...)...)
			real.Exec(t, "ip", "link", "set", link[0], "up")
		}
		// The kernel's own way to load what it has: nothing does so by itself for fou.
		real.Exec(t, "sh", "-c", "$(cat /proc/sys/kernel/modprobe) fou")
		real.Exec(t, "ip", "fou", "add", "port", fmt.Sprint(guePort), "gue")
		known := netip.AddrPortFrom(netip.MustParseAddr(realAt(i)), 80)
		real.Do(t, func() {
			for _, at := range []string{segmentVIP + ":80", segmentVIP + ":81", "[" + segmentVIP6 + "]:80", realAt(i) + ":80", realAt(i) + ":81"} {
				planetest.Serve(t, netip.MustParseAddrPort(at), known)
			}
		})
	}
	netnstest.Bridge(t, lan, "switch", ports...)
	return s
}

// taken connects n times and counts which real servers answer, and carry a line there and back.
func (s *segment) taken(t testing.TB, vip string, n int) map[netip.AddrPort]int {
	t.Helper()
	taken := map[netip.AddrPort]int{}
	for range n {
		c, err := s.DialVIP(t, spec.MustParseVIP(vip))
		if err != nil {
			t.Fatal(err)
		}
		taken[c.Real]++
		c.Echo(t, strings.Repeat("x", 1000))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return taken
}

// become makes the director's IPVS as wanted.
func become(t testing.TB, ns *netnstest.NS, want ...spec.Service) {
	t.Helper()
	ns.Do(t, func() {
		plane := Open()
		for range 2 {
			have, err := plane.Observe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			changes := plan.Diff(spec.Want{Services: want}, have)
			if len(changes) == 0 {
				return
			}
			if _, err := plane.Apply(t.Context(), changes); err != nil {
				t.Fatal(err)
			}
		}
		t.Fatal("the kernel is not as wanted after it was made so")
	})
}

// Every way in which packets can reach a real server carries connections, beside every other one.
func TestKernelForwarding(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	s := newSegment(t)
	direct := spec.Forward{Method: spec.Direct}
	ipip := spec.Forward{Method: spec.ByTunnel}
	gue := spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GUE, Port: guePort}
	gueChecked := gue
	gueChecked.Checksum = spec.WholeChecksum
	gre := spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GRE}
	real := func(address string, f spec.Forward) spec.Real {
		return spec.Real{Address: netip.AddrPortFrom(netip.MustParseAddr(address), 80), Weight: 1, Forward: f}
	}
	for _, c := range []struct {
		name, vip string
		reals     []spec.Real
	}{
		{"direct, IPIP, GUE, GRE", segmentVIP + ":80", []spec.Real{real(realAt(0), direct), real(realAt(1), ipip), real(realAt(2), gue), real(realAt(3), gre)}},
		{"GUE with checksum", segmentVIP + ":80", []spec.Real{real(realAt(1), gueChecked)}},
		{"IPv6: direct, tunnel", "[" + segmentVIP6 + "]:80", []spec.Real{real(realAt6(0), direct), real(realAt6(1), ipip)}},
		{"IPv6 by IPv4", "[" + segmentVIP6 + "]:80", []spec.Real{real(realAt(2), ipip), real(realAt6(3), direct)}},
		{"IPv4 by IPv6", segmentVIP + ":80", []spec.Real{real(realAt6(2), ipip)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			become(t, s.Director, spec.Service{VIP: spec.MustParseVIP(c.vip), Scheduler: spec.RR, Reals: c.reals})
			taken := s.taken(t, c.vip, 2*len(c.reals))
			if len(taken) != len(c.reals) {
				t.Errorf("%d connections over %d real servers in turn went %v", 2*len(c.reals), len(c.reals), taken)
			}
			for real, n := range taken {
				if n != 2 {
					t.Errorf("real server %s took %d of them", real, n)
				}
			}
		})
	}
}

// A service by mark takes all that a rule marks, whatever the port, and a client's connections to all of it go to one real
// server when it is persistent.
func TestKernelMark(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	s := newSegment(t)
	for _, args := range []string{
		"qdisc add dev lan clsact",
		"filter add dev lan ingress protocol ip flower ip_proto tcp dst_ip " + segmentVIP + " action skbedit mark 7",
	} {
		s.Director.Exec(t, "tc", strings.Fields(args)...)
	}
	service := spec.Service{VIP: spec.VIP{Mark: 7}, Scheduler: spec.RR}
	for i := range 2 {
		service.Reals = append(service.Reals, spec.Real{Address: netip.AddrPortFrom(netip.MustParseAddr(realAt(i)), 0), Weight: 1, Forward: spec.Forward{Method: spec.Direct}})
	}
	first, second := netip.MustParseAddrPort(realAt(0)+":80"), netip.MustParseAddrPort(realAt(1)+":80")
	become(t, s.Director, service)
	for _, vip := range []string{segmentVIP + ":80", segmentVIP + ":81"} {
		if taken := s.taken(t, vip, 4); taken[first] != 2 || taken[second] != 2 {
			t.Errorf("in turn, four connections to %s went %v", vip, taken)
		}
	}
	service.Persistence = spec.Persistence{Timeout: time.Minute, Prefix: 24}
	become(t, s.Director, service)
	all := map[netip.AddrPort]int{}
	for _, vip := range []string{segmentVIP + ":80", segmentVIP + ":81"} {
		for real, n := range s.taken(t, vip, 3) {
			all[real] += n
		}
	}
	if all[first] != 6 && all[second] != 6 {
		t.Errorf("a persistent client's connections went %v", all)
	}
}
