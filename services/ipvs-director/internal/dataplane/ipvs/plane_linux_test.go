package ipvs

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/twotier/twotier/services/internal/netnstest"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/ipvsadm"
	"github.com/twotier/twotier/services/ipvs-director/internal/ipvsmsg"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
)

// inUML is what the tests of this package have come to under User Mode Linux, which is started once for all of them.
var inUML planetest.Together

// needIPVS returns when this kernel has IPVS. Otherwise it has the calling test run under User Mode Linux and reports
// false: the test has been done there.
func needIPVS(t *testing.T) bool {
	t.Helper()
	netnstest.Require(t)
	if Probe().Usable {
		return true
	}
	inUML.Run(t, planetest.UML)
	return false
}

// What other programs put into IPVS is left alone, and what they do to ours is noticed and mended.
func TestKernelForeignServices(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	plane := n.Inside(t, Open())
	vip := spec.MustParseVIP(planetest.VIP + ":80")
	service := spec.Service{VIP: vip, Scheduler: spec.WLC, Reals: []spec.Real{{Address: n.Reals[0], Weight: 2}, {Address: n.Reals[1], Weight: 1}}}
	converge := func(want spec.Want) (changes []plan.Change) {
		t.Helper()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		changes = plan.Diff(want, have)
		if _, err := plane.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
		if have, err = plane.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := plan.Diff(want, have); len(left) > 0 {
			t.Fatalf("still to do: %v", left)
		}
		return changes
	}
	n.Director.Exec(t, "ipvsadm", "-A", "-t", planetest.VIP+":443", "-s", "sh")
	n.Director.Exec(t, "ipvsadm", "-a", "-t", planetest.VIP+":443", "-r", "192.168.60.78:443", "-m")
	n.Director.Exec(t, "ipvsadm", "-A", "-f", "7", "-s", "rr")
	foreign := n.Director.Exec(t, "ipvsadm", "-Sn")
	want := spec.Want{Services: []spec.Service{service}}
	converge(want)
	if got := n.Director.Exec(t, "ipvsadm", "-Ln"); !strings.Contains(got, "TCP  "+vip.String()+" wlc\n") || strings.Count(got, "Masq") != 3 {
		t.Errorf("ipvsadm -Ln:\n%s", got)
	}

	for _, edit := range [][]string{
		{"-E", "-t", vip.String(), "-s", "rr"},
		{"-E", "-t", vip.String(), "-s", "wlc", "-p", "300"},
		{"-E", "-t", vip.String(), "-s", "wlc"},
		{"-D", "-t", vip.String()},
		{"-e", "-t", vip.String(), "-r", n.Reals[0].String(), "-m", "-w", "9"},
		{"-e", "-t", vip.String(), "-r", n.Reals[0].String(), "-m", "-w", "2", "-x", "100"},
		{"-d", "-t", vip.String(), "-r", n.Reals[1].String()},
		{"-a", "-t", vip.String(), "-r", "192.168.60.200:80", "-m"},
		{"-C"},
	} {
		n.Director.Exec(t, "ipvsadm", edit...)
		if len(converge(want)) == 0 {
			t.Errorf("ipvsadm %v was not noticed", edit)
		}
	}

	n.Director.Exec(t, "ipvsadm", "-A", "-t", planetest.VIP+":443", "-s", "sh")
	n.Director.Exec(t, "ipvsadm", "-a", "-t", planetest.VIP+":443", "-r", "192.168.60.78:443", "-m")
	n.Director.Exec(t, "ipvsadm", "-A", "-f", "7", "-s", "rr")
	n.Director.Do(t, func() {
		if err := Open().Remove(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if got := n.Director.Exec(t, "ipvsadm", "-Sn"); got != foreign {
		t.Errorf("after our removal:\n%s\nwant\n%s", got, foreign)
	}
}

// ipvsadm reads what we have written as we mean it, and we read what it has written.
func TestKernelWitness(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	plane := n.Inside(t, Open())
	real := func(address string, r spec.Real) spec.Real {
		r.Address = netip.MustParseAddrPort(address)
		return r
	}
	gue := spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GUE, Port: 6080}
	gueChecked := gue
	gueChecked.Checksum = spec.RemoteChecksum
	want := []spec.Service{
		{VIP: spec.MustParseVIP("10.10.60.22:53/udp"), Scheduler: spec.MH, Reals: []spec.Real{
			real("192.168.60.78:53", spec.Real{Weight: 65535, Upper: 100, Lower: 50}),
		}},
		{VIP: spec.MustParseVIP("10.10.60.22:54/udp"), Scheduler: spec.RR, OnePacket: true},
		{VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.WLC, Persistence: spec.Persistence{Timeout: 5 * time.Minute, Prefix: 23}, Reals: []spec.Real{
			real("192.168.60.78:80", spec.Real{Weight: 0, Forward: spec.Forward{Method: spec.Direct}}),
			real("192.168.60.79:80", spec.Real{Weight: 1, Forward: spec.Forward{Method: spec.ByTunnel}}),
			real("192.168.60.80:80", spec.Real{Weight: 2, Forward: gueChecked}),
			real("192.168.60.81:80", spec.Real{Weight: 3, Forward: spec.Forward{Method: spec.ByTunnel, Tunnel: spec.GRE, Checksum: spec.WholeChecksum}}),
		}},
		{VIP: spec.MustParseVIP("[2001:db8::22]:80"), Scheduler: spec.SH, Persistence: spec.Persistence{Timeout: time.Minute, Prefix: 56}, Reals: []spec.Real{
			real("192.168.60.78:80", spec.Real{Weight: 4, Forward: gue}),
			real("[2001:db8:60::78]:80", spec.Real{Weight: 5, Forward: spec.Forward{Method: spec.ByTunnel}}),
		}},
		{VIP: spec.VIP{Mark: 7}, Scheduler: spec.RR, Reals: []spec.Real{real("192.168.60.78:0", spec.Real{Weight: 1})}},
		{VIP: spec.VIP{Mark: 7, Mark6: true}, Scheduler: spec.OVF, Reals: []spec.Real{real("[2001:db8:60::78]:0", spec.Real{Weight: 1})}},
	}
	slices.SortFunc(want, func(a, b spec.Service) int { return a.VIP.Compare(b.VIP) })
	left := func() []plan.Change {
		t.Helper()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return plan.Diff(spec.Want{Services: want}, have)
	}
	if _, err := plane.Apply(t.Context(), left()); err != nil {
		t.Fatal(err)
	}
	if left := left(); len(left) > 0 {
		t.Fatalf("still to do: %v", left)
	}
	got := strings.Split(strings.TrimSpace(n.Director.Exec(t, "ipvsadm", "-Sn")), "\n")
	for i := range got {
		got[i] = strings.TrimSpace(got[i])
	}
	slices.Sort(got)
	rules := []string{
		"-A -f 7 -6 -s ovf",
		"-A -f 7 -s rr",
		"-A -t 10.10.60.22:80 -s wlc -p 300 -M 255.255.254.0",
		"-A -t [2001:db8::22]:80 -s sh -p 60 -M 56 -b sh-fallback",
		"-A -u 10.10.60.22:53 -s mh -b mh-fallback,mh-port",
		"-A -u 10.10.60.22:54 -s rr -o",
		"-a -f 7 -6 -r [2001:db8:60::78]:0 -m -w 1",
		"-a -f 7 -r 192.168.60.78:0 -m -w 1",
		"-a -t 10.10.60.22:80 -r 192.168.60.78:80 -g -w 0",
		"-a -t 10.10.60.22:80 -r 192.168.60.79:80 -i -w 1 --tun-type ipip",
		"-a -t 10.10.60.22:80 -r 192.168.60.80:80 -i -w 2 --tun-type gue --tun-port 6080 --tun-remcsum",
		"-a -t 10.10.60.22:80 -r 192.168.60.81:80 -i -w 3 --tun-type gre --tun-csum",
		"-a -t [2001:db8::22]:80 -r 192.168.60.78:80 -i -w 4 --tun-type gue --tun-port 6080 --tun-nocsum",
		"-a -t [2001:db8::22]:80 -r [2001:db8:60::78]:80 -i -w 5 --tun-type ipip",
		"-a -u 10.10.60.22:53 -r 192.168.60.78:53 -m -w 65535",
	}
	exported := strings.Split(strings.TrimSpace(strings.ReplaceAll(ipvsadm.Export(want), " -x 100 -y 50", "")), "\n")
	if slices.Sort(exported); !slices.Equal(exported, rules) {
		t.Errorf("exported:\n%s\nwant\n%s", strings.Join(exported, "\n"), strings.Join(rules, "\n"))
	}
	if !slices.Equal(got, rules) {
		t.Errorf("ipvsadm -Sn:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(rules, "\n"))
	}
	if got := n.Director.Exec(t, "ipvsadm", "-Ln", "--thresholds"); !strings.Contains(got, "-> 192.168.60.78:53             100        50 ") {
		t.Errorf("ipvsadm -Ln --thresholds:\n%s", got)
	}

	group := spec.SyncGroup{ID: 7, Address: spec.DefaultSyncGroup, Port: spec.DefaultSyncPort, TTL: spec.DefaultSyncTTL}
	want = slices.DeleteFunc(want, func(s spec.Service) bool { return s.VIP == spec.MustParseVIP("[2001:db8::22]:80") }) // of mixed families
	for _, changes := range [][]plan.Change{left(), {
		{Kind: plan.SetTimeouts, Timeouts: spec.Timeouts{TCP: 7500 * time.Second, TCPFin: 61 * time.Second, UDP: 62 * time.Second}},
		{Kind: plan.StartSync, Daemon: plan.Daemon{Master: true, CardName: "inner0", Group: group}},
		{Kind: plan.StartSync, Daemon: plan.Daemon{CardName: "inner1", Group: group}},
	}} {
		if _, err := plane.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := n.Director.Exec(t, "ipvsadm", "-L", "--timeout"), "Timeout (tcp tcpfin udp): 7500 61 62\n"; got != want {
		t.Errorf("ipvsadm -L --timeout: %q, want %q", got, want)
	}
	if got := n.Director.Exec(t, "ipvsadm", "-L", "--daemon"); !strings.Contains(got, "master sync daemon (mcast=inner0, syncid=7") || !strings.Contains(got, "backup sync daemon (mcast=inner1, syncid=7") {
		t.Errorf("ipvsadm -L --daemon:\n%s", got)
	}
}

// IPVS keeps the client's port, so two services must not share a real server: a client that uses one port for both loses the first
// connection when it makes the second. Should this test fail, the doctor need not warn any more.
func TestKernelSharedRealServer(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	var services []spec.Service
	for _, port := range []uint16{planetest.VIPPort, planetest.VIP2Port} {
		vip := spec.VIP{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(planetest.VIP), port)}
		services = append(services, spec.Service{VIP: vip, Scheduler: spec.RR, Reals: []spec.Real{{Address: n.Reals[0], Weight: 1}}})
	}
	become(t, n.Director, services...)
	var conns []net.Conn
	var names []*bufio.Reader
	for _, s := range services {
		var conn net.Conn
		var err error
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 10, 60, 1), Port: 45000}, Timeout: patience, Control: func(_, _ string, raw syscall.RawConn) error {
			var failed error
			err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			return errors.Join(err, failed)
		}}
		n.Client.Do(t, func() { conn, err = dialer.DialContext(t.Context(), "tcp4", s.VIP.AddrPort.String()) })
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		name := bufio.NewReader(conn)
		if _, err := name.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		conns, names = append(conns, conn), append(names, name)
	}
	for i, want := range []bool{false, true} {
		if _, err := conns[i].Write([]byte("still there?\n")); err != nil {
			t.Fatal(err)
		}
		// The first hears nothing, not even of its end.
		if err := conns[i].SetReadDeadline(time.Now().Add(time.Second + time.Duration(i)*patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := names[i].ReadString('\n'); (err == nil) != want {
			t.Errorf("connection %d: %v", i+1, err)
		}
	}
}

// The kernel is asked for its schedulers without a trace.
func TestKernelProbe(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	n.Director.Do(t, func() {
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		for scheduler, want := range map[string]error{"wlc": unix.EINVAL, "none-such": unix.ENOENT} {
			if _, err := s.ask(ipvsmsg.AskScheduler(s.family, scheduler)); !errors.Is(err, want) {
				t.Errorf("%s: got %v, want %v", scheduler, err, want)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if got := n.Director.Exec(t, "ipvsadm", "-Sn"); got != "" {
		t.Errorf("there is %q", got)
	}
}

// A listing that a change came between is asked for again, and no answer is made of what has come of it.
func TestListing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name        string
		interrupted int
		asked       int
		err         error
	}{{"quiet", 0, 1, nil}, {"twice interrupted", 2, 3, nil}, {"always interrupted", 100, listings, ipvsmsg.ErrInterrupted}} {
		asked := 0
		got, err := list(t.Context(), func(ipvsmsg.Request) ([][]byte, error) {
			if asked++; asked <= c.interrupted {
				return nil, ipvsmsg.ErrInterrupted
			}
			return [][]byte{{1}, {2}}, nil
		}, ipvsmsg.Request{}, func(b []byte) (byte, error) { return b[0], nil })
		want := []byte{1, 2}
		if c.err != nil {
			want = nil
		}
		if !errors.Is(err, c.err) || asked != c.asked || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v after %d times; want %v, %v after %d", c.name, got, err, asked, want, c.err, c.asked)
		}
	}
}

// Real servers go to the kernel many at a time: one that is refused is named and holds up none of the others, but what comes after.
func TestKernelRefusedAmongMany(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	plane := n.Inside(t, Open())
	vip, missing := spec.MustParseVIP("10.10.60.22:80"), spec.MustParseVIP("10.10.60.22:81")
	change := func(kind plan.Kind, vip spec.VIP, i int) plan.Change {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(i / 250), byte(1 + i%250)}), 80)
		return plan.Change{Kind: kind, VIP: vip, Real: spec.Real{Address: at, Weight: 1 + i}}
	}
	const many, bad = 3*realsPerDatagram/2 + 1, realsPerDatagram + 7 // in the second datagram
	changes := []plan.Change{{Kind: plan.AddService, VIP: vip, Scheduler: spec.RR}}
	for i := range many {
		changes = append(changes, change(plan.AddReal, vip, i))
	}
	if done, err := plane.Apply(t.Context(), changes); err != nil || len(done) != len(changes) {
		t.Fatalf("%d of %d done: %v", len(done), len(changes), err)
	}
	// Again, with other weights: what is there is set, what is not there is added, and nothing comes after the refusal.
	changes = nil
	for i := range many {
		c := change(plan.AddReal, vip, i)
		if c.Real.Weight = 7; i == bad {
			c.VIP = missing
		}
		changes = append(changes, c)
	}
	changes = append(changes, change(plan.RemoveReal, vip, 0))
	done, err := plane.Apply(t.Context(), changes)
	if !errors.Is(err, unix.ESRCH) || !strings.Contains(err.Error(), changes[bad].String()) || len(done) != many-1 {
		t.Errorf("%d of %d done: %v", len(done), len(changes), err)
	}
	have, err := plane.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(have.Services) != 1 || len(have.Services[0].Reals) != many {
		t.Fatalf("got %+v", have.Services)
	}
	for i, r := range have.Services[0].Reals {
		want := change(plan.AddReal, vip, i).Real
		if i != bad {
			want.Weight = 7
		}
		if r.Real != want {
			t.Errorf("got %s, want %s", r.Real, want)
		}
	}
	// What is gone already is no error, nor is a weight of one that is gone.
	for _, kind := range []plan.Kind{plan.RemoveReal, plan.RemoveReal, plan.SetReal} {
		if done, err := plane.Apply(t.Context(), []plan.Change{change(kind, vip, 0), change(kind, vip, 1)}); err != nil || len(done) != 2 {
			t.Errorf("%v: done %v", err, done)
		}
	}
	if have, err = plane.Observe(t.Context()); err != nil || len(have.Services[0].Reals) != many {
		t.Errorf("got %+v, %v", have.Services, err)
	}
}

