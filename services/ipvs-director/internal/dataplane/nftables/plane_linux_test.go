package nftables

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	nft "github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/twotier/twotier/services/internal/testreq"

	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane"
	"github.com/twotier/twotier/services/ipvs-director/internal/dataplane/planetest"
	"github.com/twotier/twotier/services/ipvs-director/internal/plan"
	"github.com/twotier/twotier/services/ipvs-director/internal/slots"
	"github.com/twotier/twotier/services/ipvs-director/internal/spec"
	"github.com/twotier/twotier/services/ipvs-director/internal/steer"
)

// network is a test network whose director has a kernel that can do it.
func network(t testing.TB) *planetest.Network {
	t.Helper()
	n := planetest.NewNetwork(t)
	var r dataplane.Report
	// The first transaction waits for the kernel's modules, and may give up on that; a director asks again too.
	for range 10 {
		if n.Director.Do(t, func() { r = Probe() }); r.Usable {
			break
		}
	}
	if !r.Usable {
		testreq.Missing(t, "nf_tables in this kernel: "+r.Reason)
	}
	return n
}

// Whatever somebody else does to the table is noticed, mended by the next plan, and moves no connection where the
// kernel goes on translating.
func TestKernelForeignEditsAreMended(t *testing.T) {
	n := network(t)
	plane := n.Inside(t, Open())
	want := spec.Want{}
	for i, port := range []uint16{planetest.VIPPort, planetest.VIP2Port} { // the middle one of three has no way back
		want.Services = append(want.Services, spec.Service{VIP: vipAt(planetest.VIP, port), Scheduler: spec.WLC, Reals: []spec.Real{
			{Address: n.Reals[i], Weight: 2}, {Address: n.Reals[i+1], Weight: 1},
		}})
	}
	vip := want.Services[0].VIP
	converge := func(t *testing.T) []plan.Change {
		t.Helper()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		changes := plan.Diff(want, have)
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
	converge(t)
	held, err := n.Dial(t, planetest.VIPPort)
	if err != nil {
		t.Fatal(err)
	}

	l := layout4
	foreign := &nft.Table{Name: "somebody_else", Family: nft.TableFamilyIPv4}
	// Only while a table is dormant the kernel translates for no connection, and this machine answers a packet itself.
	const dormant = "table made dormant"
	whole := t
	for _, c := range []struct {
		name string
		edit func(*nft.Conn)
	}{
		{"table deleted", func(c *nft.Conn) { c.DelTable(l.table) }},
		{"rule of the hook deleted", func(c *nft.Conn) { c.FlushChain(l.chain(hookChain)) }},
		{"rule of a service deleted", func(c *nft.Conn) { c.FlushChain(l.chain(serviceChain(vip))) }},
		{"rule added", func(c *nft.Conn) {
			c.InsertRule(&nft.Rule{Table: l.table, Chain: l.chain(hookChain), Exprs: []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}})
		}},
		{"slot deleted", func(c *nft.Conn) {
			_ = c.SetDeleteElements(l.slots(vip), slotElements(want.Services[0], slots.Of(want.Services[0]).Slots)[:1])
		}},
		{"way back deleted", func(c *nft.Conn) { c.FlushChain(l.chain(backChain(vip))) }},
		{"ways back emptied", func(c *nft.Conn) { c.FlushSet(l.reverse()) }},
		{"guarded VIPs emptied", func(c *nft.Conn) { c.FlushSet(l.vips()) }},
		{"guarded real server added", func(c *nft.Conn) { _ = c.SetAddElements(l.reals(), plainElements([]endpoint{front(vip)})) }},
		{"guard deleted", func(c *nft.Conn) { c.FlushChain(l.chain(guardChain)) }},
		{"counting stopped", func(c *nft.Conn) { c.FlushChain(l.chain(countChain)) }},
		{"counted real servers emptied", func(c *nft.Conn) { c.FlushSet(l.counted()[0]) }},
		{"slots emptied", func(c *nft.Conn) { c.FlushSet(l.slots(vip)) }},
		{"weights emptied", func(c *nft.Conn) { c.FlushSet(l.weights(vip)) }},
		{"rule of a real server deleted", func(c *nft.Conn) { c.FlushChain(l.chain(realChain(vip, n.Reals[1]))) }},
		{"service taken out", func(c *nft.Conn) { _ = c.SetDeleteElements(l.services(), []nft.SetElement{serviceElement(vip)}) }},
		{"service led elsewhere", func(c *nft.Conn) {
			_ = c.SetDeleteElements(l.services(), []nft.SetElement{serviceElement(vip)})
			e := serviceElement(want.Services[1].VIP)
			e.Key = endpointKey(front(vip))
			_ = c.SetAddElements(l.services(), []nft.SetElement{e})
		}},
		{"chain added", func(c *nft.Conn) { c.AddChain(&nft.Chain{Table: l.table, Name: "stray"}) }},
		{dormant, func(c *nft.Conn) {
			// The library cannot set the flag.
			if out, err := exec.Command("nft", "add table ip "+TableName+" { flags dormant; }").CombinedOutput(); err != nil {
				t.Fatalf("nft: %v\n%s", err, out)
			}
		}},
		{"rule added that the library cannot read back", func(c *nft.Conn) {
			c.InsertRule(&nft.Rule{Table: l.table, Chain: l.chain(hookChain), Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySRC, Register: reg1, Direction: 1}}})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Director.Do(t, func() {
				conn := openHalf(layout4).conn
				conn.AddTable(foreign)
				c.edit(conn)
				if err := conn.Flush(); err != nil {
					t.Fatal(err)
				}
			})
			if len(converge(t)) == 0 {
				t.Error("not noticed")
			}
			if len(converge(t)) > 0 {
				t.Error("changed again")
			}
			fresh, err := n.Dial(whole, planetest.VIPPort)
			if err != nil {
				t.Fatal(err)
			}
			if c.name == dormant {
				held = fresh
			}
			held.Echo(t, c.name)
		})
	}

	n.Director.Do(t, func() {
		if err := Open().Remove(t.Context()); err != nil {
			t.Error(err)
		}
		if err := Open().Remove(t.Context()); err != nil {
			t.Errorf("again: %v", err)
		}
		tables, err := openHalf(layout4).conn.ListTablesOfFamily(nft.TableFamilyIPv4)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, table := range tables {
			names = append(names, table.Name)
		}
		if got := strings.Join(names, " "); got != foreign.Name {
			t.Errorf("tables after the removal: %q, want only %q", got, foreign.Name)
		}
	})
}

