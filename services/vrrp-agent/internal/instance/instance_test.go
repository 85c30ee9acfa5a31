package instance

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/twotier/twotier/services/vrrp-agent/internal/fsm"
	"github.com/twotier/twotier/services/vrrp-agent/internal/nic"
	"github.com/twotier/twotier/services/vrrp-agent/internal/packet"
	"github.com/twotier/twotier/services/vrrp-agent/internal/parley"
	"github.com/twotier/twotier/services/vrrp-agent/internal/plan"
	"github.com/twotier/twotier/services/vrrp-agent/internal/spec"
)

var v2 = packet.Format{Version: packet.V2}

// TestDualMaster is the tutorial's step 7: one address each, both on one, back again.
func TestDualMaster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, vi1(105), vi3(99))
		b.start(t, vi1(99), vi3(105))
		pass(9 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s), VI_3 backup [] (started)")
		expect(t, b.print(), "haproxy2: VI_1 backup [] (started), VI_3 master [192.168.60.55] (no advert for 3.58984375s)")
		journal := l.take()
		first := "3.590 haproxy advert 53 priority 105\n3.590 haproxy add 192.168.60.78"
		if !strings.Contains(journal, first+strings.Repeat("\n3.590 haproxy announce 192.168.60.78", 5)+"\n") {
			t.Errorf("want first the advert, then the address, then five announcements; got\n%s", journal)
		}
		if n := strings.Count(journal, "\n8.590 haproxy announce 192.168.60.78"); n != 5 {
			t.Errorf("%d announcements after five seconds, want 5", n)
		}
		expect(t, grep(journal, "haproxy advert 53"), `3.590 haproxy advert 53 priority 105
4.590 haproxy advert 53 priority 105
5.590 haproxy advert 53 priority 105
6.590 haproxy advert 53 priority 105
7.590 haproxy advert 53 priority 105
8.590 haproxy advert 53 priority 105`)

		a.leave()
		pass(time.Second)
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (master 192.168.60.22 resigned), "+
			"VI_3 master [192.168.60.55] (no advert for 3.58984375s)")
		expect(t, grep(l.take(), "priority 0", "add", "remove"), // after the skew of priority 99, 157/256 s
			`9.000 haproxy advert 53 priority 0
9.000 haproxy remove 192.168.60.78
9.613 haproxy2 add 192.168.60.78`)

		a = l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105), vi3(99))
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (master 192.168.60.128 has priority 99), VI_3 backup [] (started)")
		expect(t, b.print(), "haproxy2: VI_1 backup [] (192.168.60.22 has priority 105), "+
			"VI_3 master [192.168.60.55] (no advert for 3.58984375s)")
		a.leave()
		b.leave()
	})
}

func TestNodeLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, vi1(105))
		b.start(t, vi1(99))
		pass(10 * time.Second)
		l.take()
		a.die() // the last advert was at 9.590
		pass(4 * time.Second)
		expect(t, grep(l.take(), "haproxy2 add"), "13.203 haproxy2 add 192.168.60.78") // 9.590 + 3 + 157/256
		a.leave()
		b.leave()
	})
}

// lowerInOffice is two nodes that do not preempt: the master is the one of lower priority, and the other came later.
func lowerInOffice(t *testing.T) (higher, lower *node) {
	t.Helper()
	l := newLAN()
	stays := func(p uint8) spec.Local { x := vi1(p); x.Preempt = false; return x }
	lower = l.join(t, "haproxy2", "192.168.60.128/24")
	lower.start(t, stays(99))
	pass(5 * time.Second)
	higher = l.join(t, "haproxy", "192.168.60.22/24")
	higher.start(t, stays(105))
	pass(time.Minute)
	return higher, lower
}

func TestNopreempt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := lowerInOffice(t)
		expect(t, a.print(), "haproxy: VI_1 backup [] (started)")
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (no advert for 3.61328125s)")
		b.leave()
		pass(time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (master 192.168.60.128 resigned)")
		a.leave()
	})
}

// A backup that leaves a master of lower priority in office takes over from it because it is silent, and says so.
func TestNopreemptNodeLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := lowerInOffice(t)
		b.die()
		pass(5 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		a.leave()
		b.leave()
	})
}