func TestKernelUnknownScheduler(t *testing.T) {
	if !needIPVS(t) {
		return
	}
	n := planetest.NewNetwork(t)
	_, err := n.Inside(t, Open()).Apply(t.Context(), []plan.Change{{Kind: plan.AddService, VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: "none-such"}})
	if !errors.Is(err, dataplane.ErrLacks) || !strings.Contains(err.Error(), "this kernel has no IPVS scheduler none-such") {
		t.Errorf("got %v", err)
	}
}

// A kernel without IPVS is never taken for one that has done what was asked.
func TestKernelWithoutIPVS(t *testing.T) {
	r := Probe()
	if r.Usable {
		t.Log("this kernel has IPVS: what happens without it shows elsewhere")
		return
	}
	if r.Reason == "" {
		t.Error("no reason given")
	}
	if _, err := Open().Observe(t.Context()); !errors.Is(err, dataplane.ErrUnusable) {
		t.Errorf("observe: %v", err)
	}
	add := plan.Change{Kind: plan.AddService, VIP: spec.MustParseVIP("10.10.60.22:80"), Scheduler: spec.WLC}
	if done, err := Open().Apply(t.Context(), []plan.Change{add}); !errors.Is(err, dataplane.ErrUnusable) || len(done) > 0 {
		t.Errorf("apply: %v, done %v", err, done)
	}
	if err := Open().Remove(t.Context()); err != nil {
		t.Errorf("remove: %v", err)
	}
}
