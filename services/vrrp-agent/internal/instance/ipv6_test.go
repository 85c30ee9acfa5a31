package instance

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// joinV6 starts an agent on a card with both families.
func (l *lan) joinV6(t *testing.T, name, prefix, prefixV6, linkLocal string) *node {
	t.Helper()
	n := l.join(t, name, prefix)
	n.change(func() {
		n.card.Addresses = append(n.card.Addresses, netip.MustParsePrefix(prefixV6), netip.MustParsePrefix(linkLocal))
	})
	return n
}

func vi6(node string, priority uint8, peers ...spec.Peer) spec.Local {
	return spec.Local{Name: "VI_6", Node: node, VirtualRouterID: 53, Addresses: []netip.Addr{netip.MustParseAddr("fe80::78"), netip.MustParseAddr("2001:db8::78")},
		Priority: priority, Version: packet.V3, Interval: 100 * time.Millisecond, Preempt: true, Peers: peers}
}

// TestIPv6: an instance of IPv6 and one of IPv4 with the same identifier do not mind each other; the addresses of IPv6
// are announced by neighbor advertisements and move as those of IPv4 do.
func TestIPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.talk = true
		a := l.joinV6(t, "a", "192.168.60.22/24", "2001:db8::22/64", "fe80::22/64")
		b := l.joinV6(t, "b", "192.168.60.128/24", "2001:db8::128/64", "fe80::128/64")
		pair := vi1(105)
		pair.Version, pair.Interval = packet.V3, 100*time.Millisecond
		a.start(t, vi6("a", 105, spec.Peer{Node: "b", Priority: 99}), pair)
		pair.Priority = 99
		b.start(t, vi6("b", 99, spec.Peer{Node: "a", Priority: 105}), pair)
		pass(2 * time.Second)
		expect(t, a.print(), "a: VI_1 master [192.168.60.78] (no advert for 358.984375ms), VI_6 master [fe80::78 2001:db8::78] (no advert for 358.984375ms)")
		expect(t, b.print(), "b: VI_1 backup [] (started), VI_6 backup [] (started)")
		expect(t, grep(l.take(), "announce fe80", "announce 2001")[:len("0.359 a announce fe80::78\n0.359 a announce 2001:db8::78")],
			"0.359 a announce fe80::78\n0.359 a announce 2001:db8::78")
		if _, err := a.set.Handover(t.Context(), "VI_6", "", false); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		expect(t, b.print(), "b: VI_1 backup [] (started), VI_6 master [fe80::78 2001:db8::78] (node a hands over)")
		a.leave()
		b.leave()
	})
}

// TestIPv6SyncGroup: a sync group holds both families together.
func TestIPv6SyncGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.talk = true
		a := l.joinV6(t, "a", "192.168.60.22/24", "2001:db8::22/64", "fe80::22/64")
		b := l.joinV6(t, "b", "192.168.60.128/24", "2001:db8::128/64", "fe80::128/64")
		both := func(node string, priority uint8, peer spec.Peer) (v4, v6 spec.Local) {
			v6 = vi6(node, priority, peer)
			v4 = vi1(priority)
			v4.Node, v4.Peers, v4.Version, v4.Interval = v6.Node, v6.Peers, v6.Version, v6.Interval
			v4.SyncGroup, v6.SyncGroup = "both", "both"
			return v4, v6
		}
		v4, v6 := both("a", 105, spec.Peer{Node: "b", Priority: 99})
		a.start(t, v4, v6)
		v4, v6 = both("b", 99, spec.Peer{Node: "a", Priority: 105})
		b.start(t, v4, v6)
		pass(3 * time.Second)
		if _, err := a.set.Handover(t.Context(), "VI_6", "", false); err != nil {
			t.Fatal(err)
		}
		pass(time.Second)
		for _, i := range b.set.Instances() {
			if len(i.Held) != len(i.Local.Addresses) {
				t.Error(b.print())
			}
		}
		for _, i := range a.set.Instances() {
			if len(i.Held) != 0 {
				t.Error(a.print())
			}
		}
		// What is wrong with one family is wrong with the other.
		b.change(func() {
			b.card.Addresses = slices.DeleteFunc(b.card.Addresses, func(p netip.Prefix) bool { return p.Addr() == netip.MustParseAddr("2001:db8::128") })
		})
		pass(time.Second)
		for _, i := range a.set.Instances() {
			if len(i.Held) != len(i.Local.Addresses) {
				t.Error(a.print())
			}
		}
		a.leave()
		b.leave()
	})
}