// TestSplitHeals: two masters find each other. The better one answers and announces at once, the other gives up.
func TestSplitHeals(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		a.die()
		pass(20 * time.Second)
		b := l.join(t, "haproxy2", "192.168.60.128/24")
		b.start(t, vi1(99))
		pass(20*time.Second + 300*time.Millisecond)
		l.take()
		l.mu.Lock()
		l.nodes = append(l.nodes, a)
		l.mu.Unlock()
		pass(400 * time.Millisecond) // in which only haproxy2 is due to advertise, or haproxy
		pass(time.Second)
		expect(t, b.print(), "haproxy2: VI_1 backup [] (192.168.60.22 has priority 105)")
		if j := l.take(); strings.Contains(j, "haproxy remove") || !strings.Contains(j, "haproxy2 remove 192.168.60.78") {
			t.Errorf("journal\n%s", j)
		}
		a.leave()
		b.leave()
	})
}

// TestInsists: the answer to a rival of lower priority comes at once and does not wait for the next turn.
func TestInsists(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		pass(20 * time.Second)
		l.take()
		rival := l.join(t, "rival", "192.168.60.200/24")
		w, _ := rival.Listen(nic.Port{Index: 2, Source: netip.MustParseAddr("192.168.60.200")})
		low := packet.Advertisement{VirtualRouterID: 53, Priority: 99, Interval: time.Second, Addresses: vi1(1).Addresses}
		for range 3 {
			if err := w.Send(low.Append(nil, v2)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		expect(t, l.take(), `20.000 rival advert 53 priority 99
20.000 haproxy advert 53 priority 105
20.000 haproxy announce 192.168.60.78
20.000 haproxy announce 192.168.60.78
20.000 haproxy announce 192.168.60.78
20.000 haproxy announce 192.168.60.78
20.000 haproxy announce 192.168.60.78
20.000 rival advert 53 priority 99
20.000 haproxy advert 53 priority 105
20.000 rival advert 53 priority 99
20.000 haproxy advert 53 priority 105`)
		a.leave()
		rival.leave()
	})
}

func TestTrackerFault(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		tracked := vi1(105)
		tracked.Trackers = []spec.Check{{Name: "router", Address: "10.99.0.22:7402"}}
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, tracked)
		pass(10 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 fault [] (tracker router has not answered yet)")
		a.watch.turn("router", true, "")
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		l.take()
		a.watch.turn("router", false, "connection refused")
		expect(t, a.print(), "haproxy: VI_1 fault [] (tracker router failed: connection refused)")
		expect(t, l.take(), "14.000 haproxy advert 53 priority 0\n14.000 haproxy remove 192.168.60.78")
		pass(time.Minute)
		expect(t, l.take(), "")
		a.watch.turn("router", true, "")
		expect(t, a.print(), "haproxy: VI_1 backup [] (the fault is over)")
		a.leave()
	})
}

func TestAddressPutBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		pass(20 * time.Second)
		l.take()
		a.change(func() { a.card.Addresses = a.card.Addresses[:1] })
		expect(t, l.take(), "20.000 haproxy add 192.168.60.78"+strings.Repeat("\n20.000 haproxy announce 192.168.60.78", 5))
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		a.leave()
	})
}

// TestAddressTakenOff: only the master holds the address, even when removing it did not work at first.
func TestAddressTakenOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, vi1(105))
		b.start(t, vi1(99))
		pass(20 * time.Second)
		l.take()
		vip := netip.MustParsePrefix("192.168.60.78/32")
		b.change(func() { b.card.Addresses = append(b.card.Addresses, vip) })
		expect(t, l.take(), "20.000 haproxy2 remove 192.168.60.78")

		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: vi1(1)}); err != nil {
			t.Fatal(err)
		}
		a.change(func() { a.refuseRemoval = errors.New("busy") })
		pass(3500 * time.Millisecond) // haproxy2 has taken over, and the lifetime has not ended
		expect(t, a.print(), "haproxy: VI_1 backup [] (192.168.60.128 has priority 99)")
		if !a.View().On(2, vip.Addr()) {
			t.Fatal("the address was removed although the kernel refused")
		}
		a.change(func() { a.refuseRemoval = nil })
		expect(t, grep(l.take(), "remove", "lapse"), "23.500 haproxy remove 192.168.60.78")
		a.leave()
		b.leave()
	})
}

