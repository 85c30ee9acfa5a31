package instance

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// grouped is the two instances of a director: one address towards the clients, one towards the servers.
func grouped(node string, priority uint8) []spec.Local {
	var all []spec.Local
	for n, name := range []string{"outer", "inner"} {
		l := member(node, priority)
		l.Name, l.VirtualRouterID, l.SyncGroup = name, uint8(60+n), "director"
		l.Addresses = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("192.168.60.%d", 60+n))}
		l.Trackers = []spec.Check{{Name: name}}
		all = append(all, l)
	}
	return all
}

// together checks that one node holds both addresses and the other none.
func together(t *testing.T, what string, holds, not *node) {
	t.Helper()
	for _, i := range holds.set.Instances() {
		if len(i.Held) != 1 {
			t.Errorf("%s: %s; %s", what, holds.print(), not.print())
			return
		}
	}
	for _, i := range not.set.Instances() {
		if len(i.Held) != 0 {
			t.Errorf("%s: %s; %s", what, holds.print(), not.print())
			return
		}
	}
}

// TestSyncGroup: both move or none, whatever happens to one of them.
func TestSyncGroup(t *testing.T) {
	t.Parallel()
	for _, talk := range []bool{true, false} {
		t.Run(fmt.Sprintf("agents that speak to each other: %v", talk), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				l := newLAN()
				l.talk = talk
				a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
				well := func(n *node) {
					for _, name := range []string{"outer", "inner"} {
						n.watch.turn(name, true, "")
					}
				}
				a.start(t, grouped("haproxy", 105)...)
				b.start(t, grouped("haproxy2", 99)...)
				synctest.Wait()
				a.watch.turn("outer", true, "")
				pass(5 * time.Second)
				if j := grep(l.take(), "haproxy add"); j != "" {
					t.Errorf("moved before both trackers had answered:\n%s", j)
				}
				well(a)
				well(b)
				pass(5 * time.Second)
				together(t, "started", a, b)

				for _, name := range []string{"outer", "inner"} {
					a.watch.turn(name, false, "gone")
					pass(time.Second)
					together(t, name+" failed", b, a)
					for _, i := range a.set.Instances() {
						if i.State != fsm.Fault {
							t.Errorf("%s failed: %s", name, a.print())
						}
					}
					a.watch.turn(name, true, "")
					pass(5 * time.Second)
					together(t, name+" is back", a, b)
				}

				// The adverts of one instance do not arrive, those of the other do.
				l.mu.Lock()
				l.mute = 60
				l.mu.Unlock()
				pass(10 * time.Second)
				together(t, "one is not heard", a, b)
				l.mu.Lock()
				l.mute = 0
				l.mu.Unlock()
				pass(5 * time.Second)
				together(t, "it is heard again", a, b)

				if talk {
					l.take()
					if node, err := a.set.Handover(t.Context(), "outer", "", false); err != nil || node != "haproxy2" {
						t.Errorf("got %q %v", node, err)
					}
					pass(time.Minute)
					together(t, "handed over", b, a)
					if j := grep(l.take(), "priority 0"); j != "" {
						t.Errorf("handed over with a resignation:\n%s", j)
					}
					if _, err := b.set.Handover(t.Context(), "inner", "", false); err != nil {
						t.Error(err)
					}
					pass(time.Minute)
					together(t, "handed back", a, b)
				}
				a.leave()
				pass(5 * time.Second)
				for _, i := range b.set.Instances() {
					if len(i.Held) != 1 {
						t.Errorf("stopped: %s", b.print())
					}
				}
				b.leave()
			})
		})
	}
}

// mutedAdvert tells whether the network swallows an advert.
func (l *lan) mutedAdvert(payload []byte) bool {
	return l.mute != 0 && payload[0]>>4 == byte(packet.V3) && payload[1] == l.mute
}

// TestSyncGroupLeavesThePast: word that a member has become master, or is one no longer, may have waited until it is not so any
// more. Who followed it then would be followed in turn, and neither would come to rest.
func TestSyncGroupLeavesThePast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		for _, n := range []*node{a, b} {
			n.start(t, grouped(n.name, map[*node]uint8{a: 105, b: 99}[n])...)
			synctest.Wait()
			for _, name := range []string{"outer", "inner"} {
				n.watch.turn(name, true, "")
			}
		}
		pass(5 * time.Second)
		together(t, "started", a, b)
		l.take()
		for _, late := range []struct {
			node *node
			kind pullKind
		}{{b, pullMaster}, {a, pullDown}} {
			outer := late.node.set.running["outer"].instance
			outer.group.pull(outer, pull{kind: late.kind, from: "outer"})
			pass(5 * time.Second)
			if j := grep(l.take(), " add "); j != "" {
				t.Errorf("%s: moved by what is past:\n%s", late.node.name, j)
			}
			together(t, late.node.name, a, b)
		}
		a.leave()
		b.leave()
	})
}