// Open connections are counted while they are open, however they came to be known, and are forgotten when that is asked for.
func TestKernelConnectionsOfARealServer(t *testing.T) {
	n := network(t)
	vip := vipAt(planetest.VIP, planetest.VIPPort)
	service := spec.Service{VIP: vip, Scheduler: spec.RR, Reals: []spec.Real{{Address: n.Reals[0], Weight: 1}, {Address: n.Reals[1], Weight: 1}}}
	plane := n.Inside(t, Open())
	if _, err := plane.Apply(t.Context(), plan.Diff(spec.Want{Services: []spec.Service{service}}, plan.Have{})); err != nil {
		t.Fatal(err)
	}
	keys := []steer.Key{{VIP: vip, Real: n.Reals[0]}, {VIP: vip, Real: n.Reals[1]}, {VIP: vip, Real: n.Reals[2]}}
	count := func() (open map[steer.Key]uint64) {
		t.Helper()
		n.Director.Do(t, func() {
			var err error
			if open, err = Open().CountOpen(t.Context(), keys); err != nil {
				t.Fatal(err)
			}
		})
		return open
	}
	var conns []*planetest.Conn
	for range 6 {
		c, err := n.Dial(t, planetest.VIPPort)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	n.Director.Do(t, func() {
		for _, c := range conns {
			client := netip.MustParseAddrPort(c.LocalAddr().String())
			if real, found, err := Find(t.Context(), client, vip); err != nil || !found || real != c.Real {
				t.Errorf("%s has %s; found %s, %t, %v", client, c.Real, real, found, err)
			}
		}
		if real, found, err := Find(t.Context(), addrPort("10.10.60.1", 1), vip); err != nil || found {
			t.Errorf("a connection that is not there: %s, %t, %v", real, found, err)
		}
	})
	if got := count(); got[keys[0]] != 3 || got[keys[1]] != 3 || got[keys[2]] != 0 {
		t.Errorf("of 6 open connections %v are counted", got)
	}
	for _, c := range conns {
		if c.Real == n.Reals[0] {
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); count()[keys[0]] > 0; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("closed connections are counted: %v", count())
		}
	}
	n.Director.Do(t, func() {
		if err := Open().Reset(t.Context(), keys[1:2]); err != nil {
			t.Fatal(err)
		}
	})
	if got := count(); got[keys[1]] != 0 {
		t.Errorf("after they were forgotten %v are counted", got)
	}
}