func TestCard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.gone = true
		a.start(t, vi1(105))
		pass(time.Minute)
		expect(t, a.print(), "haproxy: VI_1 fault [] (no network card has an address in a subnet with [192.168.60.78])")
		a.change(func() { a.gone = false })
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")

		l.take()
		a.change(func() { a.card.Name = "lan0" })
		expect(t, l.take(), "")

		a.change(func() { a.card.MAC[5] = 99 })
		expect(t, l.take(), strings.TrimPrefix(strings.Repeat("\n64.000 haproxy announce 192.168.60.78", 5), "\n"))

		a.change(func() { a.card.Up = false })
		expect(t, a.print(), "haproxy: VI_1 fault [] (network card lan0 with 192.168.60.22/24: is down)")
		a.change(func() { a.card.Up = true })
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")

		// Pulled out and plugged in again between two looks: another index, and without the virtual address.
		l.take()
		a.change(func() {
			a.card.Index, a.card.Name = 7, "eth2"
			a.card.Addresses = a.card.Addresses[:1]
		})
		expect(t, a.print(), "haproxy: VI_1 backup [] (the fault is over)")
		expect(t, l.take(), "") // the old card has taken the address with it
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		if len(a.wires) != 1 || a.wires[0].index != 7 {
			t.Errorf("wires: %+v", a.wires)
		}
		a.leave()
	})
}

func TestKernelRefusesAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.refuse = errors.New("operation not permitted")
		a.start(t, vi1(105))
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 fault [] (operation not permitted)")
		expect(t, l.take(), "3.590 haproxy advert 53 priority 105\n3.590 haproxy advert 53 priority 0")
		a.change(func() { a.refuse = nil })
		pass(retryPause + 4*time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		a.leave()
	})
}

// TestHeldUp: the agent does not run for a while, and its timer with it. The adverts that have come meanwhile are
// enough not to take over.
func TestHeldUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, vi1(105))
		b.start(t, vi1(99))
		pass(10 * time.Second)
		l.take()
		l.mu.Lock()
		b.mute = true
		l.mu.Unlock()
		pass(time.Minute)
		expect(t, b.print(), "haproxy2: VI_1 backup [] (started)")
		expect(t, grep(l.take(), "haproxy2"), "")
		a.leave()
		b.leave()
	})
}

// The one advert that counts may lie behind many of other instances.
func TestHeldUpAmongOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		b := l.join(t, "haproxy2", "192.168.60.128/24")
		b.start(t, vi1(99))
		pass(3 * time.Second)
		b.mute = true
		l.mu.Lock()
		for range 500 {
			b.wires[0].queue = append(b.wires[0].queue, advertOf(7, 200))
		}
		b.wires[0].queue = append(b.wires[0].queue, advertOf(53, 105))
		l.mu.Unlock()
		pass(2 * time.Second)
		expect(t, b.print(), "haproxy2: VI_1 backup [] (started)")
		b.leave()
	})
}

// A master that was held up does not speak up, for whatever reason, before it has read who took over meanwhile.
func TestHeldUpMasterReadsFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		wake func(t *testing.T, b *node)
	}{
		{"card event", func(_ *testing.T, b *node) { b.change(func() { b.card.MAC[5] = 9 }) }},
		{"order", func(t *testing.T, b *node) {
			if err := b.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: vi1(98)}); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLAN()
				b := l.join(t, "haproxy2", "192.168.60.128/24")
				b.start(t, vi1(99))
				pass(10*time.Second + 300*time.Millisecond)
				l.take()
				b.mute = true
				l.mu.Lock()
				b.wires[0].queue = append(b.wires[0].queue, advertOf(53, 105))
				l.mu.Unlock()
				c.wake(t, b)
				expect(t, b.print(), "haproxy2: VI_1 backup [] (192.168.60.22 has priority 105)")
				expect(t, l.take(), "10.300 haproxy2 remove 192.168.60.78")
				b.leave()
			})
		})
	}
}

func advertOf(router, priority uint8) []byte {
	a := packet.Advertisement{VirtualRouterID: router, Priority: priority, Interval: time.Second, Addresses: vi1(1).Addresses}
	return ipv4(netip.MustParseAddr("192.168.60.22"), a.Append(nil, v2))
}

