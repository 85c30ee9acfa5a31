package instance

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

// spreads is that many instances that are to be spread over three nodes, whose priorities prefer the first.
func spreads(node string, count int) (all []spec.Local) {
	priorities := map[string]uint8{"n1": 150, "n2": 120, "n3": 100}
	for n := range count {
		l := fast(priorities[node], time.Second)
		l.Name, l.VirtualRouterID, l.Node = fmt.Sprintf("VI_%d", n), uint8(n+1), node
		l.Addresses = []netip.Addr{netip.AddrFrom4([4]byte{192, 168, 60, byte(100 + n)})}
		l.Spread, l.Preempt = true, false
		for other, priority := range priorities {
			if other != node {
				l.Peers = append(l.Peers, spec.Peer{Node: other, Priority: priority})
			}
		}
		all = append(all, l)
	}
	return all
}

// TestSpread lets a node join, die and come back: the instances are moved until the living hold about as many, and at no
// time does nobody hold one while they are moved.
func TestSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		l.talk = true
		n1, n2 := l.join(t, "n1", "192.168.60.1/24"), l.join(t, "n2", "192.168.60.2/24")
		hold := func(nodes ...*node) string {
			var all []string
			for _, n := range nodes {
				count := 0
				for _, i := range n.set.Instances() {
					count += len(i.Held)
				}
				all = append(all, fmt.Sprint(n.name, " ", count))
			}
			return strings.Join(all, ", ")
		}
		n1.start(t, spreads("n1", 6)...)
		n2.start(t, spreads("n2", 6)...)
		pass(4500 * time.Millisecond)
		expect(t, hold(n1, n2), "n1 6, n2 0")
		l.take()
		pass(time.Minute)
		expect(t, hold(n1, n2), "n1 3, n2 3")
		// Make before break: each address is added before it is removed.
		var first []string
		for line := range strings.Lines(grep(l.take(), " add ", " remove ")) {
			first = append(first, strings.Fields(line)[1]+" "+strings.Fields(line)[2])
		}
		expect(t, strings.Join(first, ", "), "n2 add, n1 remove, n2 add, n1 remove, n2 add, n1 remove")

		n3 := l.join(t, "n3", "192.168.60.3/24")
		n3.start(t, spreads("n3", 6)...)
		pass(time.Minute)
		expect(t, hold(n1, n2, n3), "n1 2, n2 2, n3 2")
		l.take()
		pass(2 * time.Minute)
		expect(t, grep(l.take(), " add ", " remove "), "") // at rest

		if kept, err := n2.set.Drain(t.Context(), true); len(kept) > 0 || err != nil {
			t.Errorf("%v %v", kept, err)
		}
		pass(time.Minute)
		expect(t, hold(n1, n2, n3), "n1 3, n2 0, n3 3")
		for _, n := range []*node{n1, n2, n3} {
			n.leave()
		}
	})
}