// The counters of a real server go on when something beside it changes.
func TestKernelCountersSurviveChanges(t *testing.T) {
	n := network(t)
	plane := n.Inside(t, Open())
	service := spec.Service{VIP: vipAt(planetest.VIP, planetest.VIPPort), Scheduler: spec.WLC, Reals: []spec.Real{{Address: n.Reals[0], Weight: 1}}}
	for round, change := range []func(){
		func() {},
		func() { service.Reals[0].Weight = 3 },
		func() { service.Scheduler = spec.WRR },
	} {
		change()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plane.Apply(t.Context(), plan.Diff(spec.Want{Services: []spec.Service{service}}, have)); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Dial(t, planetest.VIPPort); err != nil {
			t.Fatal(err)
		}
		if have, err = plane.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := have.Services[0].Reals[0].Total; got != uint64(round+1) {
			t.Errorf("round %d: %d connections counted", round, got)
		}
	}
}

// A service as large as spec allows fits through the netlink socket.
func TestKernelLargestService(t *testing.T) {
	n := network(t)
	plane := n.Inside(t, Open())
	weights := make([]int, spec.MaxRealServers)
	for i := range weights {
		weights[i] = i * 251 % spec.MaxWeight
	}
	want := spec.Want{Services: []spec.Service{{VIP: vipAt(planetest.VIP, 80), Scheduler: spec.WLC, Reals: weighted(weights...)}}}
	for range 2 {
		if _, err := plane.Apply(t.Context(), plan.Diff(want, plan.Have{})); err != nil {
			t.Fatal(err)
		}
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if left := plan.Diff(want, have); len(left) > 0 {
			t.Fatalf("still to do: %v", left)
		}
	}
}

// A damaged table is made anew however many services it has: what does not fit through the socket in one piece goes in
// several.
func TestKernelRebuildOfManyServices(t *testing.T) {
	n := network(t)
	plane := n.Inside(t, Open())
	weights := make([]int, 64)
	for i := range weights {
		weights[i] = 1 + i*7%97
	}
	want, total := spec.Want{}, 0
	for i := range uint16(24) {
		s := spec.Service{VIP: vipAt(planetest.VIP, 1000+i), Scheduler: spec.WLC, Reals: weighted(weights...)}
		want.Services = append(want.Services, s)
		total += size(s)
	}
	if total <= rebuildMost {
		t.Fatalf("all services together count %d bytes, want more than %d", total, rebuildMost)
	}
	converge := func() {
		t.Helper()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plane.Apply(t.Context(), plan.Diff(want, have)); err != nil {
			t.Fatal(err)
		}
		if have, err = plane.Observe(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := plan.Diff(want, have); len(left) > 0 {
			t.Fatalf("still to do: %v", left)
		}
	}
	transactions := func() (number uint32) {
		n.Director.Do(t, func() {
			var err error
			if number, err = generation(); err != nil {
				t.Fatal(err)
			}
		})
		return number
	}
	before := transactions()
	converge()
	if n := transactions() - before; int(n) > total/rebuildMost+2 {
		t.Errorf("the first %d services took %d transactions", len(want.Services), n)
	}
	n.Director.Do(t, func() {
		conn := openHalf(layout4).conn
		conn.FlushChain(layout4.chain(hookChain))
		if err := conn.Flush(); err != nil {
			t.Fatal(err)
		}
	})
	converge()
}

func weighted(weights ...int) (reals []spec.Real) {
	for i, w := range weights {
		reals = append(reals, spec.Real{Address: addrPort(fmt.Sprintf("192.168.%d.%d", i>>8, i&255), 80), Weight: w})
	}
	return reals
}

func vipAt(address string, port uint16) spec.VIP {
	return spec.VIP{AddrPort: addrPort(address, port)}
}

func addrPort(address string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(address), port)
}