func TestUpdateKeepsTheState(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		a.start(t, vi1(105))
		b.start(t, vi1(99))
		pass(10 * time.Second)
		l.take()

		update := func(n *node, x spec.Local) {
			t.Helper()
			if err := n.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: x}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		two := vi1(110)
		two.Addresses = append(slices.Clone(two.Addresses), netip.MustParseAddr("192.168.60.79"))
		two.Trackers = []spec.Check{{Name: "router", Address: "10.99.0.22:7402"}}
		update(a, two)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78 192.168.60.79] (no advert for 3.58984375s)")
		expect(t, strings.Join(a.watch.started, ", "), "router 10.99.0.22:7402 well=true")
		expect(t, grep(l.take(), "add", "remove", "advert"), "10.000 haproxy add 192.168.60.79\n10.000 haproxy advert 53 priority 110")
		if m := b.set.Instances()[0].Mismatched; m != 1 {
			t.Errorf("%d adverts with other addresses counted, want 1", m)
		}

		one := vi1(110)
		one.Addresses = two.Addresses[1:]
		update(a, one)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.79] (no advert for 3.58984375s)")
		expect(t, grep(l.take(), "add", "remove"), "10.000 haproxy remove 192.168.60.78")

		// The other node's priority is now the better one: it takes over after the timer that runs already.
		update(b, vi1(200))
		pass(5 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 backup [] (192.168.60.128 has priority 200)")
		a.leave()
		b.leave()
	})
}

func TestTrackerReplaced(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		x := vi1(105)
		x.Trackers = []spec.Check{{Name: "router", Address: "10.99.0.22:1"}}
		a.start(t, x)
		synctest.Wait()
		a.watch.turn("router", false, "connection refused")
		x.Trackers = []spec.Check{{Name: "router", Address: "10.99.0.22:7402"}}
		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: x}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		expect(t, strings.Join(a.watch.started, ", "), "router 10.99.0.22:1 well=false, router 10.99.0.22:7402 well=false")
		expect(t, a.print(), "haproxy: VI_1 fault [] (tracker router failed: connection refused)")
		x.Trackers = nil
		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Update, Local: x}); err != nil {
			t.Fatal(err)
		}
		expect(t, a.print(), "haproxy: VI_1 backup [] (the fault is over)")
		a.leave()
	})
}

func TestDropsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		pass(time.Second)
		rival := l.join(t, "rival", "192.168.60.200/24")
		w, _ := rival.Listen(nic.Port{Index: 2, Source: netip.MustParseAddr("192.168.60.200")})
		other := packet.Advertisement{VirtualRouterID: 53, Priority: 200, Interval: time.Second}
		password := packet.Format{Version: packet.V2, Authentication: packet.SimplePassword([]byte("1111"))}
		neighbour := other
		neighbour.VirtualRouterID = 54
		for _, payload := range [][]byte{
			other.Append(nil, password), neighbour.Append(nil, v2), {0x21, 53, 200},
		} {
			if err := w.Send(payload); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		got := a.set.Instances()[0]
		var want [packet.Drops]uint64
		want[packet.DropAuthentication], want[packet.DropLength] = 1, 1
		if got.Dropped != want || got.Received != 0 {
			t.Errorf("got %v and %d received, want %v and 0", got.Dropped, got.Received, want)
		}
		a.leave()
		rival.leave()
	})
}

func TestObserveAndClean(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.card.Addresses = append(a.card.Addresses, netip.MustParsePrefix("192.168.60.78/32"))
		have, err := a.set.Observe(t.Context())
		if err != nil || !slices.Equal(have.Single, vi1(1).Addresses) {
			t.Fatalf("got %+v %v", have, err)
		}
		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Clean, Address: have.Single[0]}); err != nil {
			t.Fatal(err)
		}
		expect(t, l.take(), "0.000 haproxy remove 192.168.60.78")
		a.leave()
		if err := a.set.Apply(t.Context(), plan.Change{Kind: plan.Start, Local: vi1(105)}); !errors.Is(err, errClosed) {
			t.Errorf("start after the end: %v", err)
		}
	})
}

