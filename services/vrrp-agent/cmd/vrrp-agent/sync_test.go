package main

import (
	"os"
	"path/filepath"
	"testing"

	vrrpv1 "github.com/twotier/twotier/proto/vrrp/v1"
	"github.com/twotier/twotier/services/internal/netnstest"
)

// outer is the address towards the clients.
const outer = "10.10.60.22"

// directors is two machines with a card towards the clients, one towards the servers, and an address on each that have to be
// on the same machine; a witness on either side counts their owners.
type directors struct {
	a, b         *machine
	inside, away *census
	who          map[string]string // the machine of each Ethernet address
	outside      map[*machine]string
}

func newDirectors(t *testing.T) *directors {
	t.Helper()
	n := newLAN(t)
	netnstest.Bridge(t, n.hub, "public")
	d := &directors{a: n.machine(t, "haproxy", "192.168.60.22/24"), b: n.machine(t, "haproxy2", "192.168.60.128/24"),
		who: map[string]string{}, outside: map[*machine]string{}}
	w := n.machine(t, "witness", "192.168.60.1/24")
	for m, prefix := range map[*machine]string{d.a: "10.10.60.2/24", d.b: "10.10.60.3/24", w: "10.10.60.1/24"} {
		netnstest.Veth(t, m.NS, "eth1", prefix, n.hub, m.name+"-p", "")
		n.hub.Exec(t, "ip", "link", "set", m.name+"-p", "master", "public")
		for _, device := range []string{"eth0", "eth1"} {
			d.who[m.mac(t, device)] = m.name
		}
		d.outside[m] = m.mac(t, "eth1")
	}
	d.inside, d.away = w.census(t, "eth0", vip1), w.census(t, "eth1", outer)
	return d
}

// desired is the group, with more lines for the instance inside.
func (d *directors) desired(t *testing.T, more string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "desired.yaml")
	members := "members: [{node: haproxy, priority: 105}, {node: haproxy2, priority: 100}]\nsync_group: director\nadvert_interval: 0.1s\n"
	write(t, file, "kind: instance\nname: inside\nvirtual_router_id: 53\nvirtual_addresses: ["+vip1+"]\n"+members+more+
		"\n---\nkind: instance\nname: outside\nvirtual_router_id: 54\nvirtual_addresses: ["+outer+"]\n"+members)
	return file
}

// await waits until a machine alone answers for both addresses.
func (d *directors) await(t *testing.T, owner *machine) {
	t.Helper()
	d.inside.await(t, owner.mac(t, "eth0"))
	d.away.await(t, d.outside[owner])
}

// splitMost is how many questions, which are milliseconds on an idle machine, may find one address here and the other one there
// without a pause: half an interval, because one takes the other along at once. It is 2 at the most when nobody else holds the
// kernel's network lock.
const splitMost = 50

// step does something and waits until the owner has both; the two have gone together.
func (d *directors) step(t *testing.T, what string, owner *machine, do func()) {
	t.Helper()
	since, sinceAway := d.inside.mark(), d.away.mark()
	do()
	d.await(t, owner)
	all, longest := d.inside.split(d.away, since, d.inside.mark(), d.who)
	t.Logf("%s: inside %v; outside %v; one here and one there %d, %d without a pause", what, d.inside.count(since), d.away.count(sinceAway), all, longest)
	if longest > splitMost {
		t.Errorf("%s: one address here and one there in %d answers, want %d at most", what, longest, splitMost)
	}
}

// TestKernelSyncGroup: whatever happens to one of the two addresses of a sync group, or to its machine, both move.
func TestKernelSyncGroup(t *testing.T) {
	t.Parallel()
	d := newDirectors(t)
	flag := filepath.Join(t.TempDir(), "well")
	write(t, flag, "")
	desired := d.desired(t, "trackers: [{name: flag, file: {path: "+flag+"}, interval: 0.02s}]")
	// The tracker is of the first node only: the file is one.
	other := d.desired(t, "")
	onB := d.b.agent(t, other)
	d.await(t, d.b)
	var onA *agent
	start := func() { onA = d.a.agent(t, desired) }
	admin := func(a *agent) vrrpv1.AgentAdminClient { return vrrpv1.NewAgentAdminClient(a.conn) }
	handover := func(from *agent, instance string) {
		t.Helper()
		if _, err := admin(from).Handover(t.Context(), &vrrpv1.HandoverRequest{Instance: instance}); err != nil {
			t.Fatal(err)
		}
	}
	drain := func(end bool) {
		t.Helper()
		if _, err := admin(onA).Drain(t.Context(), &vrrpv1.DrainRequest{End: end}); err != nil {
			t.Fatal(err)
		}
	}
	d.step(t, "start", d.a, start)
	for name, cable := range map[string]string{"outside": "haproxy-p", "inside": "haproxy"} {
		d.step(t, "cable pulled out "+name, d.b, func() { d.a.lan.hub.Exec(t, "ip", "link", "set", cable, "down") })
		d.step(t, "cable back "+name, d.a, func() { d.a.lan.hub.Exec(t, "ip", "link", "set", cable, "up") })
	}
	d.step(t, "handover", d.b, func() { handover(onA, "inside") })
	d.step(t, "handover back", d.a, func() { handover(onB, "outside") })
	d.step(t, "drain", d.b, func() { drain(false) })
	d.step(t, "end of the drain", d.a, func() { drain(true) })
	d.step(t, "tracker failed", d.b, func() {
		if err := os.Remove(flag); err != nil {
			t.Fatal(err)
		}
	})
	d.step(t, "tracker well", d.a, func() { write(t, flag, "") })
	d.step(t, "agent killed", d.b, func() { onA.killAlone(t) })
	d.step(t, "started again", d.a, start)
	d.step(t, "stopped", d.b, func() { onA.stop(t) })
	onB.stop(t)
}

// TestKernelSyncGroupKeepalived is the same with keepalived's vrrp_sync_group on the other machine.
func TestKernelSyncGroupKeepalived(t *testing.T) {
	t.Parallel()
	requireKeepalived(t)
	d := newDirectors(t)
	instance := func(name, card, id, address string) string {
		return "vrrp_instance " + name + " {\n    state BACKUP\n    interface " + card + "\n    virtual_router_id " + id +
			"\n    priority 100\n    version 3\n    advert_int 0.1\n    virtual_ipaddress {\n        " + address + "\n    }\n}\n"
	}
	configuration := "vrrp_sync_group director {\n    group {\n        inside\n        outside\n    }\n}\n" +
		instance("inside", "eth0", "53", vip1) + instance("outside", "eth1", "54", outer)
	onB := d.b.keepalived(t, configuration)
	d.await(t, d.b)
	desired := d.desired(t, "")
	var onA *agent
	start := func() { onA = d.a.agent(t, desired) }
	d.step(t, "start", d.a, start)
	d.step(t, "cable pulled out", d.b, func() { d.a.lan.hub.Exec(t, "ip", "link", "set", "haproxy-p", "down") })
	d.step(t, "cable back", d.a, func() { d.a.lan.hub.Exec(t, "ip", "link", "set", "haproxy-p", "up") })
	d.step(t, "agent killed", d.b, func() { onA.killAlone(t) })
	d.step(t, "started again", d.a, start)
	d.step(t, "stopped", d.b, func() { onA.stop(t) })
	onB.stop(t)
}