// After a change of its own a plane reads back what it has changed; when somebody else has been there too, everything.
func TestKernelGlance(t *testing.T) {
	n := network(t)
	plane := n.Inside(t, Open())
	if _, err := exec.LookPath("nft"); err != nil {
		testreq.Missing(t, "the nft program: install nftables")
	}
	service := spec.Service{VIP: spec.VIP{AddrPort: addrPort(planetest.VIP, planetest.VIPPort)}, Scheduler: spec.WRR, Reals: []spec.Real{{Address: n.Reals[0], Weight: 1}, {Address: n.Reals[1], Weight: 1}}}
	other := service
	other.VIP.AddrPort = addrPort(planetest.VIP, planetest.VIP2Port)
	observe := func() plan.Have {
		t.Helper()
		have, err := plane.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return have
	}
	apply := func(changes ...plan.Change) {
		t.Helper()
		if _, err := plane.Apply(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
	}
	apply(plan.Diff(spec.Want{Services: []spec.Service{service, other}}, observe())...)
	observe()
	change := plan.Change{Kind: plan.SetReal, VIP: service.VIP, Real: spec.Real{Address: n.Reals[0], Weight: 5}}
	for name, c := range map[string]struct {
		edit   []string
		damage bool
	}{
		"nobody":            {},
		"the same service":  {[]string{"flush", "map", "ip", TableName, slotsPrefix + suffix(service.VIP)}, true},
		"another service":   {[]string{"flush", "map", "ip", TableName, slotsPrefix + suffix(other.VIP)}, true},
		"a table elsewhere": {[]string{"add", "table", "ip", "elsewhere"}, false},
	} {
		change.Real.Weight++
		apply(change)
		if c.edit != nil {
			n.Director.Exec(t, "nft", c.edit...)
		}
		have := observe()
		if (have.Damage != "") != c.damage {
			t.Errorf("%s: damage %q", name, have.Damage)
		}
		if !c.damage && have.Services[0].Reals[0].Weight != change.Real.Weight {
			t.Errorf("%s: the weight is %d, want %d", name, have.Services[0].Reals[0].Weight, change.Real.Weight)
		}
		apply(plan.Diff(spec.Want{Services: []spec.Service{service, other}}, observe())...)
		observe()
	}
}

// While counters are spared they are as they were, and what somebody else changes is seen all the same.
func TestKernelSparedLooks(t *testing.T) {
	n := network(t)
	plane := Open()
	inside := n.Inside(t, plane)
	service := spec.Service{VIP: vipAt(planetest.VIP, planetest.VIPPort), Scheduler: spec.WRR, Reals: []spec.Real{{Address: n.Reals[0], Weight: 1}}}
	if _, err := inside.Apply(t.Context(), plan.Diff(spec.Want{Services: []spec.Service{service}}, plan.Have{})); err != nil {
		t.Fatal(err)
	}
	total := func(want uint64) (counted time.Time) {
		t.Helper()
		have, err := inside.Observe(t.Context())
		if err != nil || have.Damage != "" || have.Services[0].Reals[0].Total != want {
			t.Fatalf("%+v, %v; want %d connections", have, err, want)
		}
		return have.Counted
	}
	connect := func() {
		t.Helper()
		if _, err := n.Dial(t, planetest.VIPPort); err != nil {
			t.Fatal(err)
		}
	}
	first := total(0)
	plane.looks.next = time.Now().Add(time.Hour)
	connect()
	if again := total(0); !again.Equal(first) {
		t.Errorf("counted at %v, and nothing was read since %v", again, first)
	}
	elsewhere := func() {
		n.Director.Do(t, func() {
			conn := openHalf(layout4).conn
			conn.AddTable(&nft.Table{Name: "elsewhere", Family: nft.TableFamilyIPv4})
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
		})
	}
	elsewhere()
	if again := total(1); !again.After(first) {
		t.Errorf("counted at %v, and all was read after %v", again, first)
	}
	connect()
	total(1)
	plane.looks.next = time.Time{}
	total(2)
}