func TestReadPassword(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"2222": "2222", "2222\n": "2222", "2222\r\n": "2222", "12345678\r\n": "12345678", " a b ": " a b ",
		"": "refused", "\n": "refused", "123456789": "refused", "12345678\n\n": "refused",
	} {
		file := filepath.Join(t.TempDir(), "pass")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readPassword(file)
		if want == "refused" {
			if err == nil {
				t.Errorf("%q: accepted", content)
			}
		} else if err != nil || got != packet.SimplePassword([]byte(want)) {
			t.Errorf("%q: got %v %v, want %q", content, got, err, want)
		}
	}
	if got, err := readPassword(""); err != nil || got != (packet.Authentication{}) {
		t.Errorf("no file: got %v %v", got, err)
	}
	if _, err := readPassword("/nonexistent"); err == nil {
		t.Error("a missing file is accepted")
	}
}

// deafNetwork is a network that hears nothing, for measuring.
type deafNetwork struct{}

func (deafNetwork) View() nic.View                                   { return nic.View{} }
func (deafNetwork) Add(int, netip.Addr, time.Duration) (bool, error) { return true, nil }
func (deafNetwork) Remove(int, netip.Addr) (bool, error)             { return true, nil }
func (deafNetwork) Listen(nic.Port) (Wire, error)                    { return deafNetwork{}, nil }
func (deafNetwork) Tell(nic.Port, netip.Addr, []byte) error          { return nil }
func (deafNetwork) Post(string, string, []byte)                      {}
func (deafNetwork) SendTo(netip.Addr, []byte) error                  { return nil }
func (deafNetwork) Watch([]netip.Addr) error                         { return nil }
func (deafNetwork) Claims() (netip.Addr, packet.MAC, error) {
	return netip.Addr{}, packet.MAC{}, errors.New("deaf")
}
func (deafNetwork) Asleep() time.Duration                            { return 0 }
func (deafNetwork) Beat(uint8, bool, time.Duration)                  {}
func (deafNetwork) Hold(uint8, bool, int, netip.Addr, time.Duration) {}
func (deafNetwork) Release(uint8, bool, int, netip.Addr)             {}
func (deafNetwork) Wear(nic.Port, string, packet.MAC) (int, error)   { return 1, nil }
func (deafNetwork) Switch(int, bool) error                           { return nil }
func (deafNetwork) Doff(int) error                                   { return nil }
func (deafNetwork) Via(int) error                                    { return nil }
func (deafNetwork) AddRoute(nic.Route) (bool, error)                 { return true, nil }
func (deafNetwork) RemoveRoute(nic.Route) (bool, error)              { return true, nil }
func (deafNetwork) HoldRoute(uint8, bool, nic.Route, time.Duration)  {}
func (deafNetwork) ReleaseRoute(uint8, bool, nic.Route)              {}
func (deafNetwork) Wait() error                                      { return errors.New("deaf") }
func (deafNetwork) Receive([]byte) (int, error)                      { return 0, nil }
func (deafNetwork) Send([]byte) error                                { return nil }
func (deafNetwork) Announce([]byte) error                            { return nil }
func (deafNetwork) Close() error                                     { return nil }

func TestSteadyStateDoesNotAllocate(t *testing.T) {
	i := newInstance(deafNetwork{}, deafNetwork{}, nil, zap.NewNop(), func() {}, func(spec.Local, plan.Transition) {}, order{local: vi1(105), keys: []parley.Key{{}}})
	if err := i.settle(nic.Port{Index: 2}); err != nil {
		t.Fatal(err)
	}
	i.step(fsm.Event{Kind: fsm.Startup}, because("started"))
	i.step(fsm.Event{Kind: fsm.Timer}, because("alone"))
	before := i.counters.sent.Load()
	n := testing.AllocsPerRun(100, func() {
		i.due = time.Now()
		i.timeout()
	})
	if sent := i.counters.sent.Load() - before; n != 0 || sent != 101 {
		t.Errorf("%v allocations per advert, %d adverts", n, sent)
	}
	// A backup that hears its master, and a rival that is not better.
	i.step(fsm.Event{Kind: fsm.HeldUp}, because("test"))
	for _, priority := range []uint8{110, 100} {
		advert := packet.Advertisement{VirtualRouterID: 53, Priority: priority, Interval: time.Second, Addresses: vi1(1).Addresses}
		datagram := ipv4(netip.MustParseAddr("192.168.60.1"), advert.Append(nil, v2))
		before := i.counters.received.Load()
		n := testing.AllocsPerRun(100, func() { i.receive(datagram) })
		if received := i.counters.received.Load() - before; n != 0 || received != 101 {
			t.Errorf("%v allocations per advert of priority %d, %d adverts", n, priority, received)
		}
	}
	i.hangUp()
	i.goroutine.Wait()
}