// TestIPv6Unheard: two agents whose multicast is cut find each other by their link-local addresses.
func TestIPv6Unheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.talk = true
		a := l.joinV6(t, "a", "192.168.60.22/24", "2001:db8::22/64", "fe80::22/64")
		b := l.joinV6(t, "b", "192.168.60.128/24", "2001:db8::128/64", "fe80::128/64")
		a.start(t, vi6("a", 105, spec.Peer{Node: "b", Priority: 99}))
		b.start(t, vi6("b", 99, spec.Peer{Node: "a", Priority: 105}))
		pass(2 * time.Second)
		l.mu.Lock()
		l.cut = func(_, to netip.Addr) bool { return to == netip.MustParseAddr("fe80::128") && len(l.nodes) == 3 }
		l.mu.Unlock()
		c := l.join(t, "c", "192.168.60.1/24") // with it the cut begins: what a sends by link-local does not arrive, nor its multicast
		pass(2 * time.Second)
		expect(t, b.print(), "b: VI_6 backup [] (started)")
		if i := b.set.Instances()[0]; i.Witnessed == 0 || !i.Unheard {
			t.Errorf("%+v", i)
		}
		c.leave()
		a.leave()
		b.leave()
	})
}

// TestIPv6Claim: a neighbor advertisement of another machine for a held address is answered.
func TestIPv6Claim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.joinV6(t, "a", "192.168.60.22/24", "2001:db8::22/64", "fe80::22/64")
		a.start(t, vi6("a", 105))
		pass(10 * time.Second)
		l.take()
		vip, mac := netip.MustParseAddr("2001:db8::78"), packet.MAC{2, 9}
		foreign, theirs, ok := packet.Claim(packet.NeighborAdvertisement(mac, vip, false))
		if !ok || foreign != vip || theirs != mac {
			t.Fatal(foreign, theirs, ok)
		}
		a.wires[0].claims <- claim{foreign, theirs}
		synctest.Wait()
		if got := a.set.Instances()[0].Claims; got != 1 || grep(l.take(), "announce 2001:db8::78") == "" {
			t.Errorf("%d claims", got)
		}
		a.leave()
	})
}

// TestIPv6Unicast: adverts go between the members' first addresses, and come from the address of the same kind.
func TestIPv6Unicast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.joinV6(t, "a", "192.168.60.22/24", "2001:db8::22/64", "fe80::22/64")
		i := vi6("a", 105, spec.Peer{Node: "b", Priority: 99, Addresses: []netip.Addr{netip.MustParseAddr("2001:db8::128")}})
		i.Unicast = true
		a.start(t, i)
		pass(time.Second)
		from := netip.MustParseAddr("2001:db8::128")
		advert := packet.Advertisement{VirtualRouterID: 53, Priority: 200, Interval: 100 * time.Millisecond, Addresses: i.Addresses}
		send := func(to netip.Addr) {
			l.mu.Lock()
			w := a.wires[0]
			w.queue = append(w.queue, datagram(from, to, advert.Append(nil, packet.Format{Version: packet.V3, Source: from, Destination: to})))
			w.wake <- struct{}{}
			l.mu.Unlock()
			synctest.Wait()
		}
		send(packet.Group(true)) // not by multicast
		expect(t, a.print(), "a: VI_6 master [fe80::78 2001:db8::78] (no advert for 358.984375ms)")
		send(netip.MustParseAddr("2001:db8::22"))
		expect(t, a.print(), "a: VI_6 backup [] (2001:db8::128 has priority 200)")
		a.leave()
	})
}

// TestPlanOfAnotherFamily: an instance whose addresses change their family starts again.
func TestPlanOfAnotherFamily(t *testing.T) {
	t.Parallel()
	now, then := vi6("a", 105), vi6("a", 105)
	then.Addresses = []netip.Addr{netip.MustParseAddr("192.168.60.78")}
	changes := plan.Diff([]spec.Local{then}, plan.Have{Running: []plan.Instance{{Local: now}}})
	kinds := []plan.Kind{}
	for _, c := range changes {
		kinds = append(kinds, c.Kind)
	}
	if !slices.Equal(kinds, []plan.Kind{plan.Stop, plan.Start}) {
		t.Errorf("%v", changes)
	}
}