// TestWeights: a tracker with a weight moves the address by the priorities, and without ceasing to stand for election.
func TestWeights(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		weighted := func(p uint8, weight int) spec.Local {
			x := vi1(p)
			x.Trackers = []spec.Check{{Name: "router", Weight: weight}}
			return x
		}
		a.start(t, weighted(105, -7))
		b.start(t, weighted(90, 9))
		pass(time.Minute)
		if l.take() != "" {
			t.Error("an instance stood for election before its tracker had answered")
		}
		a.watch.turn("router", true, "")
		b.watch.turn("router", true, "")
		pass(time.Minute)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (no advert for 3.58984375s)")
		if p := b.set.Instances()[0].Priority; p != 99 {
			t.Errorf("priority %d, want 90 + 9", p)
		}
		a.watch.turn("router", false, "gone")
		pass(4 * time.Second)
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (master 192.168.60.22 has priority 98)")
		expect(t, a.print(), "haproxy: VI_1 backup [] (192.168.60.128 has priority 99)")
		b.watch.turn("router", false, "gone")
		pass(4 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (master 192.168.60.128 has priority 90)")
		a.leave()
		b.leave()
	})
}

// TestDelays: a node that has started listens at least for its delay, and does not preempt for the other one.
func TestDelays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a, b := l.join(t, "haproxy", "192.168.60.22/24"), l.join(t, "haproxy2", "192.168.60.128/24")
		low, high := vi1(99), vi1(105)
		low.StartupDelay = 20 * time.Second
		high.PreemptDelay = time.Minute
		b.start(t, low)
		pass(19 * time.Second)
		expect(t, b.print(), "haproxy2: VI_1 backup [] (started)")
		pass(2 * time.Second)
		expect(t, b.print(), "haproxy2: VI_1 master [192.168.60.78] (no advert for 3.61328125s)")
		a.start(t, high)
		pass(59 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 backup [] (started)")
		pass(6 * time.Second)
		expect(t, a.print(), "haproxy: VI_1 master [192.168.60.78] (master 192.168.60.128 has priority 99)")
		a.leave()
		b.leave()
	})
}

// TestForeignClaim: another machine says to have the address. The network is told again whose it is, and not in step with
// one who says it without end.
func TestForeignClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		pass(20 * time.Second)
		l.take()
		l.mu.Lock()
		w := a.wires[0]
		l.mu.Unlock()
		if len(w.watched) != 1 {
			t.Errorf("watched: %v", w.watched)
		}
		vip := vi1(1).Addresses[0]
		if since := time.Since(a.set.Instances()[0].History[1].At); since < announcePause {
			t.Fatalf("master for %v", since)
		}
		for range 50 {
			w.claims <- claim{vip, packet.MAC{2, 0, 0, 0, 0, 9}}
			pass(10 * time.Millisecond)
		}
		w.claims <- claim{vip, a.card.MAC}                                                    // our own
		w.claims <- claim{netip.MustParseAddr("192.168.60.99"), packet.MAC{2, 0, 0, 0, 0, 9}} // not ours
		pass(3 * time.Second)
		if n := strings.Count(l.take(), "announce"); n != announceCopies {
			t.Errorf("%d announcements, want %d", n, announceCopies)
		}
		if i := a.set.Instances()[0]; i.Claims != 50 || i.State != fsm.Master {
			t.Errorf("%d claims, %v", i.Claims, i.State)
		}
		a.leave()
	})
}

// TestClaimOfAnotherMaster: two that start at the same time are master both for a moment. That the other one says to have
// the address then is no foreign machine.
func TestClaimOfAnotherMaster(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLAN()
		a := l.join(t, "haproxy", "192.168.60.22/24")
		a.start(t, vi1(105))
		for a.set.Instances()[0].State != fsm.Master {
			pass(10 * time.Millisecond)
		}
		l.mu.Lock()
		w := a.wires[0]
		l.mu.Unlock()
		for range announceCopies {
			w.claims <- claim{vi1(1).Addresses[0], packet.MAC{2, 0, 0, 0, 0, 9}}
		}
		pass(10 * time.Millisecond)
		if got := a.set.Instances()[0].Claims; got != 0 {
			t.Errorf("%d claims", got)
		}
		a.leave()
	})
}
